"""What the speech role reads on the wire, JSON and forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from services.openai.refusals import missing
from services.openai.speech import ConsentName, SpeechBody, SpeechFields
from services.openai.unknown import read
from services.speech.refusals import check_alone

if TYPE_CHECKING:
    from collections.abc import Mapping

Fields = TypeVar("Fields", bound=SpeechFields)


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


def parse_consent_name(data: bytes) -> ConsentName:
    """Return the body as it was sent.

    Raises:
        InvalidRequestError: as for `parse_speech_body`.
    """
    return read(ConsentName, data)


def parse_fields(model: type[Fields], given: Mapping[str, str]) -> Fields:
    """Return the text fields of a form, or of a query, as `model`.

    Raises:
        InvalidRequestError: a field at fault, which `param` names.
    """
    return read(model, given)
