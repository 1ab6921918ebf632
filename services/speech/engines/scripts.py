"""Which language a text is in, as far as its script tells."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class _Script:
    """A script and its languages.

    Attributes:
        letters: ranges of its characters, for a regular expression.
        languages: primary tags of the languages written in it, the likeliest first.
        marks: letters that only one of them has.
        shortest: how many letters in a row make a word, not a symbol such as π.
    """

    letters: str
    languages: tuple[str, ...]
    marks: tuple[tuple[str, str], ...] = ()
    shortest: int = 2


_SCRIPTS: Final = {
    "han": _Script(
        "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af", ("cmn", "yue", "ja"), (), 1
    ),
    "kana": _Script("\u3040-\u30ff", ("ja",), (), 1),
    "hangul": _Script("\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3", ("ko",), (), 1),
    "cyrillic": _Script(
        "\u0400-\u052f",
        ("ru", "uk", "be", "bg", "mk", "sr", "kk", "ky", "tt", "ba", "cv", "nog"),
        (("be", "ўЎ"), ("uk", "їЇєЄґҐіІ"), ("mk", "ѓЃќЌѕЅ"), ("sr", "ђЂћЋџЏљЉњЊјЈ")),
    ),
    "arabic": _Script(
        "\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufefc",
        ("ar", "fa", "ur", "sd", "ug"),
        (("ur", "ٹڈڑےں"), ("fa", "پچژگکی")),
    ),
    "greek": _Script("\u0370-\u03ff\u1f00-\u1fff", ("el", "grc")),
    "hebrew": _Script("\u0590-\u05ff\ufb1d-\ufb4f", ("he",)),
    "armenian": _Script("\u0530-\u058f", ("hy", "hyw")),
    "georgian": _Script("\u10a0-\u10ff", ("ka",)),
    "ethiopic": _Script("\u1200-\u139f", ("am", "ti")),
    "thai": _Script("\u0e00-\u0e7f", ("th",)),
    "myanmar": _Script("\u1000-\u109f", ("my", "shn")),
    "devanagari": _Script("\u0900-\u097f", ("hi", "mr", "ne", "kok", "sd")),
    "bengali": _Script("\u0980-\u09ff", ("bn", "as", "bpy")),
    "gurmukhi": _Script("\u0a00-\u0a7f", ("pa",)),
    "gujarati": _Script("\u0a80-\u0aff", ("gu",)),
    "oriya": _Script("\u0b00-\u0b7f", ("or",)),
    "tamil": _Script("\u0b80-\u0bff", ("ta",)),
    "telugu": _Script("\u0c00-\u0c7f", ("te",)),
    "kannada": _Script("\u0c80-\u0cff", ("kn",)),
    "malayalam": _Script("\u0d00-\u0d7f", ("ml",)),
    "sinhala": _Script("\u0d80-\u0dff", ("si",)),
}
_WORD: Final = re.compile(
    "|".join(
        f"(?P<{name}>[{script.letters}]{{{script.shortest},}})" for name, script in _SCRIPTS.items()
    )
)
_FULL_WIDTH: Final = re.compile("[\uff01-\uffef]+")


def language_by_script(text: str, own: str) -> str | None:
    """Return the tag of the language that `text` is in; None if that can be `own`, a tag.

    One word in another script decides, since voices of other scripts can read Latin letters, but
    Latin ones spell others letter by letter. Kana among Chinese characters is Japanese, unless it
    is less than a tenth of them.
    """
    found: Counter[str] = Counter()
    for word in _WORD.finditer(text):
        found[word.lastgroup or ""] += len(word.group())
    if not found:
        return None
    found["kana"] *= 10  # but a word quoted in Chinese
    best = found.most_common(1)[0][0]
    script = _SCRIPTS[best]
    if own.partition("-")[0] in script.languages:
        return None
    marked = (tag for tag, letters in script.marks if any(letter in text for letter in letters))
    return next(marked, script.languages[0])


def plain_width(text: str) -> str:
    """Return `text` with full-width and half-width forms as the usual ones: １２ as 12."""  # noqa: RUF002
    return _FULL_WIDTH.sub(lambda run: unicodedata.normalize("NFKC", run.group()), text)
