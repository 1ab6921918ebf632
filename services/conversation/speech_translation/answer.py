"""The last stage: what was interpreted on its way to the client, as audio or as events.

Events are named as OpenAI names those of its live translation and of audio/speech: what was said,
what it means, and its sound, each with the number of its sentence.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from services.audio.encode import OUTPUT_RATE_HZ, open_encoder
from services.conversation.speech_translation.segments import Sentence, Sound, Tally, Translation
from services.errors import InvalidRequestError
from services.openai.events import EVENT_STREAM, chunk, event, stream_head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Send

    from services.audio.encode import Encoder
    from services.audio.formats import AudioFormat
    from services.conversation.speech_translation.segments import Item

OUTPUT_TOKENS_PER_SECOND: Final = 20
"""What `usage` counts of the audio made, as audio/speech does."""

_ENCODED_AT_ONCE: Final = OUTPUT_RATE_HZ // 10
_UNSPACED: Final = frozenset({"ja", "yue", "zh"})


@dataclass(frozen=True)
class Output:
    """What the client asked to be sent.

    Attributes:
        audio_format: of the audio.
        as_events: server-sent events instead of the bare bytes.
        target: code of the language that is spoken.
    """

    audio_format: AudioFormat
    as_events: bool
    target: str


async def send_answer(items: AsyncIterator[Item], output: Output, tally: Tally, send: Send) -> None:
    """Send headers once the first sound is there, then everything as it comes, then the end.

    Raises:
        InvalidRequestError: nothing was said that could be said again (`no_speech`).
        ServiceError: what the stages before raise; once headers are out the answer is incomplete,
            and must not end as if it were whole.
    """
    answer = _Answer(output, tally, send)
    async for item in items:
        if isinstance(item, Sound):
            await answer.sound(item)
        elif isinstance(item, Sentence):
            await answer.tell(_heard(item))
        else:
            await answer.tell(_meant(item, output.target))
    await answer.end()


class _Answer:
    def __init__(self, output: Output, tally: Tally, send: Send) -> None:
        self._output = output
        self._tally = tally
        self._send = send
        self._encoder: Encoder = open_encoder(output.audio_format, OUTPUT_RATE_HZ)
        self._before: list[bytes] | None = []  # events that wait for the first sound

    async def tell(self, fields: dict[str, object]) -> None:
        if not self._output.as_events:
            return
        if self._before is None:
            await self._send(chunk(event(fields)))
        else:
            self._before.append(event(fields))

    async def sound(self, item: Sound) -> None:
        if self._before is not None:
            waiting, self._before = self._before, None
            media_type = EVENT_STREAM if self._output.as_events else self._encoder.media_type
            await self._send(stream_head(media_type))
            for one in waiting:
                await self._send(chunk(one))
        self._tally.samples += item.samples.size
        for begin in range(0, item.samples.size, _ENCODED_AT_ONCE):
            data = self._encoder.feed(item.samples[begin : begin + _ENCODED_AT_ONCE])
            await self._audio(data, item.sentence.number)
            await asyncio.sleep(0)  # sending need not yield, and others talk too
        self._last = item.sentence.number

    async def end(self) -> None:
        if self._before is not None:
            raise InvalidRequestError(
                "file holds no speech that could be translated", param="file", code="no_speech"
            )
        await self._audio(self._encoder.finish(), self._last)
        if self._output.as_events:
            await self._send(chunk(event({"type": "speech.audio.done", "usage": self._usage()})))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _audio(self, data: bytes, sentence: int) -> None:
        if not data:
            return
        if self._output.as_events:
            encoded = base64.b64encode(data).decode("ascii")
            data = event({"type": "speech.audio.delta", "audio": encoded, "sentence": sentence})
        await self._send(chunk(data))

    def _usage(self) -> dict[str, Any]:
        made = -(-self._tally.samples * OUTPUT_TOKENS_PER_SECOND // OUTPUT_RATE_HZ)
        heard = self._tally.input_tokens
        return {"input_tokens": heard, "output_tokens": made, "total_tokens": heard + made}


def _heard(sentence: Sentence) -> dict[str, object]:
    return {
        "type": "speech.input_transcript.delta",
        "delta": _spaced(sentence.text, sentence.number, sentence.language),
        "sentence": sentence.number,
        "start": sentence.start_s,
        "end": sentence.end_s,
        "language": sentence.language,
    }


def _meant(translation: Translation, target: str) -> dict[str, object]:
    number = translation.sentence.number
    return {
        "type": "speech.output_transcript.delta",
        "delta": _spaced(translation.text, number, target),
        "sentence": number,
        "language": target,
    }


def _spaced(text: str, number: int, language: str | None) -> str:
    """Return what a sentence adds to those before it."""
    unspaced = (language or "").partition("-")[0] in _UNSPACED
    return text if number == 0 or unspaced else f" {text}"
