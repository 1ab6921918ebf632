"""What was said, as OpenAI answers it: a JSON document, text, subtitles or server-sent events."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

from starlette.types import Send

from services.errors import EngineError, ServiceError
from services.languages import NAMES
from services.openai.answers import EVENT_STREAM, chunk, event, send_json, stream_head
from services.openai.transcription import TEXT_TYPES, TranscriptFormat
from services.transcription.engines.protocol import (
    Segment,
    Token,
    TranscriptionEngine,
    TranscriptionRequest,
)

if TYPE_CHECKING:
    from services.audio.decode import Decoding

LOST_HEADER: Final = b"x-audio-lost-seconds"
"""Says, with json and verbose_json, how much of the recording is broken or missing."""

AUDIO_TOKENS_PER_SECOND: Final = 10
"""OpenAI's rate for its transcribing models, for the `usage` of a stream of events."""

_SILENCE: Final = "unknown"  # the language of a recording in which nobody speaks


@dataclass(frozen=True)
class Answer:
    """One answer to audio/transcriptions or audio/translations.

    The engine's check has passed `request`, whose audio is `recording`.
    """

    engine: TranscriptionEngine
    request: TranscriptionRequest
    recording: Decoding
    response_format: TranscriptFormat
    with_segments: bool  # whether verbose_json lists segments
    as_events: bool  # server-sent events instead of the bare format
    on_audio_seconds: Callable[[float], None]  # called once with the seconds heard

    async def send_to(self, send: Send) -> None:
        """Send the answer: headers once the first segment is known, then each segment in turn.

        ServiceError if the recording or the engine failed. If headers are out already, the answer
        is incomplete, and the connection must not end as if it were whole.
        """
        try:
            async with aclosing(self.engine.transcribe(self.request)) as segments:
                if self.as_events or self.response_format in _CUES:
                    await self._stream(segments, send)
                else:
                    await self._send_document([segment async for segment in segments], send)
        except ServiceError:
            raise
        except Exception as error:
            engine = self.engine.name
            raise EngineError(f"the {engine} engine failed", code="engine_failed") from error
        finally:
            if self.recording.seconds:
                self.on_audio_seconds(self.recording.seconds)

    async def _send_document(self, segments: list[Segment], send: Send) -> None:
        heard = self._heard(segments)
        document = (
            as_json(heard)
            if self.response_format == "json"
            else as_verbose_json(heard, segments=self.with_segments)
        )
        lost = [(LOST_HEADER, f"{heard.lost_s:.2f}".encode())] if heard.lost_s else []
        await send_json(send, document, lost)

    async def _stream(self, segments: AsyncGenerator[Segment, None], send: Send) -> None:
        written = self.response_format
        heard: list[Segment] = []
        segment = await anext(segments, None)  # before the headers, since it may fail
        await send(stream_head(EVENT_STREAM if self.as_events else TEXT_TYPES[written]))
        if written == "vtt":
            await send(chunk(VTT_HEAD.encode()))
        while segment is not None:
            if self.as_events:
                piece = self._events(len(heard), segment)
            else:
                piece = _CUES[written](len(heard), segment).encode()
            await send(chunk(piece))
            heard.append(segment)
            segment = await anext(segments, None)
        end = b"\n" if written == "text" else b""
        body = self._done(self._heard(heard)) if self.as_events else end
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _events(self, index: int, segment: Segment) -> bytes:
        delta: dict[str, Any] = {
            "type": "transcript.text.delta",
            "delta": text_piece(index, segment),
        }
        if self.request.logprobs:
            delta["logprobs"] = logprobs_of(segment.logprobs)
        if self.response_format != "verbose_json":
            return event(delta)
        # OpenAI's event is one of diarization, so its id is text and it names a speaker.
        told = {
            **segment_fields(index, segment),
            "id": f"seg_{index}",
            "language": segment.language,
            "speaker": "",
            "type": "transcript.text.segment",
        }
        if self.request.words:
            told["words"] = words_of([segment])
        return event(told) + event(delta)

    def _done(self, heard: Heard) -> bytes:
        usage = usage_by_tokens(
            heard.seconds,
            len(self.request.prompt.split()),
            sum(len(segment.tokens) for segment in heard.segments),
        )
        done = {"type": "transcript.text.done", **as_json(heard), "usage": usage}
        if self.response_format == "verbose_json":
            done |= {"language": heard.spoken, **heard.length}
        return event(done)

    def _heard(self, segments: list[Segment]) -> Heard:
        return Heard(segments, self.request, self.recording.seconds, self.recording.lost_s)


