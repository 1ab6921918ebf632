"""Small Whisper models in CTranslate2's format, made without a download.

`parrot` needs only numpy. Its model says the same text whatever it hears, at the cost of a real one
of its size: for faults, memory and benchmarks. `tests/whisper.py` trains one that really hears.
"""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import ctranslate2
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

TEXT: Final = " The quick brown fox jumps over the lazy dog."
UNUSED: Final = "<unused>"
TIMESTAMPS: Final = 1501
MELS: Final = 80
POSITIONS: Final = 448


class Shape(NamedTuple):
    """The sizes of a model."""

    width: int = 64
    layers: int = 2
    heads: int = 2
    unused: int = 1  # tokens that stand for nothing


SMALL: Final = Shape()
TINY: Final = Shape(384, 4, 6, unused=49_600)
"""What OpenAI's `tiny` has, 51 865 tokens among them to within a few."""


def tokenizer(corpus: Iterable[str], languages: Sequence[str], unused: int = 1) -> Tokenizer:
    """Return a byte-level BPE as Whisper has it, without the times, which the vocabulary adds."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(corpus, trainer)
    special = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{language}|>" for language in languages),
        *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"),
        *("<|nospeech|>", "<|notimestamps|>"),
    ]
    made.add_tokens([f"{UNUSED}{index or ''}" for index in range(unused)])
    made.add_special_tokens([AddedToken(token, special=True) for token in special])
    return made


def vocabulary(of: Tokenizer) -> list[str]:
    """Return all tokens in the order of their ids, those of times too.

    CTranslate2 takes a model for multilingual if one of them is empty, as in OpenAI's vocabulary.
    """
    tokens = [of.id_to_token(index) for index in range(of.get_vocab_size())]
    tokens[tokens.index(UNUSED)] = ""
    return [*tokens, *(f"<|{index * 0.02:.2f}|>" for index in range(TIMESTAMPS))]


def parrot(
    folder: Path,
    text: str = TEXT,
    *,
    shape: Shape = SMALL,
    languages: Sequence[str] = ("en", "de"),
    end_s: float = 2.0,
    is_sure: bool = True,
    seed: int = 0,
) -> Path:
    """Write a model that says `text` from 0 to `end_s`, and return its folder.

    Its weights are random; what it says next hangs on the position alone, by way of the last
    projection. With `is_sure` false nothing is likely: random tokens that fall back to the end.
    """
    words = tokenizer([text], languages, shape.unused)
    begin = words.token_to_id("<|notimestamps|>") + 1
    said = [
        begin,
        *words.encode(text, add_special_tokens=False).ids,
        begin + round(end_s / 0.02),
        words.token_to_id("<|endoftext|>"),
    ]
    tokens = vocabulary(words)
    spec = ctranslate2.specs.WhisperSpec(shape.layers, shape.heads, shape.layers, shape.heads)
    rng = np.random.default_rng(seed)
    _fill(spec, shape, len(tokens), rng)
    position = spec.decoder.position_encodings.encodings
    projection = 0.05 * rng.standard_normal((len(tokens), shape.width))
    if is_sure:
        # Three tokens come before: start, language, task. The last of them sees the first's place.
        for place, token in enumerate(said, start=2):
            projection[token] += 3.0 * position[place] / np.linalg.norm(position[place])
    spec.decoder.projection.weight = projection.astype(np.float32)
    heads = product(range(shape.layers // 2, shape.layers), range(shape.heads))
    save(spec, folder, words, languages, heads)
    return folder


def save(
    spec: Any,
    folder: Path,
    words: Tokenizer,
    languages: Sequence[str],
    heads: Iterable[tuple[int, int]],
) -> None:
    """Write a model as CTranslate2's converter does, and what faster-whisper reads beside it.

    `heads` are those of the decoder, by layer, that look at the word they say.
    """
    spec.register_vocabulary(vocabulary(words))
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = [words.token_to_id("<|endoftext|>")]
    spec.config.lang_ids = [words.token_to_id(f"<|{language}|>") for language in languages]
    spec.config.alignment_heads = list(heads)
    spec.validate()
    spec.optimize()
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    words.save(str(folder / "tokenizer.json"))
    config = {"feature_size": MELS, "sampling_rate": 16_000, "hop_length": 160, "n_fft": 400}
    (folder / "preprocessor_config.json").write_text(json.dumps({**config, "chunk_length": 30}))


def _fill(spec: Any, shape: Shape, tokens: int, rng: np.random.Generator) -> None:
    width = shape.width

    def normal(*size: int, scale: float = 0.02) -> Any:
        return (scale * rng.standard_normal(size)).astype(np.float32)

    def linear(into: Any, rows: int, columns: int) -> None:
        into.weight = normal(rows, columns)
        into.bias = np.zeros(rows, dtype=np.float32)

    def norm(into: Any) -> None:
        into.gamma = np.ones(width, dtype=np.float32)
        into.beta = np.zeros(width, dtype=np.float32)

    def attention(into: Any, *, is_self: bool) -> None:
        norm(into.layer_norm)
        sizes = (3 * width, width) if is_self else (width, 2 * width, width)
        for one, rows in zip(into.linear, sizes, strict=True):
            linear(one, rows, width)

    def feed_forward(into: Any) -> None:
        norm(into.layer_norm)
        linear(into.linear_0, 4 * width, width)
        linear(into.linear_1, width, 4 * width)

    encoder, decoder = spec.encoder, spec.decoder
    for conv, channels in ((encoder.conv1, MELS), (encoder.conv2, width)):
        conv.weight = normal(width, channels, 3, scale=0.1)
        conv.bias = np.zeros(width, dtype=np.float32)
    encoder.position_encodings.encodings = normal(1500, width)
    decoder.position_encodings.encodings = normal(POSITIONS, width, scale=1.0)
    decoder.embeddings.weight = normal(tokens, width)
    norm(encoder.layer_norm)
    norm(decoder.layer_norm)
    for layer in encoder.layer:
        attention(layer.self_attention, is_self=True)
        feed_forward(layer.ffn)
    for layer in decoder.layer:
        attention(layer.self_attention, is_self=True)
        attention(layer.attention, is_self=False)
        feed_forward(layer.ffn)
