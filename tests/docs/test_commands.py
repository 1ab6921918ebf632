"""The commands and programs in the README and the guides do what the pages say.

They run against the gateway with real speech and a chat backend that answers like the demo model;
tests/e2e/test_readme.py runs them against the real stack. Voice cloning uses the fake engine, since
a checkpoint would have to be downloaded.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ci.__main__ import parser
from services.chat.arguments import DEMO_NAME
from services.conversation import routes as conversation
from services.engines import create
from services.gateway import routes as gateway_routes
from services.gateway.keys import _LINE
from services.openai.paths import REALTIME, SPEECH_STREAM
from services.server.admission import Limits
from services.server.serving import Readiness, RoleApp
from services.server.shell import Shell
from services.settings.sections import (
    ConversationSettings,
    GatewaySettings,
)
from services.speech import routes
from services.speech.socket import SpeechSocket
from services.speech.voices import VoiceStore
from tests.decoding import decode
from tests.docs.examples import (
    CLONING,
    COMMANDS,
    EXAMPLES,
    HEARING,
    IMAGES,
    SERVER,
    TRANSLATING,
    check_example,
    held,
    run,
    run_example,
)
from tests.docs.pages import ROOT
from tests.fakes.speech_engine import FakeEngine as SpeakingEngine
from tests.fakes.transcription_engine import FakeEngine
from tests.hearing_app import hearing_handlers, live_socket, recording, said
from tests.sounds import to_bytes
from tests.speech_app import RECORDING, models_of, speakers_of, untold
from tests.translating_app import TranslatingChat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from starlette.requests import Request

    from tests.docs.pages import Block

_ROOMY = Limits(slots=64, queue=64, deadline_s=30)
_PYTHON = ".nox/stack/bin/python"
_INSTALL = "python -m pip install nox uv && "


def _starts_a_server(block: Block) -> bool:
    return re.search(r"nox -s serve|bentoml serve", block.text) is not None


def _only_names_a_session(block: Block) -> bool:
    return re.fullmatch(r"nox -s [\w-]+( -- --.+)?\n", block.text) is not None


def _registers(block: Block) -> bool:
    return re.search(r"voices\.create|audio/voices \\", block.text) is not None


asking = pytest.mark.parametrize("block", EXAMPLES, ids=str)
hearing = pytest.mark.parametrize("block", HEARING, ids=str)
translating = pytest.mark.parametrize("block", TRANSLATING, ids=str)
cloning = pytest.mark.parametrize("block", CLONING, ids=str)
starting = pytest.mark.parametrize("block", list(filter(_starts_a_server, COMMANDS)), ids=str)


@asking
async def test_example_does_what_the_page_says(
    block: Block, tmp_path: Path, serve: Callable[..., Awaitable[str]]
) -> None:
    async with _speech("espeak", tmp_path) as speech:
        await check_example(block, await _stack(serve, speech), tmp_path)


@cloning
async def test_example_that_clones_does_what_the_page_says(
    block: Block, tmp_path: Path, serve: Callable[..., Awaitable[str]]
) -> None:
    if block.text.startswith("curl ") and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    async with _speech("fake", tmp_path) as speech:
        url = await _stack(serve, speech)
        for name in ("consent", "anna", "sentence"):
            (tmp_path / f"{name}.wav").write_bytes(RECORDING)
        known = await _registered(url, with_voice=not _registers(block))
        said = await run_example(block, url, tmp_path, before=known)
        made = re.search(r"(?:--output |to_file\(\")([\w.]+)", block.text)
        if made:
            assert len((tmp_path / made[1]).read_bytes()) > 1000
        else:
            assert "error" not in json.loads(said)


@hearing
async def test_example_that_hears_prints_what_is_said(
    block: Block, tmp_path: Path, serve: Callable[..., Awaitable[str]]
) -> None:
    if block.text.startswith("curl ") and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "hello.wav").write_bytes(recording("hello there"))
    (tmp_path / "hello.pcm").write_bytes(to_bytes(said("hello there", 24_000)))
    async with _speech("espeak", tmp_path) as speech:
        assert "hello there" in await run_example(block, await _stack(serve, speech), tmp_path)


@translating
async def test_example_that_translates_gives_the_translation(
    block: Block, tmp_path: Path, serve: Callable[..., Awaitable[str]]
) -> None:
    if block.text.startswith("curl ") and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "hello.wav").write_bytes(recording("good morning"))
    (tmp_path / "hello.pcm").write_bytes(to_bytes(said("good morning", 24_000)))
    chat = TranslatingChat()
    chat.language = "English"
    async with _speech("fake", tmp_path) as speech:
        url = await _stack(serve, speech, chat)
        printed = await run_example(block, url, tmp_path)
    spoken = re.search(r"[\w-]+\.mp3|spoken\.wav", block.text)
    if spoken:
        samples = decode((tmp_path / spoken[0]).read_bytes(), sample_rate_hz=16_000)
        assert samples.size == pytest.approx(1.2 * 16_000, rel=0.1)
    if not spoken or "print" in block.text:
        assert "GOOD" in printed
        assert "MORNING" in printed


@starting
async def test_command_that_starts_a_server_is_accepted(block: Block, tmp_path: Path) -> None:
    settings = f"{sys.executable} -m services.settings"
    command = block.text.removeprefix(_INSTALL).replace("nox -s serve", settings)
    command = re.sub(r"\S+/bentoml serve (\S+)( --port \d+)?", settings, command)
    assert "BENTOVOX_PROFILE" in await run(command, tmp_path)
    if target := re.search(r"bentoml serve ([\w.]+):(\w+)", block.text):
        await run(f"{sys.executable} -c 'from {target[1]} import {target[2]}'", tmp_path)


async def test_command_that_makes_a_key_prints_a_line_for_the_server(tmp_path: Path) -> None:
    (command,) = (block.text for block in COMMANDS if "services.gateway.keys" in block.text)
    said = await run(command.replace(_PYTHON, sys.executable), tmp_path)
    assert _LINE.fullmatch(said.splitlines()[1].removeprefix("line for the server: "))


async def test_command_that_shows_the_settings_shows_them(tmp_path: Path) -> None:
    (command,) = (block.text for block in COMMANDS if "-m services.settings" in block.text)
    said = await run(command.replace(_PYTHON, sys.executable), tmp_path)
    assert "BENTOVOX_CHAT__MODEL = bentovox-demo" in said


@pytest.mark.parametrize("block", [b for b in IMAGES if b.text.startswith("nox ")], ids=str)
def test_command_of_a_verb_is_one_that_the_verb_takes(block: Block) -> None:
    session, _, words = block.text.removeprefix("nox -s ").partition(" -- ")
    assert parser(session).parse_args(shlex.split(words))


def test_every_block_is_tested() -> None:
    left = [
        block.text
        for block in COMMANDS
        if not (
            block in [*EXAMPLES, *CLONING, *HEARING, *TRANSLATING, *IMAGES]
            or _starts_a_server(block)
            or _only_names_a_session(block)
        )
    ]
    assert [text.split()[:3] for text in left] == [
        [_PYTHON, "-m", "services.settings"],
        [_PYTHON, "-m", "services.gateway.keys"],
        ["nox", "-s", "bench"],  # what takes a GPU
        ["tar", "-xzf", ".gpu/pack.tar.gz"],
        [".nox/stack/bin/hf", "download", "FunAudioLLM/Fun-CosyVoice3-0.5B-2512"],  # gigabytes
        ["uv", "venv", "--python"],  # vLLM-Omni's environment, for a GPU
        ["vllm-omni", "serve", "FunAudioLLM/Fun-CosyVoice3-0.5B-2512"],
        ["export", f"OPENAI_BASE_URL={SERVER}/v1", "OPENAI_API_KEY=none"],
    ]


def test_page_promises_what_the_demo_model_holds() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"`{held()['Hello']}`" in readme
    assert "What is Bentovox?" in held()


def _chat() -> Starlette:
    """Return a chat backend that answers as the demo model does."""
    answers = held()

    def completions(body: dict[str, Any]) -> Response:
        answer = answers[body["messages"][-1]["content"]]
        about = {"id": "chatcmpl-1", "created": 0, "model": DEMO_NAME}
        if not body.get("stream"):
            message = {"role": "assistant", "content": answer}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return JSONResponse({**about, "object": "chat.completion", "choices": [choice]})
        events = [
            {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
            for word in answer.split()
        ]
        lines = [
            json.dumps({**about, "object": "chat.completion.chunk", "choices": [event]})
            for event in [*events, {"index": 0, "delta": {}, "finish_reason": "stop"}]
        ]
        text = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])
        return Response(text, media_type="text/event-stream")

    async def answer(request: Request) -> Response:
        if request.url.path == "/readyz":
            return Response()
        if request.url.path == "/v1/models":
            return JSONResponse({"data": [{"id": DEMO_NAME, "object": "model"}]})
        return completions(await request.json())

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


async def _stack(
    serve: Callable[..., Awaitable[str]], speech: Shell, chat: Callable[..., Any] | None = None
) -> str:
    """Return the URL of a gateway before chat and `speech`, once both are ready."""
    backends = {
        "chat": [await serve(chat or _chat())],
        "speech": [await serve(speech)],
        "transcription": [await serve(await _ears())],
    }
    asking = conversation.build(ConversationSettings(probe_interval_s=0.05), backends)
    backends["conversation"] = [await serve(Shell(asking), lifespan=True)]
    front = Shell(gateway_routes.build(GatewaySettings(probe_interval_s=0.05), backends))
    url = await serve(front, lifespan=True)
    async with asyncio.timeout(10):
        while not front.app.readiness().can_answer:  # noqa: ASYNC110  probes tell nobody
            await asyncio.sleep(0.01)
    return url


async def _ears() -> Shell:
    """Return the transcription role with the engine that hears tones."""
    engine = FakeEngine()
    await engine.start()
    return Shell(
        RoleApp(
            role="transcription",
            handlers=hearing_handlers(engine),
            sockets={REALTIME: live_socket(engine)},
            limits=_ROOMY,
            body_limit_bytes=36 << 20,
            readiness=lambda: Readiness("ready", {}),
            lifespan=_nothing,
        )
    )


async def _registered(url: str, *, with_voice: bool) -> str:
    """Register a consent, and a voice named anna if wanted; return their ids as a shell's line."""
    sample = RECORDING
    async with httpx.AsyncClient(base_url=f"{url}/v1/audio", trust_env=False) as client:
        fields = {"name": "Anna", "language": "en"}
        made = await client.post("/voice_consents", data=fields, files={"recording": sample})
        consent = made.json()["id"]
        if not with_voice:
            return f"CONSENT={consent}"
        fields = {"name": "anna", "consent": consent}
        made = await client.post("/voices", data=fields, files={"audio_sample": sample})
        return f"CONSENT={consent} VOICE={made.json()['id']}"


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _speech(name: str, folder: Path) -> AsyncIterator[Shell]:
    engine = SpeakingEngine() if name == "fake" else create("speech", name)
    speakers = speakers_of(engine, VoiceStore(folder / "voices"))
    socket = SpeechSocket(speakers, models_of(engine), untold)

    role = RoleApp(
        role="speech",
        handlers=routes.handlers_of(speakers, models_of(engine), untold),
        sockets={SPEECH_STREAM: socket},
        limits=_ROOMY,
        body_limit_bytes=36 << 20,
        readiness=lambda: Readiness("ready", {}),
        lifespan=_nothing,
    )
    await engine.start()
    try:
        yield Shell(role)
    finally:
        await engine.close()
