"""The settings of a live session, and how a client's `session.update` changes them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, get_args

import numpy as np

from services.audio.formats import LiveFormat
from services.audio.pcm import Samples
from services.errors import InvalidRequestError, NotFoundError
from services.openai import realtime
from services.openai.models import Models
from services.openai.reading import Fields, ignore, invalid
from services.openai.transcription import any_of
from services.transcription.engines import protocol

TURNS: Final = protocol.Cutting(silence_duration_ms=500)
"""How turns are found by default, as at OpenAI."""

Include = Literal["item.input_audio_transcription.logprobs"]

_CLIENTS_COMMIT: Final = ("gpt-realtime-whisper", "gpt-live-transcribe")
"""Models for which OpenAI detects no turns; LiveKit and Pipecat then send no `turn_detection`."""

_AT: Final = "session.audio.input"
_ANSWERING: Final = ("create_response", "interrupt_response", "idle_timeout_ms", "eagerness")


class AudioFields(Fields):
    """`session.audio`."""

    input: realtime.InputFields | None = None


class SessionFields(Fields):
    """`session` of a `session.update`."""

    type: str
    audio: AudioFields | None = None
    include: list[Include] | None = None


class SessionUpdate(realtime.ClientEvent):
    """`session.update`."""

    session: SessionFields


@dataclass(frozen=True)
class Session(protocol.Hints):
    """The settings in force; with `turn_detection` "default" the model decides."""

    id: str
    model: str  # the name that the client uses for the engine's model
    live_format: LiveFormat = "audio/pcm"  # of the audio that comes in
    turn_detection: protocol.Cutting | Literal["default"] | None = "default"
    logprobs: bool = False  # whether the final text comes with them

    @property
    def turns(self) -> protocol.Cutting | None:
        """How turns are found; None if the client commits them itself."""
        if self.turn_detection == "default":
            return None if self.model.startswith(_CLIENTS_COMMIT) else TURNS
        return self.turn_detection

    def shown(self) -> dict[str, object]:
        """Return OpenAI's session object."""
        turns = self.turns and {"type": "server_vad", **asdict(self.turns)}
        if turns and not turns["min_speech_duration_ms"]:  # which is none of OpenAI's fields
            del turns["min_speech_duration_ms"]
        transcription: dict[str, object] = {
            "model": self.model,
            "language": self.language,
            "prompt": self.prompt,
        }
        given = {"languages": list(self.languages), "keywords": list(self.keywords)}
        transcription |= {name: words for name, words in given.items() if words}
        return {
            "id": self.id,
            "object": "realtime.transcription_session",
            "type": "transcription",
            "audio": {
                "input": {
                    "format": realtime.format_object(self.live_format),
                    "transcription": transcription,
                    "noise_reduction": None,
                    "turn_detection": turns,
                }
            },
            "include": [*get_args(Include)] if self.logprobs else None,
        }

    def hints(self, prompt: str, language: str | None) -> dict[str, Any]:
        """Return the engine's `Hints`; `language` is the turn's, once it is known."""
        return {
            "language": language or self.language,
            "languages": () if language else self.languages,
            "prompt": prompt,
            "keywords": self.keywords,
        }

    def request(
        self, samples: Samples, prompt: str, language: str | None = None
    ) -> protocol.TranscriptionRequest:
        """Return the request for the final text of some samples."""
        return protocol.TranscriptionRequest(
            [samples],
            logprobs=self.logprobs,
            # A turn that the server finds has little silence; a client may commit any amount.
            cutting=protocol.SPEECH_ONLY if self.turns is None else None,
            **self.hints(prompt, language),
        )


def updated(
    session: Session, update: SessionFields, engine: protocol.TranscriptionEngine, models: Models
) -> Session:
    """Return the session with everything that `update` changes.

    InvalidRequestError for what is not supported, NotFoundError for a model that is not served,
    UnavailableError if the engine is not ready.
    """
    if update.type != "transcription":
        why = (
            f"{update.type!r} is not served here: this is live transcription, send 'transcription'"
        )
        raise invalid("session.type", why, "unsupported_value")
    if "include" in update.model_fields_set:
        session = replace(session, logprobs=bool(update.include))
    given = (update.audio and update.audio.input) or realtime.InputFields()
    if given.format is not None:
        session = replace(session, live_format=given.format.checked(f"{_AT}.format"))
    if "turn_detection" in given.model_fields_set:
        session = replace(session, turn_detection=_turns(given.turn_detection))
    if given.transcription is None and "transcription" in given.model_fields_set:
        raise _unsupported("transcription", "cannot be off in a session that does nothing else")
    if given.transcription is not None:
        session = _transcribing(session, given.transcription)
    try:
        models.check(session.model)
        engine.check(session.request(np.zeros(0, dtype=np.float32), session.prompt))
    except (NotFoundError, InvalidRequestError) as error:
        place = "session" if error.param == "include" else f"{_AT}.transcription"
        param = error.param and f"{place}.{error.param}"
        raise type(error)(error.message, param=param, code=error.code) from error
    # Nobody answers here, and audio is heard as it comes.
    ignored = {
        "noise_reduction": given.noise_reduction,
        "transcription.delay": given.transcription and given.transcription.delay,
        **{f"turn_detection.{one}": getattr(given.turn_detection, one, None) for one in _ANSWERING},
    }
    for name, value in ignored.items():
        if value is not None and value is not False:
            ignore(f"{_AT}.{name}")
    return session


def _transcribing(session: Session, given: realtime.TranscriptionFields) -> Session:
    if given.language is not None and given.languages:
        why = "languages and language are two answers to one question; send one of them"
        raise invalid(f"{_AT}.transcription.languages", why)
    return replace(
        session,
        model=given.model or session.model,
        language=given.language,
        languages=any_of(tuple(given.languages or ())),
        prompt=given.prompt or "",
        keywords=tuple(given.keywords or ()),
    )


def _turns(given: realtime.TurnDetectionFields | None) -> protocol.Cutting | None:
    if given is None:
        return None
    if given.type != "server_vad":
        raise _unsupported(
            "turn_detection.type", f"{given.type!r} is not offered; send 'server_vad', or null"
        )
    return replace(TURNS, **given.model_dump(include={*asdict(TURNS)}, exclude_none=True))


def _unsupported(field: str, why: str) -> InvalidRequestError:
    return invalid(f"{_AT}.{field}", why, "unsupported_value")
