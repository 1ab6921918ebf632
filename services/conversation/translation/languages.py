"""The languages that can be translated: those of transcription, and some more."""

from __future__ import annotations

from typing import Final

from services.errors import shown
from services.languages import NAMES as HEARD
from services.languages import tag_of
from services.openai.reading import invalid

AUTO: Final = "auto"

_ALSO_WRITTEN: Final = {
    "eo": "Esperanto", "ga": "Irish", "gd": "Scottish Gaelic", "ig": "Igbo", "jv": "Javanese",
    "ku": "Kurdish", "ky": "Kyrgyz", "my": "Burmese", "nb": "Norwegian Bokm\u00e5l",
    "nn": "Norwegian Nynorsk", "pt-BR": "Brazilian Portuguese", "ug": "Uyghur", "xh": "Xhosa",
    "zh-Hans": "Simplified Chinese", "zh-Hant": "Traditional Chinese", "zu": "Zulu",
}  # fmt: skip
_OUTDATED: Final = {"jw"}

NAMES: Final = {
    code: name
    for code, name in sorted({**HEARD, **_ALSO_WRITTEN}.items(), key=lambda pair: pair[1])
    if code not in _OUTDATED
}
"""Name by code, sorted by name. A code with a `-` is a variant of another in writing."""

# Other codes: LibreTranslate's zt and pb, those that ISO 639 withdrew, Whisper's jw.
_ALIASES: Final = {
    "zt": "zh-Hant", "zh-tw": "zh-Hant", "zh-hk": "zh-Hant", "zh-cn": "zh-Hans", "pb": "pt-BR",
    "iw": "he", "in": "id", "fil": "tl", "jw": "jv",
}  # fmt: skip
_SPOKEN: Final = {"jv": "jw", "nb": "no"}
_BY_LOWER: Final = {code.lower(): code for code in NAMES} | _ALIASES

DETECTABLE: Final = {name: code for code, name in NAMES.items() if "-" not in code}
"""Code by name of the languages that are detected; variants are not distinguished."""


def known_code(code: str, param: str) -> str:
    """Return the code in `NAMES` for `code`: `de` for `DE`, `de-AT` and `German`.

    InvalidRequestError (`unsupported_language`) if there is none.
    """
    found = known_or_none(code)
    if found is None:
        why = f"{shown(code)} is not a known language; see GET /languages"
        raise invalid(param, why, "unsupported_language")
    return found


def known_or_none(code: str | None) -> str | None:
    """Return the same as `known_code`, but None for an unknown or missing code."""
    lower = (tag_of(code) or "").lower()
    return _BY_LOWER.get(lower) or _BY_LOWER.get(lower.partition("-")[0])


def spoken(code: str) -> str:
    """Return Whisper's code of a language, which has no variants."""
    return _SPOKEN.get(code, code.partition("-")[0])
