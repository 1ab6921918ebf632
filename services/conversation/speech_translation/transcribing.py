"""The first stage: a recording to segments, by the transcription backend, while it listens."""

from __future__ import annotations

import secrets
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from services.backends.client import Question
from services.conversation.speech_translation.segments import Segment, Tally
from services.conversation.speech_translation.stages import fields_named
from services.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from services.backends.client import Caller

PATH: Final = "/v1/audio/transcriptions"

_SURE: Final = -1.0  # mean logarithm of probability from which Whisper itself takes its text
_SILENT: Final = 0.6  # probability of silence above which it takes none
_NAMES: Final = {"language": "source_language"}


@dataclass(frozen=True)
class Recording:
    """What to transcribe, and how.

    Attributes:
        data: the file.
        model: what transcribes it.
        language: Whisper's code; None to detect it.
        prompt: as in audio/transcriptions.
    """

    data: bytes
    model: str
    language: str | None = None
    prompt: str = ""


async def transcribe(
    caller: Caller, recording: Recording, tally: Tally
) -> AsyncGenerator[Segment, None]:
    """Yield what is said in a recording, segment by segment, as soon as each is known.

    Raises:
        ServiceError: what the transcription backend refuses, or that it broke off.
    """
    texts = {
        "model": recording.model,
        "response_format": "verbose_json",
        "stream": "true",
        "chunking_strategy": "auto",
        "language": recording.language,
        "prompt": recording.prompt,
    }
    boundary, body = _form({name: text for name, text in texts.items() if text}, recording.data)
    question = Question(
        "transcription",
        PATH,
        body,
        content_type=f"multipart/form-data; boundary={boundary}",
        model=recording.model,
    )
    with fields_named(_NAMES):
        async with caller.answer(question) as answer, aclosing(answer.events()) as events:
            async for event in events:
                if event.get("type") == "transcript.text.segment":
                    yield _segment(event)
                elif event.get("type") == "transcript.text.done":
                    tally.input_tokens = _tokens(event)


def _segment(event: Mapping[str, Any]) -> Segment:
    try:
        return Segment(
            start_s=float(event["start"]),
            end_s=float(event["end"]),
            text=str(event["text"]),
            language=event.get("language"),
            clear=event.get("avg_logprob", 0.0) > _SURE
            and event.get("no_speech_prob", 0.0) < _SILENT,
        )
    except (LookupError, TypeError, ValueError) as exc:
        raise BackendError("The transcription service's answer cannot be read.") from exc


def _tokens(event: Mapping[str, Any]) -> int:
    usage = event.get("usage")
    tokens = usage.get("input_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0


def _form(texts: Mapping[str, str], recording: bytes) -> tuple[str, list[bytes]]:
    """Return a boundary, and the parts of the form as multipart/form-data (RFC 7578) with it."""
    boundary = secrets.token_hex(16)  # 128 random bits are in no recording
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
