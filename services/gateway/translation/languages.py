"""The languages that can be named, by ISO 639-1 code where there is one, with English names."""

from __future__ import annotations

from typing import Final

from services.errors import InvalidRequestError

AUTO: Final = "auto"

_SHOWN_CHARACTERS: Final = 16

NAMES: Final[dict[str, str]] = {
    "af": "Afrikaans",
    "sq": "Albanian",
    "am": "Amharic",
    "ar": "Arabic",
    "hy": "Armenian",
    "as": "Assamese",
    "az": "Azerbaijani",
    "eu": "Basque",
    "be": "Belarusian",
    "bn": "Bengali",
    "bs": "Bosnian",
    "pt-BR": "Brazilian Portuguese",
    "br": "Breton",
    "bg": "Bulgarian",
    "my": "Burmese",
    "yue": "Cantonese",
    "ca": "Catalan",
    "zh": "Chinese",
    "zh-Hans": "Simplified Chinese",
    "zh-Hant": "Traditional Chinese",
    "hr": "Croatian",
    "cs": "Czech",
    "da": "Danish",
    "nl": "Dutch",
    "en": "English",
    "eo": "Esperanto",
    "et": "Estonian",
    "fo": "Faroese",
    "fi": "Finnish",
    "fr": "French",
    "gl": "Galician",
    "ka": "Georgian",
    "de": "German",
    "el": "Greek",
    "gu": "Gujarati",
    "ht": "Haitian Creole",
    "ha": "Hausa",
    "he": "Hebrew",
    "hi": "Hindi",
    "hu": "Hungarian",
    "is": "Icelandic",
    "ig": "Igbo",
    "id": "Indonesian",
    "ga": "Irish",
    "it": "Italian",
    "ja": "Japanese",
    "jv": "Javanese",
    "kn": "Kannada",
    "kk": "Kazakh",
    "km": "Khmer",
    "ko": "Korean",
    "ku": "Kurdish",
    "ky": "Kyrgyz",
    "lo": "Lao",
    "la": "Latin",
    "lv": "Latvian",
    "ln": "Lingala",
    "lt": "Lithuanian",
    "lb": "Luxembourgish",
    "mk": "Macedonian",
    "mg": "Malagasy",
    "ms": "Malay",
    "ml": "Malayalam",
    "mt": "Maltese",
    "mi": "Maori",
    "mr": "Marathi",
    "mn": "Mongolian",
    "ne": "Nepali",
    "nb": "Norwegian Bokmål",
    "nn": "Norwegian Nynorsk",
    "oc": "Occitan",
    "ps": "Pashto",
    "fa": "Persian",
    "pl": "Polish",
    "pt": "Portuguese",
    "pa": "Punjabi",
    "ro": "Romanian",
    "ru": "Russian",
    "gd": "Scottish Gaelic",
    "sr": "Serbian",
    "sn": "Shona",
    "sd": "Sindhi",
    "si": "Sinhala",
    "sk": "Slovak",
    "sl": "Slovenian",
    "so": "Somali",
    "es": "Spanish",
    "su": "Sundanese",
    "sw": "Swahili",
    "sv": "Swedish",
    "tl": "Tagalog",
    "tg": "Tajik",
    "ta": "Tamil",
    "tt": "Tatar",
    "te": "Telugu",
    "th": "Thai",
    "bo": "Tibetan",
    "tr": "Turkish",
    "tk": "Turkmen",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "ug": "Uyghur",
    "uz": "Uzbek",
    "vi": "Vietnamese",
    "cy": "Welsh",
    "xh": "Xhosa",
    "yi": "Yiddish",
    "yo": "Yoruba",
    "zu": "Zulu",
}
"""Code to name, sorted by name. A code with a part behind `-` is a way of writing another."""

# What others call them: LibreTranslate's zt and pb, codes that ISO 639 or BCP 47 gave up, Whisper.
_ALIASES: Final = {
    "zt": "zh-Hant",
    "zh-tw": "zh-Hant",
    "zh-hk": "zh-Hant",
    "zh-cn": "zh-Hans",
    "pb": "pt-BR",
    "no": "nb",
    "iw": "he",
    "in": "id",
    "fil": "tl",
    "jw": "jv",
}
_BY_LOWER: Final = {code.lower(): code for code in NAMES} | _ALIASES

DETECTABLE: Final = {name: code for code, name in NAMES.items() if "-" not in code}
"""Name to code of what a text is told to be; ways of writing are not told apart."""


def known(code: str, param: str) -> str:
    """Return the code of the table that `code` means: `de` for `DE` and `de-AT`.

    Raises:
        InvalidRequestError: none (`unsupported_language`).
    """
    lower = code.strip().lower().replace("_", "-")
    found = _BY_LOWER.get(lower) or _BY_LOWER.get(lower.partition("-")[0])
    if found is None:
        raise InvalidRequestError(
            f"{param} {code[:_SHOWN_CHARACTERS]!r} is no language known here; see GET /languages",
            param=param,
            code="unsupported_language",
        )
    return found


def spoken(code: str) -> str:
    """Return the code without its way of writing: what an ear can tell."""
    return code.partition("-")[0]
