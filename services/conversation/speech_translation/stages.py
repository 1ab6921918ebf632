"""What the stages of a speech translation pass on, how they run, and the first two of them.

These go from a recording to segments, by the transcription backend, and from segments to sentences.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from services.backends.client import Caller, Question
from services.conversation.translation.texts import SENTENCE_END, cut, pieces
from services.errors import BackendError, ServiceError

if TYPE_CHECKING:
    from services.audio.pcm import Samples

PATH: Final = "/v1/audio/transcriptions"

_SURE: Final = -1.0  # the mean log probability from which Whisper accepts its text
_SILENT: Final = 0.6  # the probability of silence from which it drops its text
_NAMES: Final = {"language": "source_language"}


PAUSE_S: Final = 0.8
"""A pause that ends a sentence without a full stop."""

MOST_CHARACTERS: Final = 300
"""A longer sentence is cut, so that its translation need not wait for its end."""

_ENDS: Final = tuple(".!?\u2026\u061f\u0964\u3002\uff01\uff1f")
_CLOSING: Final = "\"'\u00bb\u201d\u2019)"


@dataclass(frozen=True)
class Segment:
    """A stretch of transcribed speech; the segments' texts, joined, are the whole transcript.

    `language` is None if the transcription does not tell, and `clear` if it is certain of the text.
    """

    start_s: float
    end_s: float
    text: str
    language: str | None = None
    clear: bool = True


@dataclass(frozen=True)
class Sentence:
    """The unit that is translated and spoken; `number` counts from 0."""

    number: int
    start_s: float
    end_s: float
    text: str
    language: str | None = None


@dataclass(frozen=True)
class Translation:
    """A sentence's translation, and the code of its language."""

    sentence: Sentence
    text: str
    language: str


@dataclass(frozen=True)
class Sound:
    """Audio of a part of a sentence's translation: float32 [N] at `OUTPUT_RATE_HZ`."""

    sentence: Sentence
    samples: Samples


Item: TypeAlias = Sentence | Translation | Sound
"""What the last stage gets: each sentence, then its translation, then its audio."""

Sparing: TypeAlias = Callable[[], AbstractAsyncContextManager[object]]
"""Makes the context in which a stage works on one sentence; it may swallow a `ServiceError`."""


AHEAD: Final = 2
"""How many sentences a stage may be ahead of the next."""

SOUNDS_AHEAD: Final = 16
"""The same for pieces of sound, each of at most `connection.HELD_BYTES`."""

Staged = TypeVar("Staged")


def piped(
    group: asyncio.TaskGroup, stage: AsyncGenerator[Staged, None], held: int
) -> AsyncGenerator[Staged, None]:
    """Run a stage as a task of `group`, and return an iterator of what it yields.

    It is at most `held` items ahead of the next stage. If it raises, the group and so all stages
    are cancelled; if the group is cancelled, the stage is closed.
    """
    queue: asyncio.Queue[tuple[Staged] | None] = asyncio.Queue(held)

    async def run() -> None:
        async with aclosing(stage) as items:
            async for item in items:
                await queue.put((item,))
        await queue.put(None)

    async def taken() -> AsyncGenerator[Staged, None]:
        while (one := await queue.get()) is not None:
            yield one[0]

    group.create_task(run())
    return taken()


def first_fault(group: ExceptionGroup[Exception]) -> Exception:
    """Return why the stages failed: the first `ServiceError`, or else the first exception."""
    faults = group.exceptions
    return next((one for one in faults if isinstance(one, ServiceError)), faults[0])


@contextmanager
def fields_named(names: Mapping[str, str | None]) -> Iterator[None]:
    """Rename the field in a backend's refusal: `names` has the client's for the backend's."""
    try:
        yield
    except ServiceError as error:
        if error.param is not None and error.param in names:
            error.param = names[error.param]
        raise


