"""What a live session is set to, and how a client's `session.update` changes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field

from services.errors import InvalidRequestError, NotFoundError
from services.openai.realtime import ClientEvent, Fields, FormatFields, format_object
from services.openai.transcription import MOST_KEYWORDS, MOST_LANGUAGES, Keyword, Language, any_of
from services.openai.unknown import ignore
from services.transcription.engines.protocol import (
    SPEECH_ONLY,
    Cutting,
    GuessRequest,
    TranscriptionRequest,
)
from services.transcription.model_names import check_model, commits

if TYPE_CHECKING:
    from services.audio.live import LiveFormat
    from services.audio.pcm import Samples
    from services.errors import ServiceError
    from services.openai.models import Models
    from services.transcription.engines.protocol import TranscriptionEngine

PROMPT_CHARACTERS: Final = 4096

TURNS: Final = Cutting(silence_duration_ms=500)
"""How turns are found unless a client says otherwise: OpenAI's defaults."""

LOGPROBS: Final = "item.input_audio_transcription.logprobs"

_NAME: Final = 256
_LONGEST_MS: Final = 10_000
_AT: Final = "session.audio.input"
_ANSWERING: Final = ("create_response", "interrupt_response", "idle_timeout_ms")


class TranscriptionFields(Fields):
    """What is to be heard."""

    model: Annotated[str, Field(min_length=1, max_length=_NAME)] | None = None
    language: Language | None = None
    prompt: Annotated[str, Field(max_length=PROMPT_CHARACTERS)] | None = None
    languages: Annotated[list[Language], Field(max_length=MOST_LANGUAGES)] | None = None
    keywords: Annotated[list[Keyword], Field(max_length=MOST_KEYWORDS)] | None = None
    delay: object = None


class TurnDetectionFields(Fields):
    """How turns are found; what concerns the answers of a conversation is ignored."""

    type: str
    threshold: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    prefix_padding_ms: Annotated[int, Field(ge=0, le=_LONGEST_MS)] | None = None
    silence_duration_ms: Annotated[int, Field(ge=0, le=_LONGEST_MS)] | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None
    idle_timeout_ms: int | None = None


class InputFields(Fields):
    """`session.audio.input`; what is left out stays as it is."""

    format: FormatFields | None = None
    transcription: TranscriptionFields | None = None
    turn_detection: TurnDetectionFields | None = None
    noise_reduction: object = None


class AudioFields(Fields):
    """`session.audio`."""

    input: InputFields | None = None


class SessionFields(Fields):
    """`session` of a `session.update`."""

    type: str
    audio: AudioFields | None = None
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None = None


class SessionUpdate(ClientEvent):
    """`session.update`."""

    session: SessionFields


@dataclass(frozen=True)
class Session:
    """What is in force.

    Attributes:
        id: `sess_…`.
        model: the name that the client uses for the engine's model.
        live_format: of the sound that comes in.
        language: as in `TranscriptionRequest`, likewise `languages`, `prompt` and `keywords`.
        turns: how turns are found; None where the client commits them itself.
        turns_by_model: whether that is the model's own, since the client has not said it.
        logprobs: whether the final text comes with them.
        beta: whether the client was written for the beta; see `services.transcription.beta`.
    """

    id: str
    model: str
    live_format: LiveFormat = "audio/pcm"
    language: str | None = None
    languages: tuple[str, ...] = ()
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    turns: Cutting | None = TURNS
    turns_by_model: bool = True
    logprobs: bool = False
    beta: bool = False

    @classmethod
    def begun(cls, session_id: str, model: str) -> Session:
        """Return the session of a client that has only named its model."""
        return cls(session_id, model, turns=turns_of(model))

    def shown(self) -> dict[str, object]:
        """Return OpenAI's session object."""
        transcription: dict[str, object] = {
            "model": self.model,
            "language": self.language,
            "prompt": self.prompt,
        }
        if self.languages:
            transcription["languages"] = list(self.languages)
        if self.keywords:
            transcription["keywords"] = list(self.keywords)
        return {
            "id": self.id,
            "object": "realtime.transcription_session",
            "type": "transcription",
            "audio": {
                "input": {
                    "format": format_object(self.live_format),
                    "transcription": transcription,
                    "noise_reduction": None,
                    "turn_detection": _turns_object(self.turns),
                }
            },
            "include": [LOGPROBS] if self.logprobs else None,
        }

    def guess(self, samples: Samples, prefix: str, prompt: str, language: str | None) -> Any:
        """Return the request for what an unfinished turn seems to say."""
        return GuessRequest(
            samples,
            prefix=prefix,
            language=language or self.language,
            languages=() if language else self.languages,
            prompt=prompt,
            keywords=self.keywords,
        )

    def request(
        self, samples: Samples, prompt: str, language: str | None = None
    ) -> TranscriptionRequest:
        """Return the request for what was said in the end."""
        return TranscriptionRequest(
            [samples],
            language=language or self.language,
            languages=() if language else self.languages,
            prompt=prompt,
            keywords=self.keywords,
            logprobs=self.logprobs,
            # A turn that the server finds has little silence; a client may commit any.
            cutting=SPEECH_ONLY if self.turns is None else None,
        )


