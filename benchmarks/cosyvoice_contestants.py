"""Who is measured in `benchmarks.cosyvoice`.

Each speaks some texts at once in its `turn`; those that can take a seed count up from the first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import Server, Service, Worker, free_port
from benchmarks.streams import Turn, over_http
from services.speech.engines.cosyvoice.text import with_mark

_RATE_HZ = 24_000


@dataclass(frozen=True)
class Setup:
    """What every contestant is given: a model of a family, a recording and what is said in it."""

    python: str  # of the environment that they all run in
    family: int
    model: Path
    voice: Path
    transcript: str


class Peer(Worker):
    """A module of `benchmarks.peers` and what goes with it, called in a process of its own."""

    def __init__(self, name: str, setup: Setup, *module: str, options: Sequence[str] = ()) -> None:
        command = [setup.python, "-m", *module, str(setup.model), str(setup.voice)]
        environment = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        super().__init__(name, [*command, setup.transcript, *options], environment)

    def turn(self, texts: Sequence[str], seed: int, **asked: bool) -> Turn:
        """Speak; upstream's classes take no seed."""
        return Turn.of(self.ask({"texts": list(texts), "seed": seed, **asked}))


def bare(setup: Setup) -> Peer:
    """Return upstream's classes."""
    return Peer("cosyvoice-bare", setup, "benchmarks.peers.cosyvoice_upstream", "bare")


class OurService(Service):
    """The speech role with a registered voice."""

    def __init__(self, setup: Setup) -> None:
        store = tempfile.mkdtemp(prefix="voices-", dir=setup.model.parent)
        super().__init__(
            "speech",
            setup.python,
            BENTOVOX_SPEECH__ENGINE="cosyvoice",
            BENTOVOX_SPEECH__COSYVOICE__MODEL=str(setup.model),
            BENTOVOX_SPEECH__STORE=store,
            BENTOVOX_SPEECH__SLOTS="64",  # as the profiles for GPUs: the machine's measure decides
            BENTOVOX_SPEECH__QUEUE="64",
            BENTOVOX_SPEECH__DEADLINE_S="300",  # whoever waits is heard in the end
        )
        self._setup = setup
        self._voice = ""

    def start(self) -> None:
        """Start it and register the voice, with a consent."""
        super().start()
        consent = self._register("voice_consents", "recording", name="Bench", language="en")
        text = self._setup.transcript
        self._voice = self._register("voices", "audio_sample", name="b", consent=consent, text=text)

    def turn(self, texts: Sequence[str], seed: int, *, streams: bool = True) -> Turn:
        """Speak."""
        said = {"model": self._setup.model.name, "voice": self._voice, "response_format": "pcm"}
        bodies = (
            {**said, "input": text, "seed": own, "stream": streams}
            for own, text in enumerate(texts, seed)
        )
        return over_http(f"{self.url}/v1/audio/speech", [{"json": one} for one in bodies], _RATE_HZ)

    def _register(self, what: str, field: str, **named: str) -> str:
        import httpx  # noqa: PLC0415  where only a GPU is, there is none

        file = {field: ("voice.wav", self._setup.voice.read_bytes(), "audio/wav")}
        url = f"{self.url}/v1/audio/{what}"
        answer = httpx.post(url, data=named, files=file, timeout=60).raise_for_status()
        return str(answer.json()["id"])


class UpstreamServer(Server):
    """Upstream's FastAPI server; it has no registered voices: the recording goes with each text."""

    def __init__(self, file: Path, setup: Setup) -> None:
        """Take a port; `file` is upstream's server.py."""
        port = free_port()
        module = "benchmarks.peers.cosyvoice_upstream"
        command = [setup.python, "-m", module, "server", str(setup.model), str(file), str(port)]
        super().__init__("upstream", command, port, "/openapi.json")
        # Upstream leaves the marks around a transcript to its caller.
        self._transcript = with_mark(setup.family, setup.transcript)
        self._recording = setup.voice.read_bytes()

    def turn(self, texts: Sequence[str], seed: int) -> Turn:
        """Speak; it takes no seed."""
        del seed
        files = {"prompt_wav": ("voice.wav", self._recording)}
        requests: list[dict[str, Any]] = [
            {"data": {"tts_text": text, "prompt_text": self._transcript}, "files": files}
            for text in texts
        ]
        return over_http(f"{self.url}/inference_zero_shot", requests, _RATE_HZ)
