"""Sessions of clients that were written for the beta of OpenAI's realtime API.

Their `transcription_session.update` has the same settings under other names (openai-python,
`openai/types/beta/realtime/transcription_session_update.py`). All their other events are the same;
the server's `conversation.item.created` has since become two events.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

from services.errors import ServiceError
from services.openai.reading import Fields
from services.openai.realtime import (
    ClientEvent,
    FormatFields,
    InputFields,
    TranscriptionFields,
    TurnDetectionFields,
)
from services.transcription.live.session import AudioFields, Include, SessionFields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.audio.formats import LiveFormat
    from services.transcription.live.session import Session

_FORMATS: Final[dict[str, LiveFormat]] = {
    "pcm16": "audio/pcm",
    "g711_ulaw": "audio/pcmu",
    "g711_alaw": "audio/pcma",
}
_NAMES: Final = {
    "format": "input_audio_format",
    "transcription": "input_audio_transcription",
    "turn_detection": "turn_detection",
    "noise_reduction": "input_audio_noise_reduction",
}
_NOW: Final = "session.audio.input."


class BetaFields(Fields):
    """`session` of a `transcription_session.update`."""

    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] | None = None
    input_audio_transcription: TranscriptionFields | None = None
    turn_detection: TurnDetectionFields | None = None
    input_audio_noise_reduction: object = None
    include: list[Include] | None = None

    def now(self) -> SessionFields:
        """Return the same settings under today's names."""
        given: dict[str, Any] = {
            now: getattr(self, before)
            for now, before in _NAMES.items()
            if before in self.model_fields_set
        }
        if self.input_audio_format is not None:
            given["format"] = FormatFields(type=_FORMATS[self.input_audio_format])
        more = {"include": self.include} if "include" in self.model_fields_set else {}
        audio = AudioFields(input=InputFields(**given))
        return SessionFields(type="transcription", audio=audio, **more)


class BetaUpdate(ClientEvent):
    """`transcription_session.update`."""

    session: BetaFields


def shown_in_the_beta(session: Session) -> dict[str, object]:
    """Return the session as in the beta."""
    shown: Any = session.shown()
    given = shown["audio"]["input"]
    names = {now: before for before, now in _FORMATS.items()}
    return {
        "id": session.id,
        "object": shown["object"],
        **{before: given[now] for now, before in _NAMES.items()},
        "input_audio_format": names[session.live_format],
        "include": shown["include"],
    }


@contextmanager
def named_as_in_the_beta() -> Iterator[None]:
    """Let errors name their field as in the beta."""
    try:
        yield
    except ServiceError as error:
        if error.param is None or not error.param.startswith(_NOW):
            raise
        first, dot, rest = error.param.removeprefix(_NOW).partition(".")
        param = f"session.{_NAMES[first]}{dot}{rest}"
        message = error.message.replace(error.param, param)
        raise type(error)(message, param=param, code=error.code) from error
