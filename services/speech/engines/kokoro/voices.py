"""Kokoro's voices, OpenAI's names for some of them, and mixes such as `af_heart(2)+af_bella`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from services.speech.engines.protocol import Voice

OPENAI_VOICES: Final[dict[str, str]] = {
    "alloy": "af_heart",
    "ash": "am_michael",
    "ballad": "bm_george",
    "coral": "af_bella",
    "echo": "am_echo",
    "fable": "bm_fable",
    "nova": "af_nova",
    "onyx": "am_onyx",
    "sage": "af_sarah",
    "shimmer": "bf_emma",
    "verse": "am_fenrir",
    "marin": "af_kore",
    "cedar": "am_puck",
}
"""OpenAI's voice names and the voice that speaks for each."""

_SPEAKERS: Final = {
    "a": ("en-us", "an American"),
    "b": ("en-gb", "a Briton"),
    "e": ("es", "a speaker of Spanish"),
    "f": ("fr", "a speaker of French"),
    "h": ("hi", "a speaker of Hindi"),
    "i": ("it", "a speaker of Italian"),
    "p": ("pt", "a speaker of Portuguese"),
    "z": ("zh", "a speaker of Chinese"),
    "j": ("ja", "a speaker of Japanese"),
}
"""Who speaks, by the first letter of a voice's id: the tag of their language, and in words."""

NAMES: Final = tuple(
    f"{kind}_{name}"
    for kind, names in {
        "af": "heart alloy aoede bella jessica kore nicole nova river sarah sky",
        "am": "adam echo eric fenrir liam michael onyx puck santa",
        "bf": "alice emma isabella lily",
        "bm": "daniel fable george lewis",
        "ef": "dora",
        "em": "alex santa",
        "ff": "siwis",
        "hf": "alpha beta",
        "hm": "omega psi",
        "if": "sara",
        "im": "nicola",
        "jf": "alpha gongitsune nezumi tebukuro",
        "jm": "kumo",
        "pf": "dora",
        "pm": "alex santa",
        "zf": "xiaobei xiaoni xiaoxiao xiaoyi",
        "zm": "yunjian yunxi yunxia yunyang",
    }.items()
    for name in names.split()
)
"""The voices of Kokoro-82M 1.0."""

_PART: Final = re.compile(
    r"\s*([a-z]{2}_[a-z0-9]+)\s*(?:\(\s*(\d+(?:\.\d+)?)\s*\))?\s*", re.IGNORECASE
)
_SIGNS: Final = re.compile(r"([+-])")
_MOST_PARTS: Final = 8


@dataclass(frozen=True)
class Mix:
    """Voices and their weights, whose sizes add up to 1, the heaviest first."""

    parts: tuple[tuple[str, float], ...]

    @property
    def first(self) -> str:
        """The voice that it is most like."""
        return self.parts[0][0]

    @property
    def language(self) -> str:
        """The tag of that voice's own language."""
        return _language(self.first)

    @property
    def gender(self) -> Literal["female", "male"]:
        """That of its first voice."""
        return _gender(self.first)


class Voices:
    """The voices that requests may name.

    Before the model is there, they are those of Kokoro-82M 1.0; then those that came with it. One
    that did not come is spoken by one that did, of the same gender, and its name says so.
    """

    def __init__(self) -> None:
        self.there: tuple[str, ...] = NAMES  # those that speak

    def came(self, there: Collection[str]) -> None:
        """Learn which voices came with the model; those that a request cannot name are left out."""
        usable = (name for name in there if _PART.fullmatch(name) and name[0] in _SPEAKERS)
        self.there = tuple(sorted(usable, key=lambda name: (name not in NAMES, name)))

    def listed(self) -> tuple[Voice, ...]:
        """Return OpenAI's names, then the voices that are there."""
        names = (*OPENAI_VOICES, *self.there)
        return tuple(voice for name in names if (voice := self.find(name)) is not None)

    def find(self, voice_id: str) -> Voice | None:
        """Return a voice by its id, OpenAI's name, or a mix; None if there is none of that name."""
        mix = self.mix(voice_id)
        if mix is None:
            return None
        target = OPENAI_VOICES.get(voice_id.lower(), voice_id)
        name = voice_id if target == voice_id else voice_id.lower()
        speaks = self._present(mix.first)
        said = name if name == target else f"{name} ({target})"
        if speaks != mix.first:
            said = f"{name} ({speaks}, {_SPEAKERS[speaks[0]][1]})"
        spoken = (mix.language, *(language for language, _ in _SPEAKERS.values()))
        return Voice(
            id=name,
            name=said,
            languages=tuple(dict.fromkeys(spoken)),
            gender=mix.gender,
            alias_of=target if name != target else None,
        )

    def mix(self, voice_id: str) -> Mix | None:
        """Return what a voice is made of, written as in Kokoro-FastAPI; None if it is not Kokoro's.

        Such as `af_heart(2)+af_bella`.
        """
        parts = _SIGNS.split(OPENAI_VOICES.get(voice_id.lower(), voice_id))
        if len(parts) > 2 * _MOST_PARTS:
            return None
        weights: dict[str, float] = {}
        for sign, part in zip(("+", *parts[1::2]), parts[::2], strict=True):
            found = _PART.fullmatch(part)
            name = found[1].lower() if found else ""
            if found is None or (name not in NAMES and name not in self.there):
                return None
            weight = float(found[2] or 1) * (1 if sign == "+" else -1)
            weights[name] = weights.get(name, 0.0) + weight
        total = sum(abs(weight) for weight in weights.values())
        if not total or not math.isfinite(total):
            return None
        heaviest = sorted(weights.items(), key=lambda part: -part[1])
        return Mix(tuple((name, weight / total) for name, weight in heaviest))

    def spoken(self, voice_id: str, language: str) -> Mix:
        """Return the voices that speak: those that are there.

        OpenAI's names speak another language with a voice of that language, if one is there.
        """
        mix = self.mix(voice_id)
        if mix is None:
            raise KeyError(voice_id)
        primary = language.partition("-")[0]
        if voice_id.lower() in OPENAI_VOICES and mix.language.partition("-")[0] != primary:
            for name in self.there:
                if (_gender(name), _language(name).partition("-")[0]) == (mix.gender, primary):
                    return Mix(((name, 1.0),))
        return Mix(tuple((self._present(name), weight) for name, weight in mix.parts))

    def _present(self, name: str) -> str:
        """Return a voice, or one of the same gender in its place if it did not come."""
        if name in self.there:
            return name
        alike = [one for one in self.there if _gender(one) == _gender(name)] or list(self.there)
        order = [one for one in NAMES if _gender(one) == _gender(name)]
        return alike[order.index(name) % len(alike)] if name in order else alike[0]


def _language(name: str) -> str:
    return _SPEAKERS[name[0]][0]


def _gender(name: str) -> Literal["female", "male"]:
    return "female" if name[1:2] == "f" else "male"
