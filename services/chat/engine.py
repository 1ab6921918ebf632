"""vLLM's OpenAI server in this process: the only file that uses vLLM's internals.

It uses names of vLLM 0.32 and 0.33 (`vllm.entrypoints.launchers`) that are no public interface, so
vLLM is pinned, and `tests/e2e` runs the real thing.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import FrameType, SimpleNamespace
from typing import Any, Final

from services.chat.arguments import on_cpu, parse_arguments, resolve, set_environment
from services.chat.bounds import Bounds
from services.chat.constraints import Constraint
from services.chat.intake import Intake
from services.chat.trial import Trial
from services.errors import ServiceError, UnavailableError
from services.openai.answers import EVENT_STREAM, UNBUFFERED, chunk, is_of
from services.openai.errors import error_from, fault_of
from services.processes import end_orphans
from services.server.serving import Readiness
from services.settings.sections import ChatSettings

log = logging.getLogger("bentovox.chat")

_FAULT: Final = b'data: {"error"'
_SAID_BEFOREHAND: Final = (b"event: response.created\n", b"event: response.in_progress\n")
_OK: Final = 200
_WATCH_S = 0.25
_UNREAD = (
    "has a feature that xgrammar does not support: multipleOf, uniqueItems, contains, an unknown "
    "format, several allOf, a length beside a pattern or format, or patternProperties or "
    "propertyNames beside others"
)


class Answer:
    """ASGI's `send` for vLLM's application: a broken stream must not look complete.

    vLLM sends the head of a stream before the engine has answered, reports errors as events of its
    own shape, and ends with `[DONE]` all the same. Here the head waits for the engine's first
    output. An error before that gets its HTTP status; a later one becomes an event of OpenAI's
    shape, and the connection is closed without the last chunk.
    """

    def __init__(self, send: Callable[[Any], Awaitable[None]], *, events: bool) -> None:
        """With `events`, the path's streams have named events (/v1/responses)."""
        self._send = send
        self._events = events
        self._held: list[Any] = []
        self.streams = False
        self._sent_events = 0
        self.error: ServiceError | None = None

    async def send(self, message: Any) -> None:
        """Send a message, or hold it until the engine's first output."""
        if self.error is not None:
            return
        if message["type"] == "http.response.start":
            is_stream = is_of(message["headers"], EVENT_STREAM.encode())
            self.streams = message["status"] == _OK and is_stream
            if self.streams:
                self._held = [{**message, "headers": [*message["headers"], *UNBUFFERED]}]
                return
        elif self.streams:
            body: bytes = message.get("body", b"")
            if body.startswith(_FAULT):
                said = body.removeprefix(b"data: ").partition(b"\n")[0]
                code = json.loads(said)["error"].get("code")
                status = code if isinstance(code, int) and code > _OK else 500
                await self.break_off(error_from(status, said))
                return
            self._sent_events += 1
            if self._held:
                self._held.append(message)
                if body.startswith(_SAID_BEFOREHAND):
                    return
                for held in self._held:
                    await self._send(held)
                self._held = []
                return
        await self._send(message)

    async def break_off(self, error: ServiceError) -> None:
        """End the answer with `error`, as an event if the stream has begun."""
        begun = self.streams and not self._held
        self.error, self._held = error, []
        head = b""
        event: dict[str, Any] = {"error": fault_of(error)}
        if self._events:
            head = b"event: error\n"
            event = {**fault_of(error), "type": "error", "sequence_number": self._sent_events}
        if begun:
            await self._send(chunk(head + b"data: " + json.dumps(event).encode() + b"\n\n"))


