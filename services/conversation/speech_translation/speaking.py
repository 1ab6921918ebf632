"""From sentences to translations, by the chat model, and from these to audio as it is made."""

from __future__ import annotations

from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from services.audio.pcm import from_pieces
from services.backends.client import Question
from services.conversation.speech_translation.stages import Sound, Translation, fields_named
from services.conversation.translation.languages import known_or_none, spoken
from services.conversation.translation.texts import has_words, pieces
from services.errors import InvalidRequestError, TooLargeError
from services.openai.speech import INPUT_CHARACTERS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from services.audio.pcm import Samples
    from services.backends.client import Caller
    from services.conversation.speech_translation.stages import Item, Sentence
    from services.conversation.translation.chat_model import ChatModel

CONTEXT: Final = 3
"""How many earlier sentences go along as context."""

_NAMES: Final = {
    "model": "speech_model",
    "ref_audio": "consent",
    "ref_text": "consent",
    "input": None,
}


async def translate(
    sentences: AsyncIterator[Sentence], model: ChatModel, source: str | None, target: str
) -> AsyncGenerator[Sentence | Translation, None]:
    """Yield each sentence as it arrives, then its translation.

    If `source` is None, the transcription's language is used. Sentences that are in the target
    language stay as they are.

    Raises:
        ServiceError: the chat backend failed.
    """
    former: deque[tuple[str, str]] = deque(maxlen=CONTEXT)
    async for sentence in sentences:
        yield sentence
        language = source or known_or_none(sentence.language)
        text = sentence.text
        if has_words(text) and (language is None or spoken(language) != spoken(target)):
            text = await model.translate(text, language, target, former=[*former])
            former.append((sentence.text, text))
        yield Translation(sentence, text)


class Speaker:
    """Speaks for one request, with the speech backend."""

    def __init__(
        self, caller: Caller, fields: Mapping[str, Any], voice: asyncio.Future[Mapping[str, Any]]
    ) -> None:
        """Send `fields` to audio/speech, and those of `voice`, which say who speaks."""
        self._caller = caller
        self._fields = {**fields, "response_format": "pcm"}
        self._voice = voice

    async def speak(
        self, items: AsyncIterator[Sentence | Translation]
    ) -> AsyncGenerator[Item, None]:
        """Yield every item, and after each translation its audio, piece by piece.

        Raises:
            ServiceError: the speech backend refused or broke off.
        """
        async for item in items:
            yield item
            if not isinstance(item, Translation) or not any(map(str.isalnum, item.text)):
                continue
            for piece in pieces(item.text, INPUT_CHARACTERS):
                async with aclosing(self._say(piece.strip())) as sound:
                    async for samples in sound:
                        yield Sound(item.sentence, samples)

    async def _say(self, text: str) -> AsyncGenerator[Samples, None]:
        fields = {**self._fields, **await self._voice, "input": text}
        try:
            async with aclosing(self._asked(fields)) as sound:
                async for samples in sound:
                    yield samples
        except TooLargeError as error:
            if "ref_audio" not in fields:
                raise
            # A sample is small enough for every service that accepts recordings at all.
            raise InvalidRequestError(
                "the speech service cannot speak like a recording: name a voice instead",
                param="consent",
                code="unsupported_parameter",
            ) from error
        except InvalidRequestError as error:
            if error.code == "blank_input":
                return  # letters that cannot be spoken
            refused = (error.param, error.code) == ("language", "unsupported_parameter")
            if not refused or "language" not in fields:
                raise
        else:
            return
        self._fields.pop("language", None)  # the engine goes by the text
        async with aclosing(self._say(text)) as sound:
            async for samples in sound:
                yield samples

    async def _asked(self, fields: dict[str, Any]) -> AsyncGenerator[Samples, None]:
        question = Question.of("speech", "/v1/audio/speech", fields, model=fields["model"])
        with fields_named(_NAMES):
            async with (
                self._caller.answer(question) as answer,
                aclosing(answer.pieces()) as pieces,
                aclosing(from_pieces(pieces)) as sound,
            ):
                async for samples in sound:
                    yield samples


async def preset(caller: Caller, model: str, language: str) -> str:
    """Return the speech backend's built-in voice that fits a language best.

    Raises:
        InvalidRequestError: it has none (`missing_required_parameter`).
        ServiceError: the backend failed.
    """
    listed = await caller.json(Question("speech", "/v1/audio/voices", model=model))
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
