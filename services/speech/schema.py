"""What speech refuses or ignores in a request beyond what its fields' types say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.errors import InvalidRequestError
from services.openai.refusals import missing
from services.openai.speech import SpeechBody
from services.openai.unknown import ignore, read
from services.speech.engines.protocol import Capability

if TYPE_CHECKING:
    from services.speech.engines.protocol import SpeechEngine


def parse_speech_body(data: bytes) -> SpeechBody:
    """Return the body as it was sent.

    Raises:
        InvalidRequestError: malformed JSON or a field at fault, which `param` names; `code` is one
            of OpenAI's own words for it.
    """
    body = read(SpeechBody, data)
    if body.ref_audio is None:
        if body.voice is None:
            raise missing("voice")
        check_alone("ref_text", body.ref_text)
        check_alone("consent", body.consent)
    return body


def check_alone(field: str, given: str | None) -> None:
    """Refuse a field that goes with `ref_audio` where there is none.

    Raises:
        InvalidRequestError: it is there (`invalid_value`).
    """
    if given is not None:
        raise InvalidRequestError(
            f"{field} goes with ref_audio, which is not there; leave it out",
            param=field,
            code="invalid_value",
        )


def instructions_for(engine: SpeechEngine, given: str | None) -> str | None:
    """Return the instructions, or None where `engine` cannot follow any; they are then ignored.

    Nothing that is said is lost with them, and clients send them to whatever model there is.

    Raises:
        InvalidRequestError: nothing is ignored here (`unknown_parameter`).
    """
    if not given:
        return None
    if Capability.INSTRUCTIONS in engine.capabilities:
        return given
    ignore("instructions")
    return None
