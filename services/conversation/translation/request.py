"""Reads and checks the bodies of POST /translate and /detect, which are JSON or a form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import parse_qs

from python_multipart.multipart import parse_options_header

from services.errors import InvalidRequestError, TooLargeError
from services.openai.body import header, not_read, whole
from services.openai.forms import FormFields, read_form
from services.openai.reading import read as validated
from services.openai.translation import TranslateBody, TranslationBody

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from services.settings.sections import TranslationSettings

_BYTES_PER_CHARACTER: Final = 12  # as JSON's \uXXXX\uXXXX, or %XX%XX%XX%XX in a form
_AROUND_BYTES: Final = 64 * 1024
_FORM_FIELDS: Final = 16
_ACCEPTED: Final = "application/json, application/x-www-form-urlencoded or multipart/form-data"

Body = TypeVar("Body", bound=TranslationBody)


async def read(
    scope: Scope, receive: Receive, model: type[Body], limits: TranslationSettings
) -> Body:
    """Return the body, which may be JSON or either kind of form.

    Some clients send a query instead of a body.

    Raises:
        UnsupportedMediaError: it has another content type.
        InvalidRequestError: it is malformed, or a field, which is `param`, is invalid.
        TooLargeError: it is larger than `limits` allow.
        ClientGoneError: the client hung up while sending it.
    """
    text_bytes = _BYTES_PER_CHARACTER * limits.char_limit + _AROUND_BYTES
    given = header(scope, b"content-type")
    kind, _ = parse_options_header(given)
    if kind == b"application/json":
        all_bytes = _BYTES_PER_CHARACTER * limits.total_limit + _AROUND_BYTES
        most_bytes = max(text_bytes, all_bytes) if model is TranslateBody else text_bytes
        return validated(model, await whole(scope, receive, most_bytes))
    if kind == b"multipart/form-data":
        fields = FormFields(frozenset(model.model_fields), {}, text_bytes=text_bytes)
        form = await read_form(scope, receive, fields)
        return validated(model, form.texts)
    if kind == b"application/x-www-form-urlencoded":
        return validated(model, _urlencoded(await whole(scope, receive, text_bytes)))
    if not kind and scope["query_string"]:
        return validated(model, _urlencoded(scope["query_string"]))
    raise not_read(given, _ACCEPTED)


def check_texts(texts: list[str], limits: TranslationSettings, translations: int = 1) -> None:
    """Check the number and length of the texts.

    Raises:
        InvalidRequestError: there are too many (`array_above_max_length`).
        TooLargeError: one is too long, or all together are, times `translations`
            (`string_above_max_length`).
    """
    if len(texts) > limits.batch_limit:
        raise InvalidRequestError(
            f"q has {len(texts)} texts; at most {limits.batch_limit} are accepted",
            param="q",
            code="array_above_max_length",
        )
    for text in texts:
        if len(text) > limits.char_limit:
            raise TooLargeError(
                f"q has a text of {len(text)} characters; at most {limits.char_limit} are accepted",
                param="q",
                code="string_above_max_length",
            )

    total = translations * sum(map(len, texts))
    if total > limits.total_limit:
        raise TooLargeError(
            f"q, translated {translations} times, is {total} characters; at most "
            f"{limits.total_limit} are accepted in one request",
            param="q",
            code="string_above_max_length",
        )


def check_questions(count: int, limits: TranslationSettings) -> None:
    """Check how often a translation calls the model.

    Raises:
        TooLargeError: too often (`too_many_pieces`).
    """
    if count > limits.piece_limit:
        raise TooLargeError(
            f"q has {count} pieces to translate, those of alternatives included; at most "
            f"{limits.piece_limit} are accepted in one request",
            param="q",
            code="too_many_pieces",
        )


def _urlencoded(body: bytes) -> dict[str, str]:
    try:
        given = parse_qs(
            body.decode(),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=_FORM_FIELDS,
        )
    except ValueError as exc:  # UnicodeDecodeError is one
        raise InvalidRequestError("the body is not a valid form", code="invalid_form") from exc
    for name, values in given.items():
        if len(values) > 1:
            raise InvalidRequestError(
                f"{name} was sent twice", param=name, code="duplicate_parameter"
            )
    return {name: value for name, (value,) in given.items() if value}  # empty ones: not sent
