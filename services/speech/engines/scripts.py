"""Which language a text is in, as far as its script tells."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from itertools import groupby
from typing import Final

_KANA: Final = ("ja",)
_ARABIC: Final = ("ar", "fa", "ur", "sd", "ug")
# By the first word of a letter's name in Unicode: tags of the languages, the likeliest first.
_LANGUAGES: Final[dict[str, tuple[str, ...]]] = {
    "CJK": ("cmn", "yue", "ja"),
    "HIRAGANA": _KANA,
    "KATAKANA": _KANA,
    "KATAKANA-HIRAGANA": _KANA,
    "HANGUL": ("ko",),
    "CYRILLIC": ("ru", "uk", "be", "bg", "mk", "sr", "kk", "ky", "tt", "ba", "cv", "nog"),
    "ARABIC": _ARABIC,
    "ARABIC-INDIC": _ARABIC,  # digits, as the next
    "EXTENDED": _ARABIC,
    "GREEK": ("el", "grc"),
    "HEBREW": ("he",),
    "ARMENIAN": ("hy", "hyw"),
    "GEORGIAN": ("ka",),
    "ETHIOPIC": ("am", "ti"),
    "THAI": ("th",),
    "MYANMAR": ("my", "shn"),
    "DEVANAGARI": ("hi", "mr", "ne", "kok", "sd"),
    "BENGALI": ("bn", "as", "bpy"),
    "GURMUKHI": ("pa",),
    "GUJARATI": ("gu",),
    "ORIYA": ("or",),
    "TAMIL": ("ta",),
    "TELUGU": ("te",),
    "KANNADA": ("kn",),
    "MALAYALAM": ("ml",),
    "SINHALA": ("si",),
}
_SYLLABIC: Final = frozenset({("cmn", "yue", "ja"), _KANA, ("ko",)})
# Letters that only one of a script's languages has.
_MARKS: Final = {
    "ru": (("be", "ўЎ"), ("uk", "їЇєЄґҐіІ"), ("mk", "ѓЃќЌѕЅ"), ("sr", "ђЂћЋџЏљЉњЊјЈ")),
    "ar": (("ur", "ٹڈڑےں"), ("fa", "پچژگکی")),
}
_FULL_WIDTH: Final = re.compile("[\uff01-\uffef]+")


def language_by_script(text: str, own: str) -> str | None:
    """Return the tag of the language that `text` is in; None if that can be `own`, a tag.

    One word in another script decides, since voices of other scripts can read Latin letters, but
    Latin ones spell others letter by letter. Kana among Chinese characters is Japanese, unless it
    is less than a tenth of them.
    """
    if text.isascii():
        return None
    found: Counter[tuple[str, ...]] = Counter()
    for languages, run in groupby(text, _languages):
        length = len([*run])
        # One letter is a word only where letters are syllables: π is a symbol.
        if languages and (length > 1 or languages in _SYLLABIC):
            found[languages] += length
    if not found:
        return None
    found[_KANA] *= 10  # but a word quoted in Chinese
    best = found.most_common(1)[0][0]
    if own.partition("-")[0] in best:
        return None
    marked = (tag for tag, marks in _MARKS.get(best[0], ()) if any(one in text for one in marks))
    return next(marked, best[0])


def _languages(letter: str) -> tuple[str, ...]:
    if letter.isascii():
        return ()
    return _LANGUAGES.get(unicodedata.name(letter, "").partition(" ")[0], ())


def plain_width(text: str) -> str:
    """Return `text` with full-width and half-width forms as the usual ones: １２ as 12."""  # noqa: RUF002
    return _FULL_WIDTH.sub(lambda run: unicodedata.normalize("NFKC", run.group()), text)
