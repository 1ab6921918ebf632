"""Reads and checks a request's body before vLLM gets it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from services.chat import constraints
from services.chat.fields import known, refuse_first_fault, refuse_lost
from services.openai.body import expect_json, whole
from services.openai.hangup import until_hangup
from services.openai.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel
    from starlette.types import Receive

    from services.chat.bounds import Bounds
    from services.chat.trial import Trial

_SMALL_BYTES: Final = 4096
_WHICH: Final = ": it depends on the model's context and BENTOVOX_CHAT__BODY_LIMIT_MIB"
_CALLING: Final = frozenset({"/v1/chat/completions", "/v1/responses"})
_FIELDS: Final = TypeAdapter(dict[str, Any])


@dataclass(frozen=True)
class Intake:
    """What requests are checked with.

    Attributes:
        models: vLLM's models of each path's body; other paths' fields are not checked.
        bounds: what one request may cost.
        trial: compiles constraints before the engine does.
    """

    models: Mapping[str, tuple[type[BaseModel], ...]]
    bounds: Bounds
    trial: Trial

    async def take(self, scope: Any, receive: Receive) -> Receive:
        """Return a `receive` with the checked body for vLLM.

        Raises:
            UnsupportedMediaError: it is not JSON.
            TooLargeError: it is larger than the model's context allows.
            InvalidRequestError: it is malformed, exceeds a limit, or asks for what vLLM drops.
            OverloadedError: it takes more slots than became free in time.
            ClientGoneError: the client hung up.
        """
        expect_json(scope)
        raw = await whole(scope, receive, self.bounds.body_bytes, which=_WHICH)
        given = _parsed(raw)
        path: str = scope["path"]
        body = {name: value for name, value in given.items() if value is not None}
        models = self.models.get(path, ())
        refuse_lost(path, body)
        if models:
            body = known(path, models, body)
        bound = constraints.find(path, body, self.bounds)
        cost = self.bounds.cost(path, body)
        await refuse_first_fault(models, body, small=len(raw) <= _SMALL_BYTES)
        if bound:
            await until_hangup(receive, self.trial.check(bound))
        if cost > 1:
            await scope["bentovox.weigh"](cost)
        tools = body.get("tools")
        if path in _CALLING and isinstance(tools, list) and constraints.forces_a_call(body):
            body["tools"] = [_strict(path, tool) for tool in tools]
        elif len(body) == len(given):
            return _replay(raw, receive)
        return _replay(json.dumps(body).encode(), receive)


def _parsed(raw: bytes) -> dict[str, Any]:
    """Return the fields of a body.

    Raises:
        InvalidRequestError: it is not a JSON object, or nested too deeply.
    """
    try:
        return _FIELDS.validate_json(raw)
    except ValidationError as error:
        raise refusal(error) from error


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return an ASGI `receive` that returns the body once and then waits for the disconnect."""
    given = False

    async def replayed() -> Any:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed


def _strict(path: str, tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool with `strict` set, without which vLLM does not enforce its schema.

    Small models write `4000` where an object is wanted.
    """
    if tool.get("type", "function") != "function":
        return tool
    if path == "/v1/responses":
        return {**tool, "strict": True}
    return {**tool, "function": {**tool["function"], "strict": True}}
