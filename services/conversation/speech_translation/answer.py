"""The last stage: what was interpreted on its way to the client, as audio or as events.

Events are named as OpenAI names those of its live translation and of audio/speech: what was said,
what it means, and its sound, each with the number of its sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.audio.encode import OUTPUT_RATE_HZ, encode, open_encoder
from services.conversation.speech_translation.stages import Sentence, Sound, Tally, Translation
from services.errors import InvalidRequestError
from services.openai.events import EVENT_STREAM, chunk, event, stream_head
from services.openai.speech_events import audio_delta, audio_done, audio_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Send

    from services.audio.encode import Encoder
    from services.audio.formats import AudioFormat
    from services.conversation.speech_translation.stages import Item

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
        self._sentence = 0
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
        self._sentence = item.sentence.number
        await encode(item.samples, OUTPUT_RATE_HZ, self._encoder, self._audio)

    async def end(self) -> None:
        if self._before is not None:
            raise InvalidRequestError(
                "file holds no speech that could be translated", param="file", code="no_speech"
            )
        await self._audio(self._encoder.finish())
        if self._output.as_events:
            made = audio_tokens(self._tally.samples, OUTPUT_RATE_HZ)
            await self._send(chunk(event(audio_done(self._tally.input_tokens, made))))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _audio(self, data: bytes) -> None:
        if not data:
            return
        if self._output.as_events:
            data = event(audio_delta(data, sentence=self._sentence))
        await self._send(chunk(data))


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
