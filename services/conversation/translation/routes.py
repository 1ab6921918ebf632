"""LibreTranslate's paths: /translate, /detect and /languages.

Errors are OpenAI's object, as everywhere.
"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import islice
from typing import Final, TypeVar
from urllib.parse import parse_qs

from python_multipart.multipart import parse_options_header
from starlette.types import Receive, Scope

from services.backends.client import Caller
from services.backends.pools import Pools
from services.conversation.translation.chat_model import ChatModel
from services.conversation.translation.languages import AUTO, NAMES, known_code
from services.conversation.translation.markup import planned_html
from services.conversation.translation.texts import (
    Plan,
    Translate,
    by_workers,
    has_words,
    planned,
    translated,
)
from services.errors import InvalidRequestError, TooLargeError
from services.openai.answers import Call
from services.openai.body import header, not_read, until_hangup, whole
from services.openai.forms import FormFields, read_form
from services.openai.reading import invalid
from services.openai.reading import read as validated
from services.openai.translation import (
    DetectBody,
    Detection,
    LanguageAnswer,
    TranslateBody,
    Translated,
    TranslationBody,
)
from services.settings.sections import TranslationSettings

_PLANNED_HERE: Final = 4000
"""More characters are planned in a thread, since that takes more than a few milliseconds."""

_QUESTIONS_A_SLOT: Final = 250
"""Calls of the model for which a request takes one more slot."""

_BYTES_PER_CHARACTER: Final = 12  # as JSON's \uXXXX\uXXXX, or %XX%XX%XX%XX in a form
_AROUND_BYTES: Final = 64 * 1024
_FORM_FIELDS: Final = 16
_ACCEPTED: Final = "application/json, application/x-www-form-urlencoded or multipart/form-data"
_NOBODY_KNOWS: Final[Detection] = {"confidence": 0.0, "language": "en"}
"""The answer for a text without letters, as in LibreTranslate."""


Body = TypeVar("Body", bound=TranslationBody)


class Translation:
    """Returns the answers of the paths.

    Each raises `ServiceError` if a request is refused or the chat backend failed, and
    `ClientGoneError` if the client hung up.
    """

    def __init__(self, pools: Pools, limits: TranslationSettings) -> None:
        """Translate with the chat backends of `pools`, within `limits`."""
        self._pools = pools
        self._limits = limits

    @property
    def languages(self) -> list[LanguageAnswer]:
        """The answer to GET /languages."""
        return [{"code": code, "name": name, "targets": [*NAMES]} for code, name in NAMES.items()]

    async def detect(self, call: Call) -> list[Detection]:
        """Return the answer to POST /detect."""
        body = await read(call.scope, call.receive, DetectBody, self._limits)
        check_texts([body.q], self._limits)
        return [await until_hangup(call.receive, self._detect(body.q, call.scope))]

    async def translate(self, call: Call) -> Translated:
        """Return the answer to POST /translate."""
        body = await read(call.scope, call.receive, TranslateBody, self._limits)
        return await until_hangup(call.receive, self._translate(body, call.scope))

    async def _translate(self, body: TranslateBody, scope: Scope) -> Translated:
        source = None if body.source.lower() == AUTO else known_code(body.source, "source")
        target = known_code(body.target, "target")
        check_texts(body.texts, self._limits, body.translations)
        plans = await self._planned(body)
        questions = body.translations * sum(plan.questions for plan in plans)
        if questions > self._limits.piece_limit:
            raise TooLargeError(
                f"q has {questions} pieces to translate, those of alternatives included; at most "
                f"{self._limits.piece_limit} are accepted in one request",
                param="q",
                code="too_many_pieces",
            )
        await scope["bentovox.weigh"](1 + questions // _QUESTIONS_A_SLOT)
        model = await self._model(scope)
        told: list[Detection] = []
        if source is None:
            jobs = (partial(_detected, model, text) for text in body.texts)
            told = await by_workers(jobs, self._limits.parallel)
        orders: list[tuple[Plan, Translate | None]] = []
        for index, plan in enumerate(plans):
            spoken = source or told[index]["language"]
            way = partial(model.translate, source=spoken, target=target)
            orders += [
                (plan, None if spoken == target else partial(way, variant=number))
                for number in range(body.translations)
            ]
        said = iter(await translated(orders, self._limits.parallel))
        rows = [[*dict.fromkeys(islice(said, body.translations))] for _ in plans]
        alone = isinstance(body.q, str)
        texts = [row[0] for row in rows]
        answer: Translated = {"translatedText": texts[0] if alone else texts}
        if source is None:
            answer["detectedLanguage"] = told[0] if alone else told
        if body.alternatives:
            others = [row[1:] for row in rows]
            answer["alternatives"] = others[0] if alone else others
        return answer

    async def _planned(self, body: TranslateBody) -> list[Plan]:
        plan = planned_html if body.format == "html" else planned
        if sum(map(len, body.texts)) <= _PLANNED_HERE:
            return [plan(text) for text in body.texts]
        return await asyncio.to_thread(lambda: [plan(text) for text in body.texts])

    async def _detect(self, text: str, scope: Scope) -> Detection:
        return await _detected(await self._model(scope), text)

    async def _model(self, scope: Scope) -> ChatModel:
        caller = Caller(self._pools, scope["bentovox.request_id"])
        return ChatModel(caller, await caller.card("chat", self._limits.model or None))


async def _detected(model: ChatModel, text: str) -> Detection:
    return await model.detect(text) if has_words(text) else _NOBODY_KNOWS


async def read(
    scope: Scope, receive: Receive, model: type[Body], limits: TranslationSettings
) -> Body:
    """Return the body, which may be JSON or either kind of form; some clients send a query instead.

    ServiceError if it is anything else, invalid, or larger than `limits` allow; ClientGoneError if
    the client hung up while sending it.
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
    """Check the number and the length of the texts, each and in all, times `translations`.

    InvalidRequestError if there are too many, TooLargeError if they are too long.
    """
    if len(texts) > limits.batch_limit:
        why = f"{len(texts)} texts; at most {limits.batch_limit} are accepted"
        raise invalid("q", why, "array_above_max_length")
    longest, total = max(map(len, texts), default=0), translations * sum(map(len, texts))
    long = ""
    if longest > limits.char_limit:
        long = f"has a text of {longest} characters; at most {limits.char_limit} are accepted"
    elif total > limits.total_limit:
        long = (
            f"translated {translations} times is {total} characters; at most "
            f"{limits.total_limit} are accepted in one request"
        )
    if long:
        raise TooLargeError(f"q {long}", param="q", code="string_above_max_length")


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
            raise invalid(name, "was sent twice", "duplicate_parameter")
    return {name: value for name, (value,) in given.items() if value}  # empty ones: not sent
