"""The gateway on uvicorn, with a deterministic chat server and the real audio roles behind it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import uvicorn
from pydantic import BaseModel, SecretStr

from services.chat.bounds import Bounds
from services.chat.intake import Intake
from services.chat.trial import Trial
from services.conversation import routes as conversation_app
from services.errors import OverloadedError
from services.gateway import routes as gateway_routes
from services.openai.paths import MODELS, REALTIME, ROUTES, SPEECH_STREAM
from services.server.admission import Limits
from services.server.serving import Readiness, RoleApp
from services.server.shell import Shell
from services.server.uvicorn_http import BoundedHttp
from services.settings.sections import ChatSettings, ConversationSettings, GatewaySettings
from services.speech.routes import handlers_of
from services.speech.socket import SpeechSocket
from services.speech.voices import VoiceStore
from tests.fakes.speech_engine import FakeEngine
from tests.fakes.transcription_engine import FakeEngine as FakeEar
from tests.hearing_app import hearing_handlers, live_socket
from tests.speech_app import models_of, speakers_of, untold

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

KEY = "sk-made-for-the-test"
MODEL = "fake-chat"


class FakeBody(BaseModel):
    """The fields that the fake chat role knows."""

    chat_template_kwargs: Any = None
    logprobs: Any = None
    max_tokens: Any = None
    messages: Any = None
    model: Any = None
    n: Any = None
    seed: Any = None
    stream: Any = None
    stream_options: Any = None
    structured_outputs: Any = None
    temperature: Any = None
    tool_choice: Any = None
    tools: Any = None


INTAKE = Intake(
    {"/v1/chat/completions": (FakeBody,)},
    Bounds.of(ChatSettings(), 4096, multimodal=False),
    trial=Trial(str, str, limit_s=5, wait_s=5, waiting=1),
)


@dataclass
class FakeChat:
    """A chat role that repeats the last message, word by word, with vLLM's error shape.

    It answers the first `refusals` requests with an overload, and each after `delay_s`.
    """

    refusals: list[float] = field(default_factory=list)
    delay_s: float = 0.0
    asked: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        if scope["method"] != "POST":
            cards = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1}]}
            await _json(send, 200, cards)
            return
        self.headers.append({k.decode(): v.decode("latin-1") for k, v in scope["headers"]})
        receive = await INTAKE.take(scope, receive)
        body = json.loads((await receive())["body"])
        if self.refusals:
            raise OverloadedError("full", retry_after_s=self.refusals.pop(0))
        if await self._waited(receive):
            await self._answer(body, send)

    async def _waited(self, receive: Any) -> bool:
        """Wait for the delay; False when the client left before."""
        try:
            async with asyncio.timeout(self.delay_s):
                while (await receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return True
        return False

    async def _answer(self, body: dict[str, Any], send: Any) -> None:
        if body.get("model", MODEL) != MODEL:
            await _vllm_error(
                send, 404, f"The model `{body['model']}` does not exist.", "NotFoundError", "model"
            )
            return
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            await _vllm_error(send, 400, "messages: at least one", "BadRequestError", "messages")
            return
        last = messages[-1]
        words = str(last.get("content") if isinstance(last, dict) else last)
        if guided := body.get("structured_outputs"):
            words = guided["choice"][0]
        message: dict[str, Any] = {"role": "assistant", "content": words}
        if body.get("tools"):
            call = {"name": body["tools"][0]["function"]["name"], "arguments": '{"city": "Bonn"}'}
            called = {"id": "call_1", "type": "function", "function": call}
            message = {"role": "assistant", "content": None, "tool_calls": [called]}
        reason = "tool_calls" if body.get("tools") else "stop"
        count = len(words.split())
        usage = {"prompt_tokens": count, "completion_tokens": count, "total_tokens": 2 * count}
        if body.get("stream"):
            counted = (body.get("stream_options") or {}).get("include_usage")
            await self._stream(message, reason, send, usage if counted else None)
            return
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        await _json(
            send, 200, {**_completion("chat.completion"), "choices": [choice], "usage": usage}
        )

    async def _stream(self, message: dict[str, Any], reason: str, send: Any, usage: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if calls := message.get("tool_calls"):
            deltas.append({"tool_calls": [{"index": 0, **calls[0]}]})
        else:
            deltas += [{"content": word} for word in message["content"].split(" ")]
        ends: list[str | None] = [*[None for _ in deltas], reason]
        for delta, end in zip([*deltas, {}], ends, strict=True):
            choice = {"index": 0, "delta": delta, "finish_reason": end}
            chunk = {**_completion("chat.completion.chunk"), "choices": [choice]}
            await _piece(send, b"data: " + json.dumps(chunk).encode() + b"\n\n")
            if delta.get("content") == "break":
                raise RuntimeError("as a crash in the middle of a stream")
        if usage is not None:
            chunk = {**_completion("chat.completion.chunk"), "choices": [], "usage": usage}
            await _piece(send, b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await _piece(send, b"data: [DONE]\n\n")
        await send({"type": "http.response.body", "body": b""})


def _completion(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": MODEL}


async def _piece(send: Any, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
    await asyncio.sleep(0)


async def _json(send: Any, status: int, value: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


async def _vllm_error(send: Any, status: int, message: str, kind: str, param: str) -> None:
    error = {"message": message, "type": kind, "param": param, "code": status}
    await _json(send, status, {"error": error})


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


def _role(role: str, handlers: Any, sockets: Any = None) -> Shell:
    return Shell(
        RoleApp(
            role=role,
            handlers=handlers,
            sockets=sockets or {},
            limits=Limits(64, 64, 30),
            body_limit_bytes=40 << 20,
            readiness=lambda: Readiness("ready", {}),
            lifespan=_nothing,
        )
    )


class Stack:
    """Four servers in their own thread, or five with `talks`; `url` is the gateway's."""

    def __init__(self, *, talks: bool = False, **gateway: Any) -> None:
        self._talks = talks
        self.chat = FakeChat()
        self.engine = FakeEngine(fail_at="\u2620")
        self.ear = FakeEar(fail_at="failing")
        self.url = ""
        self.door: Shell
        self.store: VoiceStore
        self._settings = gateway
        self._started = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(20)
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with AsyncExitStack() as stack:
                await self.engine.start()
                await self.ear.start()
                chat = dict.fromkeys((*ROUTES["chat"], *MODELS), self.chat)
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                self.store = VoiceStore(Path(folder))
                speakers = speakers_of(self.engine, self.store)
                models = models_of(self.engine)
                speech = handlers_of(speakers, models, untold)
                voice = SpeechSocket(speakers, models, untold)
                chat_url = await _served(stack, _role("chat", chat))
                speech_url = await _served(stack, _role("speech", speech, {SPEECH_STREAM: voice}))
                ears, live = hearing_handlers(self.ear), live_socket(self.ear)
                ear_url = await _served(stack, _role("transcription", ears, {REALTIME: live}))
                settings = GatewaySettings(**self._settings)
                backends = {"chat": [chat_url], "speech": [speech_url], "transcription": [ear_url]}
                shells = []
                if self._talks:
                    talks = Shell(conversation_app.build(ConversationSettings(), backends))
                    shells.append(talks)
                    backends["conversation"] = [await _served(stack, talks)]
                self.door = Shell(gateway_routes.build(settings, backends))
                self.url = await _served(stack, self.door)
                for shell in (*shells, self.door):
                    pools = shell.app.lifespan.__self__  # type: ignore[attr-defined]
                    for backend in pools.backends():
                        await backend.probe()
                    assert pools.status()[0] == "ready"
                    await stack.enter_async_context(pools.probing())
                self._started.set()
                await self._end.wait()
        except BaseException as error:
            self._failed = error
            self._started.set()
            raise


async def _served(stack: AsyncExitStack, app: Any) -> str:
    config = uvicorn.Config(
        app, http=BoundedHttp, port=0, lifespan="off", log_config=None, access_log=False
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()

    async def end() -> None:
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await server.shutdown()

    stack.push_async_callback(end)
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Return the stack with a key, shared by all tests."""

    line = f"anna:{hashlib.sha256(KEY.encode()).hexdigest()}"
    with Stack(keys=SecretStr(line), body_limit_mib=0.5) as served:
        yield served


@pytest.fixture
def fresh(stack: Stack) -> Iterator[Stack]:
    """Return the stack, with a fake chat that refuses nothing and waits for nothing."""
    stack.chat.refusals, stack.chat.delay_s, stack.chat.asked = [], 0.0, 0
    stack.chat.headers = []
    yield stack
    stack.chat.refusals, stack.chat.delay_s = [], 0.0


@pytest.fixture
def open_stack() -> Callable[..., Stack]:
    """Return `Stack`, for a door with other settings: `with open_stack(slots=1) as served`."""
    return Stack


@pytest.fixture
def key() -> str:
    """Return the key that the shared stack lets in."""
    return KEY
