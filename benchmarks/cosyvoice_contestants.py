"""Who is measured in `benchmarks.cosyvoice`.

Each speaks some texts at once in its `turn`; those that can take a seed count up from the first.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from benchmarks.contestants import Server, Worker, free_port
from benchmarks.streams import Turn
from services.speech.engines.cosyvoice.text import prompt_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_RATE_HZ = 24_000  # of families 2 and 3
_SAMPLE_BYTES = 2
_LONGEST_S = 120.0


@dataclass(frozen=True)
class Setup:
    """What every contestant is given.

    Attributes:
        python: of the environment that they all run in.
        family: 2 or 3.
        model: a model directory.
        voice: a recording to speak like.
        transcript: what is said in it.
    """

    python: str
    family: int
    model: Path
    voice: Path
    transcript: str


class InProcess(Worker):
    """A module of `benchmarks.peers` that times its own streams."""

    def __init__(self, module: str, setup: Setup) -> None:
        """Name the module; `start` starts it."""
        command = [setup.python, "-m", f"benchmarks.peers.{module}"]
        command += [str(setup.model), str(setup.voice), setup.transcript]
        super().__init__(module, command, {"OMP_NUM_THREADS": "1"})

    def turn(self, texts: Sequence[str], seed: int) -> Turn:
        """Speak."""
        return Turn.of(self.ask({"texts": list(texts), "seed": seed}))


class _OverHttp:
    """A server whose answers are raw 16-bit samples."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.Runner()
        self._client: Any = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self._server.start()
        self._loop.run(self._connect())

    def stop(self) -> None:
        """End it."""
        if self._client is not None:
            self._loop.run(self._client.close())
        self._loop.close()
        self._server.stop()

    async def _connect(self) -> None:
        self._client = aiohttp.ClientSession(
            f"http://127.0.0.1:{self._server.port}",
            timeout=aiohttp.ClientTimeout(_LONGEST_S),
            connector=aiohttp.TCPConnector(limit=0),
            raise_for_status=_raise_with_reason,
        )

    def _ask(self, requests: Sequence[dict[str, Any]]) -> Turn:
        """Send all at once."""

        async def ask() -> Turn:
            began = time.perf_counter()
            streams = await asyncio.gather(*map(self._listen, requests))
            return Turn.of({"wall_s": time.perf_counter() - began, "streams": streams})

        return self._loop.run(ask())

    async def _listen(self, request: dict[str, Any]) -> list[tuple[float, float]]:
        began = time.perf_counter()
        arrivals = []
        async with self._client.post(**request) as answer:
            async for data in answer.content.iter_any():
                seconds = len(data) / _SAMPLE_BYTES / _RATE_HZ
                arrivals.append((time.perf_counter() - began, seconds))
        return arrivals


async def _raise_with_reason(answer: aiohttp.ClientResponse) -> None:
    if answer.status >= 400:
        raise RuntimeError(f"{answer.url} answered {answer.status}: {await answer.text()}")


class OurService(_OverHttp):
    """`bentoml serve services.speech.service:Speech` with a registered voice."""

    def __init__(self, setup: Setup) -> None:
        """Take a port."""
        port = free_port()
        command = [setup.python, "-m", "bentoml", "serve", "services.speech.service:Speech"]
        environment = {
            "BENTOVOX_SPEECH__ENGINE": "cosyvoice",
            "BENTOVOX_SPEECH__COSYVOICE__MODEL": str(setup.model),
            "BENTOVOX_SPEECH__STORE": str(setup.model.parent / f"voices-{setup.model.name}"),
        }
        super().__init__(
            Server("speech", [*command, f"--port={port}"], port, environment=environment)
        )
        self._setup = setup
        self._voice = ""

    def turn(self, texts: Sequence[str], seed: int, *, streams: bool = True) -> Turn:
        """Speak."""
        said = {"model": self._setup.model.name, "voice": self._voice, "response_format": "pcm"}
        asked = (
            {**said, "input": text, "seed": own, "stream": streams}
            for own, text in enumerate(texts, seed)
        )
        return self._ask([{"url": "/v1/audio/speech", "json": body} for body in asked])

    async def _connect(self) -> None:
        """Register the voice, with a consent."""
        await super()._connect()
        named = {"name": "Bench", "language": "en"}
        consent = await self._register("voice_consents", "recording", named)
        named = {"name": "bench", "consent": consent, "text": self._setup.transcript}
        self._voice = await self._register("voices", "audio_sample", named)

    async def _register(self, what: str, field: str, named: dict[str, str]) -> str:
        form = aiohttp.FormData(named)
        sound = self._setup.voice.read_bytes()
        form.add_field(field, sound, filename="voice.wav", content_type="audio/wav")
        async with self._client.post(f"/v1/audio/{what}", data=form) as answer:
            return str((await answer.json())["id"])


class UpstreamServer(_OverHttp):
    """Upstream's FastAPI server; it has no registered voices: the recording goes with each text."""

    def __init__(self, file: Path, setup: Setup) -> None:
        """Take a port; `file` is upstream's server.py."""
        port = free_port()
        module = "benchmarks.peers.cosyvoice_server"
        command = [setup.python, "-m", module, str(file), str(setup.model), str(port)]
        super().__init__(Server("upstream", command, port, "/openapi.json"))
        # Upstream leaves the marks around a transcript to its caller.
        self._transcript = prompt_text(setup.family, setup.transcript)
        self._recording = setup.voice.read_bytes()

    def turn(self, texts: Sequence[str], seed: int) -> Turn:
        """Speak; it takes no seed."""
        del seed
        return self._ask([{"url": "/inference_zero_shot", "data": self._form(t)} for t in texts])

    def _form(self, text: str) -> aiohttp.FormData:
        form = aiohttp.FormData({"tts_text": text, "prompt_text": self._transcript})
        form.add_field("prompt_wav", self._recording, filename="voice.wav")
        return form
