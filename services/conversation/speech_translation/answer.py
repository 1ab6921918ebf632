"""The last stage: sends the translation to the client, as audio or as events.

Events are named as in OpenAI's live translation and audio/speech: the transcript, its translation
and the audio, each with the number of its sentence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.audio.encode import OUTPUT_RATE_HZ, encode, open_encoder
from services.conversation.speech_translation.stages import Sentence, Sound
from services.errors import InvalidRequestError
from services.openai.events import EVENT_STREAM, chunk, event, stream_head
from services.openai.speech_events import audio_delta, audio_done, audio_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Send

    from services.conversation.speech_translation.stages import Item, Tally, Translation
    from services.openai.translation import SpeechTranslationFields

_UNSPACED: Final = frozenset({"ja", "yue", "zh"})


async def send_answer(
    items: AsyncIterator[Item],
    asked: SpeechTranslationFields,
    target: str,
    tally: Tally,
    send: Send,
) -> None:
    """Send headers when the first audio arrives, then everything as it arrives, then the end.

    `target` is the code of the language to translate into.

    Raises:
        InvalidRequestError: there was nothing to translate (`no_speech`).
        ServiceError: an earlier stage failed; if headers were sent, the answer is incomplete and
            must not end as if it were complete.
    """
    as_events = asked.stream_format == "sse"
    encoder = open_encoder(asked.response_format, OUTPUT_RATE_HZ)
    number, samples = 0, 0

    async def audio(data: bytes) -> None:
        if data:
            await send(chunk(event(audio_delta(data, sentence=number)) if as_events else data))

    waiting: list[bytes] = []  # events before the first audio
    async for item in items:
        if isinstance(item, Sound):
            if not samples:
                await send(stream_head(EVENT_STREAM if as_events else encoder.media_type))
                await send(chunk(b"".join(waiting)))
            number = item.sentence.number
            samples += item.samples.size
            await encode(item.samples, OUTPUT_RATE_HZ, encoder, audio)
        elif as_events:
            told = event(_told(item, target))
            if samples:
                await send(chunk(told))
            else:
                waiting.append(told)
    if not samples:
        raise InvalidRequestError(
            "file contains no speech that could be translated", param="file", code="no_speech"
        )
    await audio(encoder.finish())
    if as_events:
        output_tokens = audio_tokens(samples, OUTPUT_RATE_HZ)
        await send(chunk(event(audio_done(tally.input_tokens, output_tokens))))
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _told(item: Sentence | Translation, target: str) -> dict[str, object]:
    if isinstance(item, Sentence):
        return {
            "type": "speech.input_transcript.delta",
            "delta": _spaced(item.text, item.number, item.language),
            "sentence": item.number,
            "start": item.start_s,
            "end": item.end_s,
            "language": item.language,
        }
    number = item.sentence.number
    return {
        "type": "speech.output_transcript.delta",
        "delta": _spaced(item.text, number, target),
        "sentence": number,
        "language": target,
    }


def _spaced(text: str, number: int, language: str | None) -> str:
    """Return a sentence's text as it continues the earlier ones."""
    unspaced = (language or "").partition("-")[0] in _UNSPACED
    return text if number == 0 or unspaced else f" {text}"
