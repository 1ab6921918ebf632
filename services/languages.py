"""Language codes as Whisper uses them: ISO 639-1, or 639-3 where there is none; and spaces."""

from __future__ import annotations

import re
from typing import Final

NAMES: Final[dict[str, str]] = {
    "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "as": "Assamese", "az": "Azerbaijani",
    "ba": "Bashkir", "be": "Belarusian", "bg": "Bulgarian", "bn": "Bengali", "bo": "Tibetan",
    "br": "Breton", "bs": "Bosnian", "ca": "Catalan", "cs": "Czech", "cy": "Welsh",
    "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish",
    "et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish", "fo": "Faroese",
    "fr": "French", "gl": "Galician", "gu": "Gujarati", "ha": "Hausa", "haw": "Hawaiian",
    "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "ht": "Haitian Creole", "hu": "Hungarian",
    "hy": "Armenian", "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese",
    "jw": "Javanese", "ka": "Georgian", "kk": "Kazakh", "km": "Khmer", "kn": "Kannada",
    "ko": "Korean", "la": "Latin", "lb": "Luxembourgish", "ln": "Lingala", "lo": "Lao",
    "lt": "Lithuanian", "lv": "Latvian", "mg": "Malagasy", "mi": "Maori", "mk": "Macedonian",
    "ml": "Malayalam", "mn": "Mongolian", "mr": "Marathi", "ms": "Malay", "mt": "Maltese",
    "my": "Myanmar", "ne": "Nepali", "nl": "Dutch", "nn": "Nynorsk", "no": "Norwegian",
    "oc": "Occitan", "pa": "Punjabi", "pl": "Polish", "ps": "Pashto", "pt": "Portuguese",
    "ro": "Romanian", "ru": "Russian", "sa": "Sanskrit", "sd": "Sindhi", "si": "Sinhala",
    "sk": "Slovak", "sl": "Slovenian", "sn": "Shona", "so": "Somali", "sq": "Albanian",
    "sr": "Serbian", "su": "Sundanese", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil",
    "te": "Telugu", "tg": "Tajik", "th": "Thai", "tk": "Turkmen", "tl": "Tagalog",
    "tr": "Turkish", "tt": "Tatar", "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek",
    "vi": "Vietnamese", "yi": "Yiddish", "yo": "Yoruba", "yue": "Cantonese", "zh": "Chinese",
}  # fmt: skip
"""The English name of each code."""

_OTHER_NAMES: Final = {
    "burmese": "my", "castilian": "es", "farsi": "fa", "flemish": "nl", "haitian": "ht",
    "mandarin": "zh", "norwegian nynorsk": "nn", "valencian": "ca",
}  # fmt: skip
_BY_NAME: Final = {name.lower(): code for code, name in NAMES.items()} | _OTHER_NAMES
_OTHER_CODES: Final = {"cmn": "zh", "fil": "tl", "in": "id", "iw": "he", "jv": "jw", "nb": "no"}
_TAG: Final = re.compile(r"[a-z]{2,8}(-[a-z0-9]{1,8})*")  # BCP 47 in outline


def tag_of(language: str | None) -> str | None:
    """Return the tag for a client's `language`: `en` for English, `en-US` for en_US.

    None for `auto` or no language. Unknown text is returned unchanged.
    """
    word = (language or "").strip().replace("_", "-")
    if word.lower() in ("", "auto"):
        return None
    return _BY_NAME.get(word.lower(), word)


def code_of(language: str) -> str | None:
    """Return the code of a tag or name, without region: `en` for `en-GB`.

    None as for `tag_of`. The code may be missing from `NAMES`. ValueError if it is neither.
    """
    tag = tag_of(language)
    if tag is None:
        return None
    if not _TAG.fullmatch(tag.lower()):
        raise ValueError("neither a tag nor a name")
    code = tag.lower().partition("-")[0]
    return _OTHER_CODES.get(code, code)


UNSPACED: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""The characters of scripts without spaces between words, for a class of a regular expression."""

_IS_UNSPACED: Final = re.compile(rf"[{UNSPACED}]")


def gap(before: str, after: str) -> str:
    """Return what to put between two pieces of text: a space, unless the script has none."""
    if not before or not after:
        return ""
    return "" if _IS_UNSPACED.match(before[-1]) or _IS_UNSPACED.match(after[0]) else " "
