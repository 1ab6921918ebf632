"""Text as Kokoro's phonemes: by dictionary, or espeak-ng's."""

# ruff: noqa: RUF001 (phonemes)

from __future__ import annotations

import logging
import re
import tempfile
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Final

from services.speech.engines.kokoro.english import PUNCTUATION, English

MOST_PHONEMES: Final = 509
"""The most that the model takes at once: its context without the two at the ends, less one."""

# The same as in Kokoro's config.json: a phoneme's id is its place; a dot is nobody's.
_PLACES: Final = (
    '·;:,.!?··—…"()“” ̃ʣʥʦʨᵝꭧAI·····O·Q·ST··W·Yᵊabcdef·hijklmnopqrstuvwxyzɑɐɒæ··βɔɕç·ɖðʤə·ɚɛɜ··ɟ·'
    "ɡ······ɥ·ɨɪʝ······ɯɰŋɳɲɴø·ɸθœ··ɹ·ɾɻ·ʁɽʂʃʈʧ·ʊʋ·ʌɣɤ·χʎ···ʒʔ·······ˈˌː···ʰ·ʲ····↓·→↗↘···ᵻ"
)
_VOCABULARY: Final = {phoneme: at for at, phoneme in enumerate(_PLACES) if phoneme != "·"}
_BY_ESPEAK: Final = {"es": "es", "fr": "fr-fr", "hi": "hi", "it": "it", "pt": "pt-br"}
"""The languages that Kokoro's phonemes are espeak-ng's in, and what espeak-ng calls them."""

_EASTERN: Final = {"zh": ("jieba", "pypinyin", "cn2an"), "ja": ("fugashi", "unidic_lite")}
"""The languages that misaki itself reads, and what it needs for them."""

