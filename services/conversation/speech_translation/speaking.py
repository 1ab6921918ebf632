"""From sentences to translations, by the chat model, and from these to audio as it is made."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, nullcontext
from typing import Any, Final

from services.audio.pcm import Samples, from_pieces
from services.backends.client import Caller, Question
from services.conversation.speech_translation import stages
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


async def interpreted(
    sentences: AsyncIterator[stages.Sentence],
    model: ChatModel,
    languages: Callable[[stages.Sentence], tuple[str | None, str]],
    sparing: stages.Sparing = nullcontext,
) -> AsyncGenerator[stages.Sentence | stages.Translation, None]:
    """Yield each sentence as it arrives, then its translation by `model`.

    `languages` returns the codes of the source, None for what the transcription says, and of the
    target, or refuses a sentence. Those that are in the target language stay as they are.
    """
    former: deque[stages.Translation] = deque(maxlen=CONTEXT)

    async def translated(sentence: stages.Sentence) -> stages.Translation:
        source, target = languages(sentence)
        source = source or known_or_none(sentence.language)
        text = sentence.text
        if not has_words(text) or (source is not None and spoken(source) == spoken(target)):
            return stages.Translation(sentence, text, target)
        before = [(one.sentence.text, one.text) for one in former if one.language == target]
        said = await model.translate(text, source, target, former=before)
        former.append(stages.Translation(sentence, said, target))
        return former[-1]

    async for sentence in sentences:
        yield sentence
        async with sparing():
            yield await translated(sentence)


async def spoken_aloud(
    items: AsyncIterator[stages.Sentence | stages.Translation],
    caller: Caller,
    model: str,
    manner: Callable[[stages.Translation], Awaitable[Mapping[str, Any]]],
    sparing: stages.Sparing = nullcontext,
) -> AsyncGenerator[stages.Item, None]:
    """Yield every item, and after each translation its audio, piece by piece.

    `manner` returns the fields of audio/speech that say by whom it is spoken, and how.
    """
    names_language = True
    async for item in items:
        yield item
        if not isinstance(item, stages.Translation) or not any(map(str.isalnum, item.text)):
            continue
        async with sparing():
            fields = {"model": model, "response_format": "pcm", **await manner(item)}
            left = deque(piece.strip() for piece in pieces(item.text, INPUT_CHARACTERS))
            while left:
                if not names_language:
                    fields.pop("language", None)
                try:
                    async with aclosing(_say(caller, {**fields, "input": left[0]})) as sound:
                        async for samples in sound:
                            yield stages.Sound(item.sentence, samples)
                except InvalidRequestError as error:
                    refused = (error.param, error.code) == ("language", "unsupported_parameter")
                    if refused and "language" in fields:
                        names_language = False  # the engine goes by the text
                        continue
                    if error.code != "blank_input":  # letters that cannot be spoken
                        raise
                left.popleft()


async def _say(caller: Caller, fields: dict[str, Any]) -> AsyncGenerator[Samples, None]:
    question = Question.of("speech", "/v1/audio/speech", fields, model=fields["model"])
    try:
        with stages.fields_named(_NAMES):
            async with (
                caller.answer(question) as answer,
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


async def preset(caller: Caller, model: str, language: str) -> str:
    """Return the speech backend's built-in voice that fits a language best.

    InvalidRequestError (`missing_required_parameter`) if it has none.
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