def updated(
    session: Session, update: SessionFields, engine: TranscriptionEngine, models: Models
) -> Session:
    """Return the session with what `update` names, all of it or nothing.

    Raises:
        InvalidRequestError: something that is not offered here, or not by the engine.
        NotFoundError: a model that is not served.
        UnavailableError: the engine is not ready.
    """
    if update.type != "transcription":
        raise InvalidRequestError(
            f"session.type {update.type!r} is not served here: this is live transcription, send "
            "'transcription'",
            param="session.type",
            code="unsupported_value",
        )
    if "include" in update.model_fields_set:
        session = replace(session, logprobs=bool(update.include))
    given = update.audio.input if update.audio is not None else None
    if given is None:
        return session
    named = given.model_fields_set
    if given.format is not None:
        session = replace(session, live_format=given.format.checked(f"{_AT}.format"))
    if "turn_detection" in named:
        session = replace(session, turns=_turns(given.turn_detection), turns_by_model=False)
    if given.transcription is not None:
        session = _transcribing(session, given.transcription, models)
    elif "transcription" in named:
        raise _unsupported("transcription", "cannot be off in a session that does nothing else")
    if session.turns_by_model:
        session = replace(session, turns=turns_of(session.model))
    _check(session, engine)
    _note_ignored(given)
    return session


def turns_of(model: str) -> Cutting | None:
    """Return how turns are found unless the client says it."""
    return None if commits(model) else TURNS


def _note_ignored(given: InputFields) -> None:
    """Note what nothing here does: sound is heard as it comes, and nobody answers it."""
    ignored = {"noise_reduction": given.noise_reduction}
    if given.transcription is not None:
        ignored["transcription.delay"] = given.transcription.delay
    if given.turn_detection is not None:
        for name in _ANSWERING:
            ignored[f"turn_detection.{name}"] = getattr(given.turn_detection, name)
    for name, value in ignored.items():
        if value is not None and value is not False:
            ignore(f"{_AT}.{name}")


def _transcribing(session: Session, given: TranscriptionFields, models: Models) -> Session:
    if given.model is not None:
        try:
            check_model(models, given.model)
        except (NotFoundError, InvalidRequestError) as error:
            raise _placed(error) from error
    if given.language is not None and given.languages:
        param = f"{_AT}.transcription.languages"
        raise InvalidRequestError(
            f"{param} and language are two answers to one question; send one of them",
            param=param,
            code="invalid_value",
        )
    return replace(
        session,
        model=given.model or session.model,
        language=given.language,
        languages=any_of(tuple(given.languages or ())),
        prompt=given.prompt or "",
        keywords=tuple(given.keywords or ()),
    )


def _check(session: Session, engine: TranscriptionEngine) -> None:
    nothing = np.zeros(0, dtype=np.float32)
    try:
        engine.check(session.guess(nothing, "", session.prompt, None))
        engine.check(session.request(nothing, session.prompt))
    except InvalidRequestError as error:
        raise _placed(error) from error


def _turns(given: TurnDetectionFields | None) -> Cutting | None:
    if given is None:
        return None
    if given.type != "server_vad":
        raise _unsupported(
            "turn_detection.type", f"{given.type!r} is not offered; send 'server_vad', or null"
        )
    names = ("threshold", "prefix_padding_ms", "silence_duration_ms")
    values = {name: value for name in names if (value := getattr(given, name)) is not None}
    return replace(TURNS, **values)


def _turns_object(turns: Cutting | None) -> dict[str, object] | None:
    if turns is None:
        return None
    return {
        "type": "server_vad",
        "threshold": turns.threshold,
        "prefix_padding_ms": turns.prefix_padding_ms,
        "silence_duration_ms": turns.silence_duration_ms,
    }


def _unsupported(field: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{_AT}.{field} {why}", param=f"{_AT}.{field}", code="unsupported_value"
    )


def _placed(error: ServiceError) -> ServiceError:
    """Return the error with the place of its field in a `session.update`."""
    param = error.param and f"{_AT}.transcription.{error.param}"
    return type(error)(error.message, param=param, code=error.code)
