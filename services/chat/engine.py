"""vLLM's OpenAI server, in this process: the one file that touches vLLM's internals.

The names used are those of vLLM 0.32 and 0.33 (`vllm.entrypoints.launchers`), which are no public
interface: vLLM is pinned, and `tests/e2e` runs the real thing.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from services.chat.arguments import on_cpu, parse_arguments, set_environment
from services.chat.bounds import Bounds
from services.chat.intake import Intake
from services.chat.served_model import resolve
from services.chat.stream_errors import Answer
from services.chat.trial import Trial
from services.errors import ServiceError, UnavailableError
from services.openai.errors import error_from, normalise
from services.processes import end_orphans
from services.server.serving import Readiness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import FrameType

    from services.chat.constraints import Constraint
    from services.settings.sections import ChatSettings

log = logging.getLogger("bentovox.chat")

_WATCH_S = 0.25
_UNREAD = (
    "has a feature that xgrammar does not read: multipleOf, uniqueItems, contains, an unknown "
    "format, several allOf, a length beside a pattern or format, or patternProperties or "
    "propertyNames beside others"
)


class VllmServer:
    """A vLLM engine and its OpenAI application, mounted as an ASGI callable."""

    def __init__(self, chat: ChatSettings) -> None:
        """Keep the settings; nothing heavy is imported before `lifespan` is entered."""
        self.settings = chat
        self._model = resolve(chat)
        self._app: Any = None
        self._engine: Any = None
        self._status = "starting"
        self._intake: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Have vLLM answer a request that the shell has let through.

        Raises:
            UnavailableError: the engine is not there, or has died.
            ServiceError: the request is refused, or broke; see `Intake.take`.
        """
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
        """Return vLLM's cards by id. Their `root` is the id: clients need not know our directories.

        Raises:
            UnavailableError: the engine is not there, or has died.
        """
        self._expect_ready()
        cards = await self._app.state.openai_serving_models.show_available_models()
        return {card.id: {**card.model_dump(), "root": card.id} for card in cards.data}

    def _expect_ready(self) -> None:
        if not self.readiness().can_answer:
            raise UnavailableError("The chat engine is restarting.", retry_after_s=5)

    def readiness(self) -> Readiness:
        """Ready means that the engine is loaded, passed its health check and has not died."""
        if self._status == "ready" and self._engine.errored:
            return Readiness("failed", {"engine": "the engine process died; restarting"})
        return Readiness(self._status, {"engine": f"vllm {self._status}"})

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Load the model, serve, and at the end let running answers finish."""
        if ended := end_orphans():
            log.warning("ended engine processes that a killed worker left behind: %s", ended)
        set_environment(self.settings)
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
        began = time.monotonic()
        with _nothing_collected():
            from fastapi import FastAPI
            from vllm.entrypoints.launchers.api_server.app_state import init_app_state
            from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
            from vllm.entrypoints.launchers.app import build_app

            if on_cpu(self.settings):
                _look_at_the_model_here()
            arguments = parse_arguments(self.settings, self._model)
        where = "the CPU" if on_cpu(self.settings) else "the GPU"
        log.info("loading %s into vLLM on %s", self._model.name, where)
        self._engine = await stack.enter_async_context(build_async_engine_client(arguments))
        tasks = await self._engine.get_supported_tasks()
        app = build_app(arguments, tasks, self._engine.model_config)
        await init_app_state(self._engine, app.state, arguments, tasks)
        app.state.server = _ExitHandle()
        # CORS, HTTP metrics and SageMaker's adapters: the shell does the first two already, and
        # each layer is paid for on every chunk.
        app.user_middleware = []
        app.middleware_stack = FastAPI.build_middleware_stack(app)
        await stack.enter_async_context(app.router.lifespan_context(app))
        self._intake = self._made_intake(app)
        stack.push_async_callback(self._intake.trial.close)
        self._app = app
        await self._engine.check_health()
        self._status = "ready"
        log.info("ready: %s after %.0f s", self._model.name, time.monotonic() - began)

    def _made_intake(self, app: Any) -> Intake:
        chat, engine = self.settings, self._engine
        model = engine.model_config
        return Intake(
            _declared_models(app),
            Bounds.of(chat, model.max_model_len, multimodal=model.is_multimodal_model),
            chat.grammar_kib << 10,
            chat.grammar_items,
            Trial(
                lambda: _tokenizer_json(engine.get_tokenizer(), model.get_vocab_size()),
                _parse,
                limit_s=chat.grammar_s,
                wait_s=chat.deadline_s,
                waiting=max(1, chat.slots // 8),  # each holds a slot, in one of two queues
            ),
        )

    async def _watch(self) -> None:
        """End this process when the engine has died; BentoML's supervisor starts a new one."""
        while not self._engine.errored:  # noqa: ASYNC110  vLLM tells by a flag only
            await asyncio.sleep(_WATCH_S)
        log.error("the engine died; ending this worker so that it is started anew")
        self._status = "failed"
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Import with the collector off, and leave what was made out of its sight.

    It would go through all of it again and again. vLLM does the same once its server is up.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _given_up_at_sigterm() -> Iterator[None]:
    """Make SIGTERM end the start that goes on inside, not only what would follow it.

    The supervisor signals the engine's process too, and vLLM would wait for ever for the first
    answer of an engine that has ended.
    """
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
        raise UnavailableError("told to end while the engine was starting") from exc
    finally:
        signal.signal(signal.SIGTERM, before)


class _ExitHandle:
    """What vLLM takes for its uvicorn server: telling it to exit ends this worker."""

    @property
    def should_exit(self) -> bool:
        return False

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        if value:
            os.kill(os.getpid(), signal.SIGTERM)


def _look_at_the_model_here() -> None:
    """Have vLLM look at the model's class in this process, not in one that loads all for it.

    That one is there to keep CUDA out of this process.
    """
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = lambda look: look()  # noqa: SLF001  it has no setting


def _declared_models(app: Any) -> dict[str, tuple[Any, ...]]:
    """Return the models of the bodies that each of vLLM's paths takes."""
    declared: dict[str, tuple[Any, ...]] = {}
    for route in app.routes:
        bodies = [field.field_info.annotation for field in _body_fields(route)]
        members = [member for body in bodies for member in getattr(body, "__args__", (body,))]
        if models := tuple(member for member in members if hasattr(member, "model_fields")):
            declared[route.path] = models
    return declared


def _body_fields(route: Any) -> list[Any]:
    dependant = getattr(route, "dependant", None)
    return list(dependant.body_params) if dependant is not None else []


def _as_ours(error: BaseException) -> ServiceError:
    """Return what vLLM would have answered to `error`, had it not begun to."""
    from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

    said = create_error_response(error).model_dump()
    status: int = said["error"]["code"]
    return error_from(status, normalise(status, json.dumps(said).encode()), None)


def _tokenizer_json(tokenizer: Any, vocab_size: int) -> str:
    """Return a tokenizer as xgrammar writes it."""
    import xgrammar

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab_size)
    return str(info.serialize_json())


def _parse(constraint: Constraint) -> None:
    """Raise unless a schema can be converted, which is quick; compiling it is not.

    Raises:
        Exception: it cannot; xgrammar raises what it likes.
    """
    import xgrammar
    from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

    # Those of tools are as their authors left them: vLLM binds calls as far as xgrammar reads them.
    lenient = constraint.field.startswith("tools")
    if not lenient and has_xgrammar_unsupported_json_features(json.loads(constraint.text)):
        raise ValueError(_UNREAD)
    xgrammar.Grammar.from_json_schema(constraint.text)
