"""The voices of the espeak engine: `<language>[+variant]`, and OpenAI's names for some of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from services.errors import InvalidRequestError, shown
from services.speech.engines.espeak.library import EspeakVoice
from services.speech.engines.protocol import Voice, nearest, no_voice
from services.speech.engines.scripts import language_by_script

OPENAI_VOICES: Final[dict[str, str]] = {
    # No two share pitch, timbre and accent; a test measures it. Pipecat knows only these names.
    "alloy": "en-us+f5",
    "ash": "en-us+m3",
    "ballad": "en-gb+Marco",
    "coral": "en-us+f1",
    "echo": "en-us",
    "fable": "en-gb+pablo",
    "nova": "en-us+linda",
    "onyx": "en-us+m8",
    "sage": "en-us+f2",
    "shimmer": "en-us+Annie",
    "verse": "en-us+rob",
    "marin": "en-gb+f3",
    "cedar": "en-us+m7",
}
"""OpenAI's voice names and the voice that speaks for each."""

_GAINS_DB: Final = {
    # What brings English to -21 LUFS (ITU-R BS.1770); espeak-ng's variants are up to 11 dB apart.
    "annie": -1.0,
    "f1": -1.7,
    "f2": -1.9,
    "f3": -1.1,
    "f5": -0.3,
    "linda": -3.0,
    "m3": -0.3,
    "m7": -1.1,
    "m8": 4.5,
    "marco": -6.2,
    "pablo": -3.8,
    "rob": 1.6,
}

_LISTED_VARIANTS: Final = ("", "f3", "m3")


class VoiceCatalogue:
    """Finds the espeak voice for what a request names.

    A voice is `<language>[+variant]`: a tag that espeak-ng lists, in any case (`en-us`, `pt-BR`),
    and one of its variants (`f3`, `Marco`). OpenAI's names are other names for such voices.
    """

    def __init__(self, voices: Iterable[EspeakVoice], variants: Iterable[EspeakVoice]) -> None:
        self._languages: dict[str, EspeakVoice] = {}
        self._aliases: dict[str, Voice] = {}
        by_tag: dict[str, str] = {}
        for voice in voices:
            own = voice.languages[0].lower()
            if own in self._languages:  # yue comes in two scripts, in files of different names
                own = _file_name(voice).lower()
            self._languages[own] = voice
        for own, voice in self._languages.items():
            for name in (*voice.languages, voice.name, _file_name(voice)):
                by_tag.setdefault(name.lower(), own)
        # Bare tags whose first voice in the list is not what a person means.
        by_tag.update({"en": "en-us", "zh": "cmn", "pt": "pt", "fr": "fr-fr", "no": "nb"})
        by_tag.update({own: own for own in self._languages})
        self._by_tag = by_tag
        self._variants = {_file_name(variant).lower(): variant for variant in variants}
        self._voices = [
            self._voice(own, variant) for own in self._languages for variant in _LISTED_VARIANTS
        ]
        for alias, target in OPENAI_VOICES.items():
            found = self.find(target)
            name = f"{alias} ({found.name})"
            self._aliases[alias] = replace(found, id=alias, name=name, alias_of=found.id)

    def voices(self) -> tuple[Voice, ...]:
        """Return the aliases, then every language plain, with `+f3` and with `+m3`."""
        return (*self._aliases.values(), *self._voices)

    def find(self, voice_id: str) -> Voice:
        """Return the voice called `voice_id`, or raise NotFoundError."""
        if (alias := self._aliases.get(voice_id.lower())) is not None:
            return alias
        tag, plus, variant = voice_id.partition("+")
        own = self._by_tag.get(tag.lower())
        if own is None or (plus and variant.lower() not in self._variants):
            names = [*self._aliases, *self._languages]
            if own is not None:
                names = [f"{own}+{one}" for one in self._variants]
            raise no_voice(voice_id, names, "a voice is <language>[+variant]")
        return self._voice(own, variant)

    def gain_db(self, voice: Voice) -> float:
        """Return the gain that makes a voice as loud as others."""
        _, _, variant = (voice.alias_of or voice.id).partition("+")
        return _GAINS_DB.get(variant.lower(), 0.0)

    def identifier(self, voice: Voice, language: str | None, text: str = "") -> str:
        """Return what espeak-ng calls the voice, speaking `language` if one is given.

        Otherwise it speaks its own, or that of `text` if it is written in another script.
        InvalidRequestError if there is no such language (`unsupported_language`).
        """
        own, _, variant = (voice.alias_of or voice.id).partition("+")
        if language is not None:
            own = self._language(language)
        else:
            own = self._by_tag.get(language_by_script(text, own) or own, own)
        name = self._languages[own].identifier
        return f"{name}+{variant}" if variant else name

    def _language(self, tag: str) -> str:
        wanted = tag.lower().replace("_", "-")
        own = self._by_tag.get(wanted) or self._by_tag.get(wanted.partition("-")[0])
        if own is None:
            hint = nearest(wanted, self._by_tag, "a tag such as 'en-us' is")
            raise InvalidRequestError(
                f"language {shown(tag)} is not one that espeak speaks; {hint}",
                param="language",
                code="unsupported_language",
            )
        return own

    def _voice(self, own: str, variant: str) -> Voice:
        plain = self._languages[own]
        if not variant:
            return Voice(own, plain.name, plain.languages, "male")
        found = self._variants[variant.lower()]
        return Voice(
            id=f"{own}+{_file_name(found)}",
            name=f"{plain.name}, {found.name}",
            languages=plain.languages,
            gender=found.gender,
        )


def _file_name(voice: EspeakVoice) -> str:
    return voice.identifier.rpartition("/")[2]