@dataclass(frozen=True)
class Heard:
    """A whole transcription; of the recording `seconds` could be decoded, `lost_s` could not."""

    segments: Sequence[Segment]
    request: TranscriptionRequest
    seconds: float
    lost_s: float = 0.0

    @property
    def text(self) -> str:
        """Everything that was said."""
        return "".join(segment.text for segment in self.segments).strip()

    @property
    def spoken(self) -> str:
        """The language's name as Whisper writes it: `english`."""
        code = self.segments[0].language if self.segments else self.request.language
        return _SILENCE if code is None else NAMES.get(code, code).lower()

    @property
    def length(self) -> dict[str, float]:
        """The recording's length and, if something of it is lost, how much."""
        lost = {"lost_seconds": round(self.lost_s, 2)} if self.lost_s else {}
        return {"duration": round(self.seconds, 2), **lost}


def as_json(heard: Heard) -> dict[str, Any]:
    """Return OpenAI's `Transcription`, with the usage of its whisper-1: whole seconds."""
    usage = {"type": "duration", "seconds": math.ceil(heard.seconds)}
    answer: dict[str, Any] = {"text": heard.text, "usage": usage}
    if heard.request.logprobs:
        tokens = (token for segment in heard.segments for token in segment.logprobs)
        answer["logprobs"] = logprobs_of(tokens)
    return answer


def as_verbose_json(heard: Heard, *, segments: bool) -> dict[str, Any]:
    """Return OpenAI's `TranscriptionVerbose`, with the requested granularities."""
    answer: dict[str, Any] = {
        "task": heard.request.task,
        "language": heard.spoken,
        **heard.length,
        **as_json(heard),
    }
    if segments:
        answer["segments"] = [segment_fields(*numbered) for numbered in enumerate(heard.segments)]
    if heard.request.words:
        answer["words"] = words_of(heard.segments)
    return answer


def segment_fields(index: int, segment: Segment) -> dict[str, Any]:
    """Return OpenAI's `TranscriptionSegment`."""
    return {
        "id": index,
        "seek": segment.seek,
        "start": round(segment.start_s, 2),
        "end": round(segment.end_s, 2),
        "text": segment.text,
        "tokens": [*segment.tokens],
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


def words_of(segments: Iterable[Segment]) -> list[dict[str, Any]]:
    """Return OpenAI's `TranscriptionWord` for each word."""
    return [
        {"word": word.text.strip(), "start": round(word.start_s, 2), "end": round(word.end_s, 2)}
        for segment in segments
        for word in segment.words
    ]


def logprobs_of(tokens: Iterable[Token]) -> list[dict[str, Any]]:
    """Return OpenAI's `Logprob` for each token."""
    return [
        {"token": token.text, "logprob": token.logprob, "bytes": [*token.data]} for token in tokens
    ]


def usage_by_tokens(seconds: float, prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Return the usage of OpenAI's other models, the only one that streams know."""
    audio_tokens = math.ceil(seconds * AUDIO_TOKENS_PER_SECOND)
    input_tokens = audio_tokens + prompt_tokens
    return {
        "type": "tokens",
        "input_tokens": input_tokens,
        "input_token_details": {"audio_tokens": audio_tokens, "text_tokens": prompt_tokens},
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
    }


def text_piece(index: int, segment: Segment) -> str:
    """Return a segment as a part of the plain text."""
    return segment.text if index else segment.text.lstrip()


def srt_cue(index: int, segment: Segment) -> str:
    """Return a segment as a SubRip cue, with the blank line after it."""
    begin, end = _clock(segment.start_s, ","), _clock(segment.end_s, ",")
    return f"{index + 1}\n{begin} --> {end}\n{_line(segment.text)}\n\n"


def vtt_cue(_index: int, segment: Segment) -> str:
    """Return a segment as a WebVTT cue (W3C, section 4.1), with the blank line after it."""
    begin, end = _clock(segment.start_s, "."), _clock(segment.end_s, ".")
    return f"{begin} --> {end}\n{escape(_line(segment.text), quote=False)}\n\n"


VTT_HEAD: Final = "WEBVTT\n\n"
_CUES: Final = {"text": text_piece, "srt": srt_cue, "vtt": vtt_cue}


def _line(text: str) -> str:
    """Return the text on one line: a blank line would end the cue, an arrow start another."""
    return " ".join(text.split()).replace("-->", "->")


def _clock(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"
