"""LibreTranslate's paths, answered by the chat model: /translate, /detect and /languages.

Errors are OpenAI's object, as everywhere here. LibreTranslate's clients send the key in the body,
as `api_key`; so the guard of the front door lets those without a header pass, and the key is looked
for here, before anything is done.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from services.gateway.calls import Caller
from services.gateway.keys import bearer, credentials
from services.gateway.translation.languages import NAMES
from services.gateway.translation.markup import planned_html
from services.gateway.translation.model import Detected, Model
from services.gateway.translation.schema import (
    DetectBody,
    TranslateBody,
    check_questions,
    check_texts,
    read,
)
from services.gateway.translation.texts import (
    Translator,
    by_workers,
    has_words,
    planned,
    translated,
)
from services.openai.documents import send_json
from services.openai.hangup import ClientGoneError, until_hangup
from services.server.admission import Admission, Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from services.gateway.backends import Pools
    from services.gateway.keys import Keys
    from services.gateway.translation.texts import Plan

_PLANNED_HERE: Final = 4000
"""Characters that are cut into pieces in a few milliseconds, and not in a thread."""

_QUESTIONS_A_SLOT: Final = 250
"""A request that asks more of the model takes more slots."""

_NOBODY_KNOWS: Final = Detected("en", 0.0)
"""What a text without a letter is said to be, as LibreTranslate has it."""


class TranslationRoutes:
    """The paths, before the chat backends of `pools`."""

    def __init__(self, pools: Pools, keys: Keys) -> None:
        """Answer who has one of `keys`."""
        gateway = pools.gateway
        self._pools = pools
        self._keys = keys
        self._limits = gateway.translation
        self._admission = Admission(
            Limits(self._limits.slots, self._limits.queue, gateway.deadline_s)
        )
        self._languages = [
            {"code": code, "name": name, "targets": [*NAMES]} for code, name in NAMES.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, unless its client hangs up before that.

        Raises:
            ServiceError: what is wrong with it, or with the chat model.
        """
        if scope["path"] == "/languages":
            await send_json(send, self._languages)
            return
        with suppress(ClientGoneError):
            detect = scope["path"] == "/detect"
            has_header = bool(credentials(scope))  # the guard has checked it
            body: TranslateBody | DetectBody
            body = await read(
                scope,
                receive,
                DetectBody if detect else TranslateBody,
                self._limits,
                known=not self._keys or has_header,
            )
            self._keys.check(bearer(scope, body.api_key))
            work = (
                self._detect(body, scope)
                if isinstance(body, DetectBody)
                else self._translate(body, scope)
            )
            await send_json(send, await until_hangup(receive, work))

    async def _detect(self, body: DetectBody, scope: Scope) -> list[dict[str, Any]]:
        check_texts([body.q], self._limits)
        async with self._slots(1):
            return [_told(await _detected(self._model(scope), body.q))]

    async def _translate(self, body: TranslateBody, scope: Scope) -> dict[str, Any]:
        source, target = body.languages()
        check_texts(body.texts, self._limits, body.translations)
        plans = await self._planned(body)
        questions = body.translations * sum(plan.questions for plan in plans)
        check_questions(questions, self._limits)
        async with self._slots(1 + questions // _QUESTIONS_A_SLOT):
            model = self._model(scope)
            languages = await self._languages_of(body, source, model)
            orders = [
                (plan, Translator(model, detected.language, target, number))
                for plan, detected in zip(plans, languages, strict=True)
                for number in range(body.translations)
            ]
            said = await translated(orders, self._limits.parallel)
        rows = [
            [*dict.fromkeys(said[begin : begin + body.translations])]
            for begin in range(0, len(said), body.translations)
        ]
        columns: dict[str, list[Any]] = {"translatedText": [row[0] for row in rows]}
        if source is None:
            columns["detectedLanguage"] = [_told(detected) for detected in languages]
        if body.alternatives:
            columns["alternatives"] = [row[1:] for row in rows]
        if isinstance(body.q, str):
            return {name: column[0] for name, column in columns.items()}
        return dict(columns)

    async def _planned(self, body: TranslateBody) -> list[Plan]:
        plan = planned_html if body.format == "html" else planned
        if sum(map(len, body.texts)) <= _PLANNED_HERE:
            return [plan(text) for text in body.texts]
        async with self._slots(1):
            return await asyncio.to_thread(lambda: [plan(text) for text in body.texts])

    async def _languages_of(
        self, body: TranslateBody, source: str | None, model: Model
    ) -> list[Detected]:
        if source is not None:
            return [Detected(source, 1.0)] * len(body.texts)
        jobs = (partial(_detected, model, text) for text in body.texts)
        return await by_workers(jobs, self._limits.parallel)

    @asynccontextmanager
    async def _slots(self, cost: int) -> AsyncIterator[None]:
        admission = self._admission
        weight = admission.weight(cost)
        await admission.acquire(weight)
        with admission.held(weight):
            yield

    def _model(self, scope: Scope) -> Model:
        caller = Caller(self._pools, scope["bentovox.request_id"])
        return Model(caller, self._limits.model or None)


async def _detected(model: Model, text: str) -> Detected:
    return await model.detect(text) if has_words(text) else _NOBODY_KNOWS


def _told(detected: Detected) -> dict[str, Any]:
    """Return what LibreTranslate says of it; its confidence is in percent."""
    return {"confidence": round(100 * detected.confidence, 1), "language": detected.language}
