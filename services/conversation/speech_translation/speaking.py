"""The fourth stage: translations to sound, by the speech backend, as it is made."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from services.audio.pcm import to_float32
from services.backends.client import Question
from services.conversation.speech_translation.segments import Sound, Translation
from services.conversation.speech_translation.stages import fields_named
from services.conversation.translation.cutting import pieces
from services.conversation.translation.languages import spoken
from services.errors import InvalidRequestError, TooLargeError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from services.audio.pcm import Samples
    from services.backends.client import Caller
    from services.conversation.speech_translation.segments import Item, Sentence

PATH: Final = "/v1/audio/speech"
VOICES: Final = "/v1/audio/voices"

_CHARACTERS: Final = 4096  # of one `input`
_NAMES: Final = {
    "model": "speech_model",
    "ref_audio": "consent",
    "ref_text": "consent",
    "input": None,
}


@dataclass(frozen=True)
class Manner:
    """How to speak.

    Attributes:
        model: what speaks.
        language: code of the language of what is said.
        options: further fields of audio/speech: speed, instructions.
    """

    model: str
    language: str
    options: Mapping[str, Any]


async def speak(
    items: AsyncIterator[Sentence | Translation],
    caller: Caller,
    manner: Manner,
    voice: asyncio.Future[Mapping[str, Any]],
) -> AsyncGenerator[Item, None]:
    """Yield what comes, and behind each translation its sound, piece by piece.

    `voice` gives the fields of audio/speech that say who speaks.

    Raises:
        ServiceError: what the speech backend refuses, or that it broke off.
    """
    speaker = _Speaker(caller, manner)
    async for item in items:
        yield item
        if not isinstance(item, Translation) or not any(map(str.isalnum, item.text)):
            continue
        found, _ = pieces(item.text, _CHARACTERS)
        for piece in found:
            async with aclosing(speaker.say(piece.text, await voice)) as sound:
                async for samples in sound:
                    yield Sound(item.sentence, samples)


class _Speaker:
    def __init__(self, caller: Caller, manner: Manner) -> None:
        self._caller = caller
        self._manner = manner
        self._language: dict[str, str] = {"language": manner.language}

    async def say(self, text: str, voice: Mapping[str, Any]) -> AsyncGenerator[Samples, None]:
        body = {
            "model": self._manner.model,
            "input": text,
            "response_format": "pcm",
            **self._manner.options,
            **voice,
        }
        try:
            async with aclosing(self._asked({**body, **self._language})) as sound:
                async for samples in sound:
                    yield samples
        except TooLargeError as error:
            if "ref_audio" not in voice:
                raise
            # A sample is never too large for a service that takes recordings at all.
            raise InvalidRequestError(
                "the speech service does not speak like a recording: name a voice instead",
                param="consent",
                code="unsupported_parameter",
            ) from error
        except InvalidRequestError as error:
            if error.code == "blank_input":
                return  # letters that nobody says
            if (error.param, error.code) != ("language", "unsupported_parameter"):
                raise
        else:
            return
        self._language = {}  # it goes by the text
        async with aclosing(self._asked(body)) as sound:
            async for samples in sound:
                yield samples

    async def _asked(self, body: dict[str, Any]) -> AsyncGenerator[Samples, None]:
        question = Question.of("speech", PATH, body, model=self._manner.model)
        rest = b""
        with fields_named(_NAMES):
            async with (
                self._caller.answer(question) as answer,
                aclosing(answer.pieces()) as sound,
            ):
                async for piece in sound:
                    data = rest + piece
                    whole = len(data) // 2 * 2
                    rest = data[whole:]
                    if whole:
                        yield to_float32(np.frombuffer(data[:whole], dtype="<i2"))


async def preset(caller: Caller, model: str, language: str) -> str:
    """Return the speech backend's voice for a language: of those it has itself, the first.

    Raises:
        InvalidRequestError: it has none (`missing_required_parameter`).
        ServiceError: it could not be asked.
    """
    listed = await caller.json(Question("speech", VOICES, model=model))
    own = [
        card
        for card in listed.get("data", ())
        if isinstance(card, dict) and card.get("object") == "voice"
    ]
    wanted = language.lower()

    def fit(card: Mapping[str, Any]) -> int:
        native = str(card.get("language") or "").lower()
        tags = [native, *(str(tag).lower() for tag in card.get("languages") or ())]
        primary = [tag.partition("-")[0] == spoken(wanted) for tag in tags]
        return 3 * (native == wanted) + 2 * primary[0] + any(primary)

    if own:
        return str(max(own, key=fit).get("id"))  # the first of those that fit best
    raise InvalidRequestError(
        "the speech service has no voice of its own: name a registered one as voice, or send "
        "consent to keep the speaker's",
        param="voice",
        code="missing_required_parameter",
    )