async def transcribe(
    caller: Caller, recording: bytes, fields: Mapping[str, str | None], usage: dict[str, Any]
) -> AsyncGenerator[Segment, None]:
    """Yield the segments of a recording as soon as each is transcribed; fill in `usage` at the end.

    `fields` are those of audio/transcriptions: `model`, `prompt`, and Whisper's code as `language`.
    """
    texts = {
        **fields,
        "response_format": "verbose_json",
        "stream": "true",
        "chunking_strategy": "auto",
    }
    boundary, body = _form({name: text for name, text in texts.items() if text}, recording)
    question = Question(
        "transcription",
        PATH,
        body,
        content_type=f"multipart/form-data; boundary={boundary}",
        model=fields["model"],
    )
    with fields_named(_NAMES):
        async with caller.answer(question) as answer, aclosing(answer.events()) as events:
            async for event in events:
                if (segment := _read(event, usage)) is not None:
                    yield segment


def _read(event: Mapping[str, Any], usage: dict[str, Any]) -> Segment | None:
    """Return the segment of an event that has one; the last has the usage."""
    try:
        if event["type"] == "transcript.text.segment":
            return Segment(
                start_s=float(event["start"]),
                end_s=float(event["end"]),
                text=str(event["text"]),
                language=event.get("language"),
                clear=event["avg_logprob"] > _SURE and event["no_speech_prob"] < _SILENT,
            )
        if event["type"] == "transcript.text.done":
            usage["input_tokens"] = int(event["usage"]["input_tokens"])
    except (LookupError, TypeError, ValueError) as exc:
        raise BackendError("The transcription service's answer cannot be read.") from exc
    return None


def _form(texts: Mapping[str, str], recording: bytes) -> tuple[str, list[bytes]]:
    """Return a boundary, and the body of the form (RFC 7578) in parts."""
    boundary = secrets.token_hex(16)  # 128 random bits occur in no recording
    parts = [
        b'--%b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        % (boundary.encode(), name.encode(), text.encode())
        for name, text in texts.items()
    ]
    head = (
        b'--%b\r\ncontent-disposition: form-data; name="file"; filename="recording"\r\n'
        b"content-type: application/octet-stream\r\n\r\n" % boundary.encode()
    )
    return boundary, [*parts, head, recording, b"\r\n--%b--\r\n" % boundary.encode()]


async def into_sentences(
    segments: AsyncIterator[Segment | None], longest_s: float = math.inf
) -> AsyncGenerator[Sentence, None]:
    """Join and split segments to sentences, each yielded as soon as its end is known.

    A sentence ends at a full stop, at a pause, where the language changes, or when it is too long:
    in characters, or in seconds of speech. A None stands for a pause. If several share a segment,
    its time is divided by their characters.
    """
    numbers = count()

    def sentence(part: Segment) -> Sentence:
        start_s, end_s = round(part.start_s, 2), round(part.end_s, 2)
        return Sentence(next(numbers), start_s, end_s, part.text.strip(), part.language)

    open_: Segment | None = None
    async for segment in segments:
        if segment is not None and not segment.text.strip():
            continue
        if open_ is not None and (
            segment is None
            or segment.start_s - open_.end_s >= PAUSE_S
            or segment.language != open_.language
        ):
            yield sentence(open_)
            open_ = None
        if segment is None:
            continue
        if open_ is not None:
            segment = replace(open_, end_s=segment.end_s, text=open_.text + segment.text)  # noqa: PLW2901
        *whole, open_ = _parts(segment, longest_s)
        for part in whole:
            yield sentence(part)
        if is_whole(open_.text):
            yield sentence(open_)
            open_ = None
    if open_ is not None:
        yield sentence(open_)


def is_whole(text: str) -> bool:
    """Return whether a text ends where a sentence does."""
    return text.rstrip().rstrip(_CLOSING).endswith(_ENDS)


def _parts(joined: Segment, longest_s: float) -> Iterator[Segment]:
    """Yield the sentences of a text, long ones in pieces; the last may be incomplete."""
    text, start_s = joined.text, joined.start_s
    length_s = (joined.end_s - start_s) / len(text)  # of a character
    most = MOST_CHARACTERS
    if length_s * len(text) > longest_s:
        most = min(most, max(1, int(longest_s / length_s)))
    for part in cut(text, SENTENCE_END):
        for piece in pieces(part, most):
            end_s = start_s + len(piece) * length_s
            yield replace(joined, start_s=start_s, end_s=end_s, text=piece)
            start_s = end_s