# What misaki makes of espeak-ng's phonemes, the longest first; ^ ties two letters to one sound.
_IN_KOKOROS: Final = (
    *(("a^ɪ", "I"), ("a^ʊ", "W"), ("d^z", "ʣ"), ("d^ʒ", "ʤ"), ("e^ɪ", "A"), ("o^ʊ", "O")),
    *(("ə^ʊ", "Q"), ("s^s", "S"), ("t^s", "ʦ"), ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y"), ("^", ""), ("-", "")),
)
_ENGLISH: Final = (
    *(("ʔˌn\u0329", "ʔn"), ("ʔn\u0329", "ʔn"), ("a^ɪ", "I"), ("a^ʊ", "W"), ("d^ʒ", "ʤ")),
    *(("e^ɪ", "A"), ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y"), ("ə^l", "ᵊl"), ("ʲo", "jo"), ("ʲə", "jə")),
    *(("ʲ", ""), ("ɚ", "əɹ"), ("r", "ɹ"), ("x", "k"), ("ç", "k"), ("ɐ", "ə"), ("ɬ", "l")),
    ("\u0303", ""),
)
_AMERICAN: Final = (("o^ʊ", "O"), ("ɜː", "ɜɹ"), ("ɜɹɹ", "ɜɹ"), ("ɪə", "iə"), ("ː", ""))
_BRITISH: Final = (("e^ə", "ɛː"), ("iə", "ɪə"), ("ə^ʊ", "Q"))
_SYLLABIC: Final = re.compile(r"(\S)\u0329")
_OTHER_LANGUAGE: Final = re.compile(r"\([a-z-]{2,}\)")  # espeak-ng's mark that it switches
_LATIN: Final = re.compile(r"([A-Za-z][A-Za-z' -]*)")
_SPACED_MARK: Final = re.compile(r"\s+(?=[.,!?;:])")
_MANY_DIGITS: Final = re.compile(r"\d{16,}")  # more than there are names for
_MARKS: Final = re.compile("([" + re.escape("".join(PUNCTUATION)) + "¡¿«»]+)")


class Phonemes:
    """Makes phonemes, in one thread."""

    def __init__(self, espeak: Callable[[str, str], str] | None) -> None:
        """Take espeak-ng's phonemes of a text in a language; None where it is not installed."""
        self._espeak = espeak
        self._eastern = {tag for tag, needs in _EASTERN.items() if all(map(find_spec, needs))}
        self._reader = cache(self._load)

    def language(self, tag: str) -> str | None:
        """Return what `of` calls the language of a tag; None if Kokoro cannot speak it here."""
        primary, _, region = tag.lower().replace("_", "-").partition("-")
        if primary == "en":
            return "en-gb" if region in ("gb", "uk") else "en-us"
        if primary == "cmn":
            primary = "zh"
        if primary in _EASTERN:
            return primary if primary in self._eastern else None
        return primary if self._espeak and primary in _BY_ESPEAK else None

    def of(self, text: str, language: str) -> str:
        """Return the phonemes of a sentence; empty if there is nothing to say."""
        text = unicodedata.normalize("NFC", text)
        said = self._reader(language)(text)
        return "".join(phoneme for phoneme in said if phoneme in _VOCABULARY).strip()

    def clear(self) -> None:
        """Free the dictionaries; they are read again when they are needed."""
        self._reader.cache_clear()

    def _load(self, language: str) -> Callable[[str], str]:
        espeak, british = self._espeak, language == "en-gb"
        if language in _EASTERN:
            return _eastern(language, self._reader("en-us"))
        if espeak is None:
            return English(british=british, unknown=None)
        if language in _BY_ESPEAK:
            return lambda text: _foreign(text, lambda part: espeak(part, _BY_ESPEAK[language]))
        return English(
            british=british, unknown=lambda word: _english(espeak(word, language), british=british)
        )


def _foreign(text: str, espeak: Callable[[str], str]) -> str:
    parts = []
    for part in _MARKS.split(text):
        if _MARKS.fullmatch(part):
            parts.append(part.replace("«", "“").replace("»", "”"))
        elif part.strip():
            said = _replaced(espeak(part), _IN_KOKOROS)
            before = " " if part[0].isspace() else ""
            parts.append(f"{before}{said}{' ' if part[-1].isspace() else ''}")
    return " ".join("".join(parts).split())


def _eastern(language: str, english: Callable[[str], str]) -> Callable[[str], str]:
    """Return a reader of Chinese or Japanese, with English words in it."""
    native = _chinese() if language == "zh" else _japanese()

    def read(text: str) -> str:
        parts = enumerate(_LATIN.split(text))
        said = " ".join(english(part) if at % 2 else native(part) for at, part in parts)
        return _SPACED_MARK.sub("", said).strip()

    return read


def _chinese() -> Callable[[str], str]:
    import jieba  # noqa: PLC0415  heavy
    from misaki.zh import ZHG2P  # noqa: PLC0415

    jieba.setLogLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:  # it would trust a cache that anyone can write
        jieba.dt.tmp_dir = folder
        jieba.initialize()
    reader = ZHG2P()
    return lambda text: reader(_MANY_DIGITS.sub(lambda run: " ".join(run[0]), text))[0]


def _japanese() -> Callable[[str], str]:
    from misaki.cutlet import Cutlet  # noqa: PLC0415  heavy

    reader = Cutlet()
    return lambda text: reader(text)[0]


def _english(said: str, *, british: bool) -> str:
    said = _replaced(said, _ENGLISH)
    said = _SYLLABIC.sub(r"ᵊ\1", said)
    said = _replaced(said, _BRITISH if british else _AMERICAN)
    return _replaced(said, (("o", "ɔ"), ("ɾ", "T"), ("ʔ", "t"), ("^", ""), ("e", "A")))


def _replaced(said: str, pairs: tuple[tuple[str, str], ...]) -> str:
    said = _OTHER_LANGUAGE.sub("", said)
    for old, new in pairs:
        said = said.replace(old, new)
    return said


def in_pieces(phonemes: str) -> list[str]:
    """Cut phonemes that are too many for the model at spaces."""
    pieces = []
    while len(phonemes) > MOST_PHONEMES:
        end = phonemes.rfind(" ", 0, MOST_PHONEMES + 1)
        end = end if end > 0 else MOST_PHONEMES
        pieces.append(phonemes[:end].strip())
        phonemes = phonemes[end:].strip()
    return [*pieces, phonemes] if phonemes else pieces


def ids_of(phonemes: str) -> list[int]:
    """Return the model's ids of phonemes."""
    return [_VOCABULARY[phoneme] for phoneme in phonemes]
