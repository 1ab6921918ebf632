"""From sentences to translations, by the chat model, and from these to audio as it is made."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, nullcontext
from typing import Any, Final

from services.audio.pcm import Samples, from_pieces
from services.backends.client import Caller, Question
from services.conversation.speech_translation.stages import (
    Item,
    Sentence,
    Sound,
    Sparing,
    Translation,
    fields_named,
)
from services.conversation.translation.chat_model import ChatModel
from services.conversation.translation.languages import known_or_none, spoken
from services.conversation.translation.texts import has_words, pieces
from services.errors import InvalidRequestError, TooLargeError
from services.openai.reading import invalid
from services.openai.speech import INPUT_CHARACTERS

CONTEXT: Final = 3
"""How many earlier sentences go along as context."""

_NAMES: Final = {
    "model": "speech_model",
    "ref_audio": "consent",
    "ref_text": "consent",
    "input": None,
}


class Interpreter:
    """Translates what one speaker says, sentence by sentence."""

    def __init__(self, model: ChatModel, source: str | None, target: str) -> None:
        """Ask `model` to translate from `source`, or what the transcription says, into `target`.

        Both are codes, and may change between sentences.
        """
        self.source = source
        self.target = target
        self._model = model
        self._former: deque[Translation] = deque(maxlen=CONTEXT)

    async def translate(
        self, sentences: AsyncIterator[Sentence], sparing: Sparing = nullcontext
    ) -> AsyncGenerator[Sentence | Translation, None]:
        """Yield each sentence as it arrives, then its translation.

        Sentences that are in the target language stay as they are.
        """
        async for sentence in sentences:
            yield sentence
            async with sparing():
                yield await self._translated(sentence)

    async def _translated(self, sentence: Sentence) -> Translation:
        source, target = self.source or known_or_none(sentence.language), self.target
        text = sentence.text
        if not has_words(text) or (source is not None and spoken(source) == spoken(target)):
            return Translation(sentence, text, target)
        former = [(one.sentence.text, one.text) for one in self._former if one.language == target]
        said = await self._model.translate(text, source, target, former=former)
        translation = Translation(sentence, said, target)
        self._former.append(translation)
        return translation


class Speaker:
    """Speaks for one request, with the speech backend."""

    def __init__(
        self,
        caller: Caller,
        model: str,
        manner: Callable[[Translation], Awaitable[Mapping[str, Any]]],
    ) -> None:
        """Send to audio/speech what `manner` says about a translation: by whom, and how."""
        self._caller = caller
        self._fields = {"model": model, "response_format": "pcm"}
        self._manner = manner
        self._names_language = True

    async def speak(
        self, items: AsyncIterator[Sentence | Translation], sparing: Sparing = nullcontext
    ) -> AsyncGenerator[Item, None]:
        """Yield every item, and after each translation its audio, piece by piece."""
        async for item in items:
            yield item
            if not isinstance(item, Translation) or not any(map(str.isalnum, item.text)):
                continue
            async with sparing():
                manner = await self._manner(item)
                for piece in pieces(item.text, INPUT_CHARACTERS):
                    async with aclosing(self._say(piece.strip(), manner)) as sound:
                        async for samples in sound:
                            yield Sound(item.sentence, samples)

    async def _say(self, text: str, manner: Mapping[str, Any]) -> AsyncGenerator[Samples, None]:
        fields = {**self._fields, **manner, "input": text}
        if not self._names_language:
            fields.pop("language", None)
        question = Question.of("speech", "/v1/audio/speech", fields, model=fields["model"])
        try:
            with fields_named(_NAMES):
                async with (
                    self._caller.answer(question) as answer,
                    aclosing(answer.pieces()) as pieces,
                    aclosing(from_pieces(pieces)) as sound,
                ):
                    async for samples in sound:
                        yield samples
        except TooLargeError as error:
            if "ref_audio" not in fields:
                raise
            # A sample is small enough for every service that accepts recordings at all.
            why = "the speech service cannot speak like a recording: name a voice instead"
            raise invalid("consent", why, "unsupported_parameter") from error
        except InvalidRequestError as error:
            if error.code == "blank_input":
                return  # letters that cannot be spoken
            refused = (error.param, error.code) == ("language", "unsupported_parameter")
            if not refused or "language" not in fields:
                raise
        else:
            return
        self._names_language = False  # the engine goes by the text
        async with aclosing(self._say(text, manner)) as sound:
            async for samples in sound:
                yield samples


async def preset(caller: Caller, model: str, language: str) -> str:
    """Return the speech backend's built-in voice that fits a language best.

    Raises:
        InvalidRequestError: it has none (`missing_required_parameter`).
        ServiceError: the backend failed.
    """
    listed = (await caller.json(Question("speech", "/v1/audio/voices", model=model))).get(
        "data", ()
    )
    own = [card for card in listed if isinstance(card, dict) and card.get("object") == "voice"]
    wanted = language.lower()

    def fit(card: Mapping[str, Any]) -> int:
        native = str(card.get("language") or "").lower()
        tags = [native, *(str(tag).lower() for tag in card.get("languages") or ())]
        primary = [tag.partition("-")[0] == spoken(wanted) for tag in tags]
        return 3 * (native == wanted) + 2 * primary[0] + any(primary)

    if own:
        return str(max(own, key=fit).get("id"))  # the first of those that fit best
    why = (
        "the speech service has no voice of its own: name a registered one as voice, or send "
        "consent to keep the speaker's"
    )
    raise invalid("voice", why, "missing_required_parameter")
