"""Checks on speech requests beyond the types of their fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.errors import InvalidRequestError
from services.openai.reading import ignore, read
from services.openai.refusals import missing
from services.openai.speech import SpeechBody
from services.speech.engines.protocol import Capability

if TYPE_CHECKING:
    from services.openai.speech import Manner
    from services.speech.engines.protocol import SpeechEngine


def parse_speech_body(data: bytes) -> SpeechBody:
    """Return the parsed body.

    Raises:
        InvalidRequestError: the JSON is malformed, or the field in `param` is invalid; `code` is
            one of OpenAI's.
    """
    body = read(SpeechBody, data)
    check_voice(body)
    return body


def check_voice(asked: Manner) -> None:
    """Raise unless there is a voice, or a recording with what belongs to it.

    Raises:
        InvalidRequestError: `voice` is missing, or what needs `ref_audio` came without it.
    """
    if asked.ref_audio is None:
        if asked.voice is None:
            raise missing("voice")
        check_alone("ref_text", asked.ref_text)
        check_alone("consent", asked.consent)


def check_alone(field: str, given: str | None) -> None:
    """Refuse a field that needs `ref_audio`, in a request without one.

    Raises:
        InvalidRequestError: the field was given (`invalid_value`).
    """
    if given is not None:
        raise InvalidRequestError(
            f"{field} needs ref_audio, which is missing; leave it out",
            param=field,
            code="invalid_value",
        )


def instructions_for(engine: SpeechEngine, given: str | None) -> str | None:
    """Return the instructions, or None if `engine` cannot follow any; they are then ignored.

    The spoken text does not depend on them, and clients send them to every model.

    Raises:
        InvalidRequestError: BENTOVOX_STRICT forbids ignored fields (`unknown_parameter`).
    """
    if not given:
        return None
    if Capability.INSTRUCTIONS in engine.capabilities:
        return given
    ignore("instructions")
    return None
