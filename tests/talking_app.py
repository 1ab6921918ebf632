"""A live conversation: a chat backend that says what the test tells it, and the roles around it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import connect

from services.openai.paths import REALTIME, SPEECH_STREAM
from services.server.admission import Limits
from services.server.serving import Readiness, RoleApp
from services.server.shell import Shell
from services.speech.routes import handlers_of
from services.speech.socket import SpeechSocket
from tests.fakes.speech_engine import FakeEngine
from tests.fakes.transcription_engine import FakeEngine as FakeEar
from tests.hearing_app import live_socket
from tests.live_app import Talk
from tests.speech_app import models_of, speakers_of, untold
from tests.translating_app import send_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

MODEL = "talker"
WAIT = None
"""In a script: the model waits until it is free, or its client hangs up."""
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 2},
}


def echo(body: dict[str, Any]) -> Sequence[Any]:
    """Answer with the words of the last message."""
    words = body["messages"][-1]["content"].split(" ")
    return [*(f"{word} " for word in words[:-1]), words[-1]]


def called(index: int, name: str, *arguments: str) -> list[dict[str, Any]]:
    """Return the pieces of a call: its head, and its arguments in pieces."""
    head = {"index": index, "id": f"call_{index}", "type": "function"}
    pieces: list[dict[str, Any]] = [{**head, "function": {"name": name, "arguments": ""}}]
    return pieces + [{"index": index, "function": {"arguments": one}} for one in arguments]


class TalkingChat:
    """An ASGI application: `say` has the pieces of the answer to a body.

    A piece is text, a call's delta, or `WAIT`. `cut` counts the answers whose client hung up.
    """

    def __init__(self, say: Callable[[dict[str, Any]], Sequence[Any]] = echo) -> None:
        self.say = say
        self.asked: list[dict[str, Any]] = []
        self.cut = 0
        self.finish_reason = "stop"
        self.refuse: Callable[[dict[str, Any]], tuple[int, dict[str, Any]] | None] = lambda _: None
        self.free = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/readyz":
            await send_json(send, {"status": "ready", "role": "chat", "detail": {}})
        elif scope["path"] == "/v1/models":
            card = {"id": MODEL, "object": "model", "max_model_len": 4096}
            await send_json(send, {"object": "list", "data": [card]})
        else:
            await self._complete(receive, send)

    async def _complete(self, receive: Any, send: Any) -> None:
        data, more = b"", True
        while more:
            message = await receive()
            data += message.get("body", b"")
            more = message.get("more_body", False)
        body = json.loads(data)
        self.asked.append(body)
        if refused := self.refuse(body):
            status, error = refused
            await send_json(send, {"error": error}, status)
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in self.say(body):
            if piece is WAIT:
                if not await self._freed(receive):
                    self.cut += 1
                    return
                continue
            delta = {"content": piece} if isinstance(piece, str) else {"tool_calls": [piece]}
            await _chunk(send, choices=[{"index": 0, "delta": delta, "finish_reason": None}])
        ended = {"index": 0, "delta": {}, "finish_reason": self.finish_reason}
        await _chunk(send, choices=[ended])
        await _chunk(send, choices=[], usage=USAGE)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _freed(self, receive: Any) -> bool:
        leaving = asyncio.ensure_future(receive())
        freed = asyncio.ensure_future(self.free.wait())
        await asyncio.wait({leaving, freed}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        freed.cancel()
        return freed.done() and not freed.cancelled()


async def _chunk(send: Any, **fields: Any) -> None:
    data = b"data: " + json.dumps({"object": "chat.completion.chunk", **fields}).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": data, "more_body": True})
    await asyncio.sleep(0)


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


def role_of(role: str, **app: Any) -> Shell:
    """Return a role that is ready, in its shell."""
    rest = {"handlers": {}, **app}
    return Shell(
        RoleApp(
            role=role,
            limits=Limits(64, 64, 30),
            body_limit_bytes=36 << 20,
            readiness=lambda: Readiness("ready", {}),
            lifespan=_nothing,
            **rest,
        )
    )


def speech_role(engine: FakeEngine) -> Shell:
    """Return the speech role before an engine."""
    speakers, models = speakers_of(engine), models_of(engine)
    return role_of(
        "speech",
        handlers=handlers_of(speakers, models, untold),
        sockets={SPEECH_STREAM: SpeechSocket(speakers, models, untold)},
    )


class Rig:
    """A gateway before the conversation role, which asks three others; two of them are real."""

    def __init__(self, chat: Any = None) -> None:
        self.chat = chat or TalkingChat()
        self.voice = FakeEngine(fail_at="\u2620")
        self.ear = FakeEar(fail_at="failing")
        self.url = ""
        self.door: Any = None

    async def start(
        self, serve: Any, door: Any, gateway: dict[str, Any] | None = None, **rules: Any
    ) -> None:
        """Serve them, with settings of the gateway and of the conversation role."""
        await self.voice.start()
        await self.ear.start()
        hearing = role_of("transcription", sockets={REALTIME: live_socket(self.ear)})
        self.door = await door(
            chat=[await serve(self.chat)],
            speech=[await serve(speech_role(self.voice))],
            transcription=[await serve(hearing)],
            conversation=rules,
            **(gateway or {}),
        )
        self.url = self.door.url.replace("http", "ws") + REALTIME

    @asynccontextmanager
    async def talk(
        self, query: str = "?model=gpt-realtime", key: str = "", **session: Any
    ) -> AsyncIterator[Talk]:
        """Open a session, and update it if there is something to update; a key goes as in pages."""
        offered: Any = ["realtime", f"openai-insecure-api-key.{key}"] if key else None
        url = self.url + query
        async with connect(
            url, proxy=None, max_size=None, close_timeout=1, subprotocols=offered
        ) as one:
            talk = Talk(one)
            await talk.event("session.created")
            if session:
                await talk.say("session.update", session={"type": "realtime", **session})
                await talk.event("session.updated")
            yield talk

    def idle(self) -> bool:
        """Return whether no engine is at work."""
        return not (self.voice.active or self.ear.active)
