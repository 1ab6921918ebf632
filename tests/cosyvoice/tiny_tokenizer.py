"""A byte-level tokenizer as large as Qwen2's, so that special tokens have the same ids."""

from __future__ import annotations

import json
from string import ascii_lowercase
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

ENTRIES: Final = 151643
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # real ones follow: 151646 and on


def write(folder: Path) -> None:
    """Write vocab.json, merges.txt and tokenizer_config.json.

    Text becomes tokens about as with the real one: one for most Chinese characters, half as many as
    letters for English.
    """
    letters = _letters()
    pairs = [(a, b) for a in (letters[ord(" ")], *ascii_lowercase) for b in ascii_lowercase]
    # The UTF-8 of U+4000 to U+9FFF: two bytes, then the third.
    heads = [(letters[a], letters[b]) for a in range(0xE4, 0xEA) for b in range(0x80, 0xC0)]
    whole = [(a + b, letters[c]) for a, b in heads for c in range(0x80, 0xC0)]
    merges = [*pairs, *heads, *whole]
    words = [*letters, *(a + b for a, b in merges)]
    words += [f"<unused{number}>" for number in range(ENTRIES - len(words))]
    vocabulary = {word: number for number, word in enumerate(words)}
    added = {
        str(ENTRIES + number): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for number, token in enumerate(_SPECIAL)
    }
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(_SPECIAL[1:]),
        "bos_token": None,
        "eos_token": _SPECIAL[0],
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": _SPECIAL[0],
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    folder.mkdir(parents=True)
    lines = "".join(f"{a} {b}\n" for a, b in merges)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + lines, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _letters() -> list[str]:
    """Return the letter that byte-level tokenizers write for each byte, as GPT-2 set them."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]
