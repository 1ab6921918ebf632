"""Who is measured in `benchmarks.cosyvoice`: each answers `turn` with the streams of some texts."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

from benchmarks.servers import ROOT, Server, free_port
from benchmarks.streams import Turn
from services.speech.engines.cosyvoice.prompts import prompt_text

if TYPE_CHECKING:
    from collections.abc import Sequence

_RATE_HZ = 24_000  # of families 2 and 3
_SAMPLE_BYTES = 2
_LONGEST_S = 120.0
"""Upstream's streams never end when its token thread failed."""


@dataclass(frozen=True)
class Setup:
    """What every contestant is given.

    Attributes:
        python: of the environment that they all run in.
        model: a model directory.
        root: upstream's code.
        voice: a recording to speak like.
        transcript: what is said in it.
    """

    python: str
    model: Path
    root: Path
    voice: Path
    transcript: str


class Contestant(Protocol):
    """What can be given a turn."""

    async def start(self) -> None:
        """Start a process and wait until it can speak."""

    async def turn(self, texts: Sequence[str], *, seed: int) -> Turn:
        """Speak all texts at once; those that can take a seed count up from this one."""

    async def stop(self) -> None:
        """End the process."""


class InProcess:
    """A module that takes texts in lines of JSON and times its own streams."""

    def __init__(self, module: str, setup: Setup) -> None:
        paths = (str(setup.model), str(setup.root), str(setup.voice))
        self._command = (setup.python, "-m", module, *paths, setup.transcript)
        self._log = Path(tempfile.gettempdir()) / f"bentovox-{module}-{os.getpid()}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait for its first line."""
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=1 << 22,
            )
        await self._answer()

    async def turn(self, texts: Sequence[str], *, seed: int) -> Turn:
        """See `Contestant`."""
        assert self._process is not None  # noqa: S101
        assert self._process.stdin is not None  # noqa: S101
        asked = json.dumps({"texts": list(texts), "seed": seed})
        self._process.stdin.write(asked.encode() + b"\n")
        return Turn.of(await self._answer())

    async def stop(self) -> None:
        """End it, the hard way if its threads hang."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _answer(self) -> dict[str, Any]:
        assert self._process is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        line = await asyncio.wait_for(self._process.stdout.readline(), _LONGEST_S)
        if not line:
            raise RuntimeError(f"{self._command[2]} ended; see {self._log}")
        said: dict[str, Any] = json.loads(line)
        return said


class _OverHttp:
    """A server whose answers are raw 16-bit samples."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._client: aiohttp.ClientSession | None = None

    @property
    def client(self) -> aiohttp.ClientSession:
        """What requests are sent with; the server's own address is its base."""
        assert self._client is not None  # noqa: S101
        return self._client

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        await asyncio.to_thread(self._server.start)
        self._client = aiohttp.ClientSession(
            f"http://127.0.0.1:{self._server.port}",
            timeout=aiohttp.ClientTimeout(_LONGEST_S),
            connector=aiohttp.TCPConnector(limit=0),
            raise_for_status=_raise_with_reason,
        )

    async def turn(self, texts: Sequence[str], *, seed: int) -> Turn:
        """See `Contestant`."""
        began = time.perf_counter()
        seeds = range(seed, seed + len(texts))
        streams = await asyncio.gather(*map(self._speak, texts, seeds))
        return Turn.of({"wall_s": time.perf_counter() - began, "streams": streams})

    async def stop(self) -> None:
        """End it."""
        if self._client is not None:
            await self._client.close()
        await asyncio.to_thread(self._server.stop)

    async def _speak(self, text: str, seed: int) -> list[tuple[float, float]]:
        began = time.perf_counter()
        arrivals = []
        async with self.client.post(**self._request(text, seed)) as answer:
            async for data in answer.content.iter_any():
                seconds = len(data) / _SAMPLE_BYTES / _RATE_HZ
                arrivals.append((time.perf_counter() - began, seconds))
        return arrivals

    def _request(self, text: str, seed: int) -> dict[str, Any]:
        raise NotImplementedError


async def _raise_with_reason(answer: aiohttp.ClientResponse) -> None:
    if answer.status >= 400:
        raise RuntimeError(f"{answer.url} answered {answer.status}: {await answer.text()}")


class OurService(_OverHttp):
    """`bentoml serve services.speech.service:Speech` with a registered voice."""

    def __init__(self, setup: Setup) -> None:
        port = free_port()
        command = [setup.python, "-m", "bentoml", "serve", "services.speech.service:Speech"]
        environment = {
            "BENTOVOX_SPEECH__ENGINE": "cosyvoice",
            "BENTOVOX_SPEECH__COSYVOICE__MODEL": str(setup.model),
            "BENTOVOX_SPEECH__COSYVOICE__CODE": str(setup.root),
            "BENTOVOX_SPEECH__STORE": str(setup.model.parent / f"voices-{setup.model.name}"),
        }
        super().__init__(
            Server("our-service", [*command, "--port", str(port)], port, "/readyz", environment)
        )
        self._model = setup.model.name
        self._recording = setup.voice
        self._transcript = setup.transcript
        self._voice = ""
        self.streamed = True

    async def start(self) -> None:
        """Start it, and register the voice with a consent."""
        await super().start()
        recording = self._recording.read_bytes()
        form = aiohttp.FormData({"name": "Bench", "language": "en"})
        form.add_field("recording", recording, filename="consent.wav", content_type="audio/wav")
        async with self.client.post("/v1/audio/voice_consents", data=form) as answer:
            consent = (await answer.json())["id"]
        form = aiohttp.FormData({"name": "bench", "consent": consent, "text": self._transcript})
        form.add_field("audio_sample", recording, filename="voice.wav", content_type="audio/wav")
        async with self.client.post("/v1/audio/voices", data=form) as answer:
            self._voice = (await answer.json())["id"]

    def _request(self, text: str, seed: int) -> dict[str, Any]:
        body = {"model": self._model, "voice": self._voice, "input": text, "seed": seed}
        more = {"response_format": "pcm", "stream": self.streamed}
        return {"url": "/v1/audio/speech", "json": {**body, **more}}


class Whole:
    """The same service, asked not to stream; it starts and ends with the other."""

    def __init__(self, service: OurService) -> None:
        self._service = service

    async def start(self) -> None:
        """Do nothing."""

    async def turn(self, texts: Sequence[str], *, seed: int) -> Turn:
        """See `Contestant`."""
        self._service.streamed = False
        try:
            return await self._service.turn(texts, seed=seed)
        finally:
            self._service.streamed = True

    async def stop(self) -> None:
        """Do nothing."""


class UpstreamServer(_OverHttp):
    """Upstream's FastAPI server; it has no registered voices: the recording goes with each text."""

    def __init__(self, file: Path, setup: Setup) -> None:
        port = free_port()
        module = "benchmarks.peers.cosyvoice_server"
        arguments = (str(file), str(setup.model), str(setup.root), str(port))
        super().__init__(
            Server("upstream", [setup.python, "-m", module, *arguments], port, "/openapi.json")
        )
        family = 3 if "3" in setup.model.name.partition("-0.5B")[0] else 2
        # Upstream leaves the marks around a transcript to its caller.
        self._transcript = prompt_text(family, setup.transcript)
        self._recording = setup.voice.read_bytes()

    def _request(self, text: str, seed: int) -> dict[str, Any]:
        del seed  # it takes none
        form = aiohttp.FormData({"tts_text": text, "prompt_text": self._transcript})
        form.add_field("prompt_wav", self._recording, filename="voice.wav")
        return {"url": "/inference_zero_shot", "data": form}
