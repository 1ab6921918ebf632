"""What was said, as OpenAI answers it: a JSON document, text, subtitles or server-sent events."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
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
    heard: list[Segment] = field(default_factory=list)  # so far

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
                    self.heard.extend([segment async for segment in segments])
                    await self._send_document(send)
        except ServiceError:
            raise
        except Exception as error:
            engine = self.engine.name
            raise EngineError(f"the {engine} engine failed", code="engine_failed") from error
        finally:
            if self.recording.seconds:
                self.on_audio_seconds(self.recording.seconds)

    async def _send_document(self, send: Send) -> None:
        lost_s = self.recording.lost_s
        lost = [(LOST_HEADER, f"{lost_s:.2f}".encode())] if lost_s else []
        plain = self.response_format == "json"
        await send_json(send, self.as_json() if plain else self.as_verbose_json(), lost)

    async def _stream(self, segments: AsyncGenerator[Segment, None], send: Send) -> None:
        written = self.response_format
        segment = await anext(segments, None)  # before the headers, since it may fail
        await send(stream_head(EVENT_STREAM if self.as_events else TEXT_TYPES[written]))
        if written == "vtt":
            await send(chunk(VTT_HEAD.encode()))
        while segment is not None:
            if self.as_events:
                piece = self._events(len(self.heard), segment)
            else:
                piece = _CUES[written](len(self.heard), segment).encode()
            await send(chunk(piece))
            self.heard.append(segment)
            segment = await anext(segments, None)
        end = b"\n" if written == "text" else b""
        body = self._done() if self.as_events else end
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

    def _done(self) -> bytes:
        usage = usage_by_tokens(
            self.recording.seconds,
            len(self.request.prompt.split()),
            sum(len(segment.tokens) for segment in self.heard),
        )
        done = {"type": "transcript.text.done", **self.as_json(), "usage": usage}
        if self.response_format == "verbose_json":
            done |= self._language_and_length()
        return event(done)

    def as_json(self) -> dict[str, Any]:
        """Return OpenAI's `Transcription`, with the usage of its whisper-1: whole seconds."""
        answer: dict[str, Any] = {
            "text": "".join(segment.text for segment in self.heard).strip(),
            "usage": {"type": "duration", "seconds": math.ceil(self.recording.seconds)},
        }
        if self.request.logprobs:
            tokens = (token for segment in self.heard for token in segment.logprobs)
            answer["logprobs"] = logprobs_of(tokens)
        return answer

    def as_verbose_json(self) -> dict[str, Any]:
        """Return OpenAI's `TranscriptionVerbose`, with the requested granularities."""
        answer = {"task": self.request.task, **self._language_and_length(), **self.as_json()}
        if self.with_segments:
            answer["segments"] = [segment_fields(*numbered) for numbered in enumerate(self.heard)]
        if self.request.words:
            answer["words"] = words_of(self.heard)
        return answer

    def _language_and_length(self) -> dict[str, Any]:
        """Return the language as Whisper writes it, `english`, and what there is of the recording.

        If something of it is lost, `lost_seconds` says how much.
        """
        code = self.heard[0].language if self.heard else self.request.language
        name = _SILENCE if code is None else NAMES.get(code, code).lower()
        lost_s = self.recording.lost_s
        lost = {"lost_seconds": round(lost_s, 2)} if lost_s else {}
        return {"language": name, "duration": round(self.recording.seconds, 2), **lost}


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
