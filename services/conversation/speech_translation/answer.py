"""The last stage: sends the translation to the client, as audio or as events.

Events are named as in OpenAI's live translation and audio/speech: the transcript, its translation
and the audio, each with the number of its sentence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.audio.encode import OUTPUT_RATE_HZ, open_encoder
from services.conversation.speech_translation.stages import Sentence, Sound
from services.errors import InvalidRequestError
from services.languages import gap
from services.openai.audio_stream import AudioStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Send

    from services.conversation.speech_translation.stages import Item, Tally, Translation
    from services.openai.translation import SpeechTranslationFields


async def send_answer(
    items: AsyncIterator[Item],
    asked: SpeechTranslationFields,
    tally: Tally,
    send: Send,
) -> None:
    """Send headers when the first audio arrives, then everything as it arrives, then the end.

    Raises:
        InvalidRequestError: there was nothing to translate (`no_speech`).
        ServiceError: an earlier stage failed; if headers were sent, the answer is incomplete and
            must not end as if it were complete.
    """
    encoder = open_encoder(asked.response_format, OUTPUT_RATE_HZ)
    as_events = asked.stream_format == "sse"
    stream = AudioStream(send, encoder, OUTPUT_RATE_HZ, as_events=as_events)
    before: dict[type, str] = {}
    async for item in items:
        if isinstance(item, Sound):
            await stream.feed(item.samples, sentence=item.sentence.number)
        else:
            kind = type(item)
            delta = gap(before.get(kind, ""), item.text) + item.text
            before[kind] = item.text
            await stream.tell(_told(item, delta))
    if not stream.samples:
        raise InvalidRequestError(
            "file contains no speech that could be translated", param="file", code="no_speech"
        )
    await stream.end(tally.input_tokens)


def _told(item: Sentence | Translation, delta: str) -> dict[str, object]:
    if isinstance(item, Sentence):
        return {
            "type": "speech.input_transcript.delta",
            "delta": delta,
            "sentence": item.number,
            "start": item.start_s,
            "end": item.end_s,
            "language": item.language,
        }
    return {
        "type": "speech.output_transcript.delta",
        "delta": delta,
        "sentence": item.sentence.number,
        "language": item.language,
    }
