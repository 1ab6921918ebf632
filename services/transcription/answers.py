"""Answers to a transcription: whole, as text while it is made, or as events."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from services.errors import EngineError, ServiceError
from services.openai.documents import send_json
from services.openai.events import EVENT_STREAM, chunk, event, stream_head
from services.openai.transcription import TEXT_TYPES
from services.transcription.formats import (
    VTT_HEAD,
    Heard,
    as_json,
    as_verbose_json,
    length_of,
    logprobs_of,
    segment_fields,
    srt_cue,
    text_piece,
    usage_by_tokens,
    vtt_cue,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.types import Send

    from services.audio.decode import Decoding
    from services.openai.transcription import TranscriptFormat
    from services.transcription.engines.protocol import Segment, TranscriptionRequest

LOST_HEADER: Final = b"x-audio-lost-seconds"
"""Says, with json and verbose_json, how much of the recording is broken or missing."""

_CUES: Final = {"text": text_piece, "srt": srt_cue, "vtt": vtt_cue}


@dataclass(frozen=True)
class Answer:
    """One answer to audio/transcriptions or audio/translations.

    Attributes:
        segments: the engine's, for a request that passed its check; not begun yet.
        request: what the engine was asked.
        recording: what it reads; knows its length once it was read.
        engine: the engine's name, for errors.
        response_format: one of OpenAI's.
        with_segments: whether verbose_json lists segments.
        as_events: server-sent events instead of the bare format.
        on_audio_seconds: told once how much was heard.
    """

    segments: AsyncGenerator[Segment, None]
    request: TranscriptionRequest
    recording: Decoding
    engine: str
    response_format: TranscriptFormat
    with_segments: bool
    as_events: bool
    on_audio_seconds: Callable[[float], None]

    async def send_to(self, send: Send) -> None:
        """Send the answer: headers once the first segment is known, then each as it is heard.

        Raises:
            ServiceError: the recording or the engine failed; if headers are out already, the
                answer is incomplete and the connection must not end as if it were whole.
        """
        try:
            if self.as_events:
                await self._send_events(send)
            elif self.response_format in _CUES:
                await self._send_text(send)
            else:
                await self._send_document(send)
        except ServiceError:
            raise
        except Exception as error:
            raise EngineError(f"the {self.engine} engine failed", code="engine_failed") from error
        finally:
            if self.recording.seconds:
                self.on_audio_seconds(self.recording.seconds)

    async def _send_document(self, send: Send) -> None:
        async with aclosing(self.segments) as segments:
            heard = self._heard([segment async for segment in segments])
        if self.response_format == "json":
            document = as_json(heard, logprobs=self.request.logprobs)
        else:
            document = as_verbose_json(heard, segments=self.with_segments, words=self.request.words)
        lost = [(LOST_HEADER, f"{heard.lost_s:.2f}".encode())] if heard.lost_s else []
        await send_json(send, document, lost)

    async def _send_text(self, send: Send) -> None:
        cue = _CUES[self.response_format]
        before = VTT_HEAD if self.response_format == "vtt" else ""
        await self._stream(
            send,
            TEXT_TYPES[self.response_format],
            before,
            lambda index, segment: cue(index, segment).encode(),
            lambda _: b"\n" if self.response_format == "text" else b"",
        )

    async def _send_events(self, send: Send) -> None:
        await self._stream(send, EVENT_STREAM, "", self._events, self._done)

    async def _stream(
        self,
        send: Send,
        media_type: str,
        before: str,
        piece: Callable[[int, Segment], bytes],
        end: Callable[[Heard], bytes],
    ) -> None:
        heard: list[Segment] = []
        async with aclosing(self.segments) as segments:
            async for segment in segments:
                if not heard:
                    await send(stream_head(media_type))
                    await send(chunk(before.encode()))
                await send(chunk(piece(len(heard), segment)))
                heard.append(segment)
        if not heard:
            await send(stream_head(media_type))
            await send(chunk(before.encode()))
        await send(chunk(end(self._heard(heard))))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _events(self, index: int, segment: Segment) -> bytes:
        delta: dict[str, Any] = {
            "type": "transcript.text.delta",
            "delta": text_piece(index, segment),
        }
        if self.request.logprobs:
            delta["logprobs"] = [*logprobs_of(segment.logprobs)]
        if self.response_format != "verbose_json":
            return event(delta)
        fields = segment_fields(index, segment)
        # OpenAI's event belongs to diarization: its id is text, and nobody is told apart here.
        told = {
            **fields,
            "id": f"seg_{index}",
            "language": segment.language,
            "speaker": "",
            "type": "transcript.text.segment",
        }
        told["language"] = segment.language
        if self.request.words:
            told["words"] = [*words_of(segment)]
        return event(told) + event(delta)

    def _done(self, heard: Heard) -> bytes:
        done: dict[str, Any] = {
            "type": "transcript.text.done",
            "text": heard.text,
            "usage": usage_by_tokens(
                heard.seconds,
                len(self.request.prompt.split()),
                sum(len(segment.tokens) for segment in heard.segments),
            ),
        }
        if self.request.logprobs:
            done["logprobs"] = [
                one for segment in heard.segments for one in logprobs_of(segment.logprobs)
            ]
        if self.response_format == "verbose_json":
            done |= {"language": heard.spoken, **length_of(heard)}
        return event(done)

    def _heard(self, segments: list[Segment]) -> Heard:
        request = self.request
        recording = self.recording
        return Heard(segments, request.task, request.language, recording.seconds, recording.lost_s)
