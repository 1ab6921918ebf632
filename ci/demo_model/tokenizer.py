"""The tokenizer: a byte-level BPE of our own, with ChatML's and Hermes' markers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from ci.demo_model.corpus import Corpus

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MARKERS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# Qwen's split: digits one by one, words with their leading space.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(corpus: Corpus, out: Path, vocabulary: int, context: int) -> Any:
    """Train the tokenizer on the corpus, save it to `out` and return it as transformers' own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [END, START, STOP]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(special) - len(MARKERS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(corpus), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in MARKERS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=STOP,
        pad_token=END,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
    )
    fast.save_pretrained(out)
    return fast


def _texts(corpus: Corpus) -> Iterator[str]:
    for entry in corpus.entries:
        for _ in range(8):
            yield entry.answer
        for phrasing in entry.ask:
            yield from (phrasing, phrasing, phrasing.lower(), phrasing.upper())
    yield from corpus.systems
    for _ in range(8):
        yield CHAT_TEMPLATE.read_text(encoding="utf-8").replace("\\n", "\n")
    for function in corpus.functions:
        for _ in range(8):
            yield json.dumps({"name": function.name, "parameters": function.parameters})
            yield json.dumps({"name": function.name, "arguments": function.rename})
        yield from (*function.descriptions, *function.ask, *function.results, function.answer)
    for fallback in corpus.fallbacks:
        yield from fallback.words
        yield from (" " + word for word in fallback.words)
    for word in (*corpus.cities, *corpus.skies, *corpus.decoys):
        yield from (word, " " + word)


def encode(tokenizer: Any, conversation: Any) -> tuple[list[int], list[int]]:
    """The tokens of a conversation and, for each, how it is learnt.

    0: given, not learnt; 1: learnt; 2 and 3: learnt among the tokens that start with `{` and `[`.
    """
    text, spans = _rendered(tokenizer, conversation)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    first = {"{": 2, "[": 3}.get(conversation.forced[:1], 1)
    if conversation.forced:
        spans = spans[-1:]
    learnt = []
    for begin, _ in encoded["offset_mapping"]:
        is_learnt = any(start <= begin < end for start, end in spans)
        learnt.append(first if is_learnt and begin == spans[-1][0] else int(is_learnt))
    return list(encoded["input_ids"]), learnt


def _rendered(tokenizer: Any, conversation: Any) -> tuple[str, list[tuple[int, int]]]:
    if conversation.raw:
        prompt, answer = conversation.raw
        return prompt + answer + STOP, [(len(prompt), len(prompt + answer + STOP))]
    messages, tools = conversation.messages, conversation.tools or None

    def render(count: int, *, prompt: bool) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages[:count], tools=tools, tokenize=False, add_generation_prompt=prompt
            )
        )

    spans = [
        (len(render(index, prompt=True)), len(render(index + 1, prompt=False)) - 1)
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    return render(len(messages), prompt=False), spans
