"""What was heard, in each of OpenAI's response formats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from services.languages import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.transcription.engines.protocol import Segment, Task, Token


AUDIO_TOKENS_PER_SECOND: Final = 10
"""What `usage` counts in a stream of events: OpenAI's rate for its transcribing models."""

_SILENCE: Final = "unknown"  # the language of a recording in which nobody speaks


@dataclass(frozen=True)
class Heard:
    """A whole transcription.

    Attributes:
        segments: of speech, in their order.
        task: what was asked for.
        language: that was named, if one was.
        seconds: how long the recording is, as far as it could be decoded.
        lost_s: how much more it should be.
    """

    segments: Sequence[Segment]
    task: Task
    language: str | None
    seconds: float
    lost_s: float = 0.0

    @property
    def text(self) -> str:
        """Everything that was said."""
        return "".join(segment.text for segment in self.segments).strip()

    @property
    def spoken(self) -> str:
        """The language's name as Whisper writes it: `english`."""
        code = self.segments[0].language if self.segments else self.language
        return _SILENCE if code is None else NAMES.get(code, code).lower()


def as_json(heard: Heard, *, logprobs: bool) -> dict[str, Any]:
    """Return OpenAI's `Transcription`."""
    answer: dict[str, Any] = {"text": heard.text, "usage": usage_by_duration(heard.seconds)}
    if logprobs:
        answer["logprobs"] = [one for part in heard.segments for one in logprobs_of(part.logprobs)]
    return answer


def as_verbose_json(heard: Heard, *, segments: bool, words: bool) -> dict[str, Any]:
    """Return OpenAI's `TranscriptionVerbose`, with the granularities that were asked for."""
    answer: dict[str, Any] = {
        "task": heard.task,
        "language": heard.spoken,
        **length_of(heard),
        "text": heard.text,
        "usage": usage_by_duration(heard.seconds),
    }
    if segments:
        answer["segments"] = [segment_fields(*numbered) for numbered in enumerate(heard.segments)]
    if words:
        answer["words"] = [one for segment in heard.segments for one in words_of(segment)]
    return answer


def length_of(heard: Heard) -> dict[str, Any]:
    """Return the recording's length, and what of it is lost, where something is."""
    lost = {"lost_seconds": round(heard.lost_s, 2)} if heard.lost_s else {}
    return {"duration": round(heard.seconds, 2), **lost}


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


def words_of(segment: Segment) -> Iterator[dict[str, Any]]:
    """Yield OpenAI's `TranscriptionWord` for each word."""
    for word in segment.words:
        begin, end = round(word.start_s, 2), round(word.end_s, 2)
        yield {"word": word.text.strip(), "start": begin, "end": end}


def logprobs_of(tokens: Sequence[Token]) -> Iterator[dict[str, Any]]:
    """Yield OpenAI's `Logprob` for each token."""
    for token in tokens:
        yield {"token": token.text, "logprob": token.logprob, "bytes": [*token.data]}


def usage_by_duration(seconds: float) -> dict[str, Any]:
    """Return what OpenAI's whisper-1 counts: whole seconds, rounded up."""
    return {"type": "duration", "seconds": math.ceil(seconds)}


def usage_by_tokens(seconds: float, prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Return what OpenAI's other models count, which is all that their streams know."""
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
    """Return what a segment adds to the plain text."""
    return segment.text if index else segment.text.lstrip()


def srt_cue(index: int, segment: Segment) -> str:
    """Return a segment as a SubRip cue with the blank line behind it."""
    begin, end = _clock(segment.start_s, ","), _clock(segment.end_s, ",")
    return f"{index + 1}\n{begin} --> {end}\n{_line(segment.text)}\n\n"


def vtt_cue(_index: int, segment: Segment) -> str:
    """Return a segment as a WebVTT cue (W3C, section 4.1) with the blank line behind it."""
    begin, end = _clock(segment.start_s, "."), _clock(segment.end_s, ".")
    text = _line(segment.text)
    for character, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, written)
    return f"{begin} --> {end}\n{text}\n\n"


VTT_HEAD: Final = "WEBVTT\n\n"


def _line(text: str) -> str:
    """Return the text as one line: a blank one would end the cue, an arrow begin another."""
    return " ".join(text.split()).replace("-->", "->")


def _clock(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"