class VllmServer:
    """A vLLM engine and its OpenAI application, mounted as an ASGI callable."""

    def __init__(self, chat: ChatSettings, started: Any = None) -> None:
        """Store the settings; heavy imports wait for `lifespan`.

        `started` is vLLM's application, if its engine runs already: Ray starts it.
        """
        self.settings = chat
        self._model = resolve(chat)
        self._started = started
        self._app: Any = None
        self._engine: Any = None
        self._status = "starting"
        self._intake: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request that the shell has admitted."""
        self._expect_ready()
        receive = await self._intake.take(scope, receive)
        answer = Answer(send, events=scope["path"] == "/v1/responses")
        try:
            await self._app(scope, receive, answer.send)
        except Exception as exc:
            if not answer.streams:
                raise
            log.exception("a stream broke")
            await answer.break_off(_as_ours(exc.__cause__ or exc))
        if answer.error is not None:
            raise answer.error

    async def models(self) -> dict[str, dict[str, Any]]:
        """Return vLLM's cards by id, with the id as `root`, which would show our directories."""
        self._expect_ready()
        cards = await self._app.state.openai_serving_models.show_available_models()
        return {card.id: {**card.model_dump(), "root": card.id} for card in cards.data}

    async def close(self) -> None:
        """Let the engine sleep: its weights move to the machine's memory, its cache is dropped."""
        await self._engine.sleep(1)

    async def start(self) -> None:
        """Wake the engine after `close`."""
        await self._engine.wake_up()

    def _expect_ready(self) -> None:
        if not self.readiness().can_answer:
            raise UnavailableError("The chat engine is restarting.", retry_after_s=5)

    def readiness(self) -> Readiness:
        """Return ready if the engine is loaded, has passed its health check and has not died."""
        if self._status == "ready" and self._engine.errored:
            return Readiness("failed", {"engine": "the engine process died; restarting"})
        return Readiness(self._status, {"engine": f"vllm {self._status}"})

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Load the model, serve, and at the end let running answers finish."""
        async with AsyncExitStack() as stack:
            with _given_up_at_sigterm():
                await self._start(stack)
            watch = asyncio.create_task(self._watch())
            try:
                yield
            finally:
                self._status = "draining"
                watch.cancel()

    async def _start(self, stack: AsyncExitStack) -> None:
        from fastapi import FastAPI

        began = time.monotonic()
        app = self._started or await self._launch(stack)
        self._engine = app.state.engine_client
        if self._started:
            stack.callback(self._engine.shutdown, timeout=self.settings.shutdown_s)
        app.state.server = SimpleNamespace()  # told to exit if the engine dies; so does `_watch`
        # CORS, HTTP metrics and SageMaker's adapters: the shell does the first two, and each layer
        # costs time on every chunk.
        app.user_middleware = []
        app.middleware_stack = FastAPI.build_middleware_stack(app)
        await stack.enter_async_context(app.router.lifespan_context(app))
        model = self._engine.model_config
        self._intake = Intake(
            _declared_models(app),
            Bounds.of(self.settings, model.max_model_len, multimodal=model.is_multimodal_model),
            Trial(
                lambda: _tokenizer_json(self._engine.get_tokenizer(), model.get_vocab_size()),
                _parse,
                limit_s=self.settings.grammar_s,
                wait_s=self.settings.deadline_s,
                waiting=max(1, self.settings.slots // 8),  # each takes a slot; there are two queues
            ),
        )
        stack.push_async_callback(self._intake.trial.close)
        self._app = app
        await self._engine.check_health()
        self._status = "ready"
        log.info("ready: %s after %.0f s", self._model.name, time.monotonic() - began)

    async def _launch(self, stack: AsyncExitStack) -> Any:
        """Load the model into an engine of this process and return vLLM's application."""
        if ended := end_orphans():
            log.warning("ended engine processes that a killed worker left behind: %s", ended)
        set_environment(self.settings)
        # Nothing is collected while so much is imported, nor later of that: so does vLLM's server.
        gc.disable()
        try:
            from vllm.entrypoints.launchers.api_server.app_state import init_app_state
            from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
            from vllm.entrypoints.launchers.app import build_app

            if on_cpu(self.settings):
                # vLLM inspects the model's class in a new process, to keep CUDA out of this one.
                # Here it is quicker to do it at once; there is no setting.
                from vllm.model_executor.models import registry

                registry._run_in_subprocess = lambda look: look()  # noqa: SLF001
            arguments = parse_arguments(self.settings, self._model)
        finally:
            gc.freeze()
            gc.enable()
        where = "the CPU" if on_cpu(self.settings) else "the GPU"
        log.info("loading %s into vLLM on %s", self._model.name, where)
        engine = await stack.enter_async_context(build_async_engine_client(arguments))
        tasks = await engine.get_supported_tasks()
        app = build_app(arguments, tasks, engine.model_config)
        await init_app_state(engine, app.state, arguments, tasks)
        return app

    async def _watch(self) -> None:
        """End this process when the engine dies; BentoML's supervisor starts a new one."""
        while not self._engine.errored:  # noqa: ASYNC110  vLLM tells by a flag only
            await asyncio.sleep(_WATCH_S)
        log.error("the engine died; ending this worker so that it is started anew")
        self._status = "failed"
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _given_up_at_sigterm() -> Iterator[None]:
    """Make SIGTERM cancel the start in this block.

    The supervisor signals the engine's process too, and vLLM would wait forever for the first
    answer of an engine that has exited.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Ray may run a replica in another thread, and has its own way to end one
        return
    start = asyncio.current_task()
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGTERM)
    told = False

    def give_up(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True
        if start is not None:
            loop.call_soon_threadsafe(start.cancel)
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, give_up)
    try:
        yield
    except asyncio.CancelledError as exc:
        if not told or start is None:
            raise
        start.uncancel()
        raise UnavailableError("stopped while the engine was starting") from exc
    finally:
        signal.signal(signal.SIGTERM, before)


def _declared_models(app: Any) -> dict[str, tuple[Any, ...]]:
    """Return the pydantic models of the bodies of each of vLLM's paths."""
    declared: dict[str, tuple[Any, ...]] = {}
    for route in app.routes:
        dependant = getattr(route, "dependant", None)
        fields = dependant.body_params if dependant is not None else ()
        bodies = [field.field_info.annotation for field in fields]
        members = [member for body in bodies for member in getattr(body, "__args__", (body,))]
        if models := tuple(member for member in members if hasattr(member, "model_fields")):
            declared[route.path] = models
    return declared


def _as_ours(error: BaseException) -> ServiceError:
    """Return the error that vLLM would have answered with, had the stream not begun."""
    from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

    said = create_error_response(error).model_dump()
    status: int = said["error"]["code"]
    return error_from(status, json.dumps(said).encode())


def _tokenizer_json(tokenizer: Any, vocab_size: int) -> str:
    """Return a tokenizer, serialised by xgrammar."""
    import xgrammar

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab_size)
    return str(info.serialize_json())


def _parse(constraint: Constraint) -> None:
    """Check that a schema can be converted, which is quick, unlike compiling it."""
    import xgrammar
    from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

    # Tools are often from elsewhere: vLLM enforces as much of their schemas as xgrammar supports.
    lenient = constraint.field.startswith("tools")
    if not lenient and has_xgrammar_unsupported_json_features(json.loads(constraint.text)):
        raise ValueError(_UNREAD)
    xgrammar.Grammar.from_json_schema(constraint.text)
