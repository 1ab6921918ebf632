"""LibreTranslate's paths, answered by the chat model: /translate, /detect and /languages.

Errors are OpenAI's object, as everywhere here. LibreTranslate's clients send the key in the body,
as `api_key`; so the guard of the front door lets those without a header pass, and the key is looked
for here, before anything is done.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from services.admission import Admission, Limits
from services.errors import DeadlineError
from services.gateway.calls import Caller
from services.gateway.keys import bearer, credentials
from services.gateway.translation.languages import NAMES
from services.gateway.translation.markup import translate_html
from services.gateway.translation.model import Detected, Model
from services.gateway.translation.schema import DetectBody, TranslateBody, check_texts, read
from services.gateway.translation.texts import Translator, has_words, together
from services.openai.documents import send_json
from services.openai.hangup import ClientGoneError, until_hangup

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.types import Receive, Scope, Send

    from services.gateway.backends import Pools
    from services.gateway.keys import Keys

_SENDING_S: Final = 30.0
"""What a client gets to send its body: nobody knows yet whether it has a key."""

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
            try:
                async with asyncio.timeout(_SENDING_S):
                    body = await read(
                        scope,
                        receive,
                        DetectBody if detect else TranslateBody,
                        self._limits,
                        known=not self._keys or has_header,
                    )
            except TimeoutError as exc:
                raise DeadlineError(f"The body did not come within {_SENDING_S:g} s.") from exc
            self._keys.check(bearer(scope, body.api_key))
            work = (
                self._detect(body, scope)
                if isinstance(body, DetectBody)
                else (self._translate(body, scope))
            )
            answer = await until_hangup(receive, self._admitted(work))
            await send_json(send, answer)

    async def _admitted(self, work: Coroutine[None, None, Any]) -> Any:
        try:
            await self._admission.acquire()
        except BaseException:
            work.close()
            raise
        with self._admission.held():
            return await work

    async def _detect(self, body: DetectBody, scope: Scope) -> list[dict[str, Any]]:
        check_texts([body.q], self._limits)
        return [_told(await _detected(self._model(scope), body.q, asyncio.Semaphore()))]

    async def _translate(self, body: TranslateBody, scope: Scope) -> dict[str, Any]:
        source, target = body.languages()
        check_texts(body.texts, self._limits)
        model = self._model(scope)
        at_once = asyncio.Semaphore(self._limits.parallel)
        found = await together(
            _one(model, text, source=source, target=target, body=body, at_once=at_once)
            for text in body.texts
        )
        columns: dict[str, list[Any]] = {"translatedText": [said[0] for _, said in found]}
        if source is None:
            columns["detectedLanguage"] = [_told(detected) for detected, _ in found]
        if body.alternatives:
            columns["alternatives"] = [said[1:] for _, said in found]
        if isinstance(body.q, str):
            return {name: column[0] for name, column in columns.items()}
        return dict(columns)

    def _model(self, scope: Scope) -> Model:
        caller = Caller(self._pools, scope["bentovox.request_id"])
        return Model(caller, self._limits.model or None)


async def _one(
    model: Model,
    text: str,
    *,
    source: str | None,
    target: str,
    body: TranslateBody,
    at_once: asyncio.Semaphore,
) -> tuple[Detected, list[str]]:
    """Return a text's language, its translation, and behind that the alternatives to it."""
    detected = Detected(source, 1.0) if source else await _detected(model, text, at_once)

    async def variant(number: int) -> str:
        translator = Translator(model, detected.language, target, at_once, number)
        if body.format == "html":
            return await translate_html(translator, text)
        return await translator.text(text)

    said = await together(variant(number) for number in range(1 + body.alternatives))
    return detected, [*dict.fromkeys(said)]


async def _detected(model: Model, text: str, at_once: asyncio.Semaphore) -> Detected:
    if not has_words(text):
        return _NOBODY_KNOWS
    async with at_once:
        return await model.detect(text)


def _told(detected: Detected) -> dict[str, Any]:
    """Return what LibreTranslate says of it; its confidence is in percent."""
    return {"confidence": round(100 * detected.confidence, 1), "language": detected.language}
