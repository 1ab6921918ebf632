"""Fun-CosyVoice3 through a vLLM-Omni server, one of ours or one at a URL.

The server makes tokens and samples; the API, formats, voices, splitting and admission are ours.

Not offered, because vLLM-Omni 0.30 takes the field and does nothing with it: `instructions` and
`language`. Nor `seed`: it seeds the tokens, but the flow draws its noise from a generator that all
requests share, so the same seed does not give the same samples.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from services.audio.stretch import TimeStretch
from services.errors import (
    ConfigurationError,
    EngineError,
    NotFoundError,
    UnavailableError,
    shown,
)
from services.speech.engines.murmur import murmur
from services.speech.engines.protocol import Capability, SpeaksOnly, check_capabilities
from services.speech.engines.segments import refuse_blank
from services.speech.engines.vllm_omni.client import SAMPLE_RATE_HZ, OmniClient
from services.speech.engines.vllm_omni.keeper import Keeper
from services.speech.engines.vllm_omni.process import OmniProcess, free_port
from services.speech.engines.vllm_omni.references import References, check_reference, recording_of
from services.speech.engines.vllm_omni.synthesis import Synthesis

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from services.audio.pcm import Samples
    from services.speech.engines.protocol import SynthesisRequest, Voice, VoiceReference

log = logging.getLogger("bentovox.speech.vllm_omni")

MODEL = "FunAudioLLM/Fun-CosyVoice3-0.5B-2512"


class VllmOmniEngine(SpeaksOnly):
    """Speaks through vLLM-Omni; see `SpeechEngine` for what is promised.

    It has no voices of its own: every request brings a recording (`reference`).
    """

    name = "vllm_omni"
    sample_rate_hz = SAMPLE_RATE_HZ
    capabilities = frozenset({Capability.REFERENCE, Capability.SPEED, Capability.STREAMING_TEXT})

    def __init__(
        self,
        voices: Mapping[str, str] | None = None,
        *,
        url: str = "",
        api_key: str = "",
        model: str = MODEL,
        command: Sequence[str] = ("vllm-omni",),
        args: Sequence[str] = (),
        trust_remote_code: bool = False,
        upload_voices: bool = True,
        start_timeout_s: float = 900.0,
        timeout_s: float = 60.0,
        probe_s: float = 5.0,
        backoff_s: tuple[float, float] = (1.0, 60.0),
    ) -> None:
        """Make an engine that is not started; the options are those of `VllmOmniSettings`.

        `voices` is not used: names that stand for registered voices are the voice store's.
        `backoff_s` is the first and the longest wait before a new start.

        Raises:
            ConfigurationError: the URL is none, or the command is not installed.
        """
        del voices
        self._model = model
        short = model.rstrip("/").rpartition("/")[2]
        # Clients need not know our directories.
        self.models = (short,) if Path(model).is_dir() else tuple(dict.fromkeys((model, short)))
        self._command = _checked_command(command) if not url else []
        self._args = [*(["--trust-remote-code"] if trust_remote_code else []), *args]
        self._connection = partial(OmniClient, api_key=api_key, timeout_s=timeout_s)
        self._references = References(upload=upload_voices)
        self._keeper = Keeper(
            self._connect,
            self._trial,
            url=_checked_url(url),
            launch=None if url else self._launch,
            start_timeout_s=start_timeout_s,
            probe_s=probe_s,
            backoff_s=backoff_s,
        )
        self._session: aiohttp.ClientSession | None = None
        self._jobs: set[Synthesis] = set()
        self._chores: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether the server is usable."""
        return self._keeper.ready

    @property
    def active(self) -> int:
        """Syntheses that the server works on, or whose text is not all there yet."""
        return sum(not job.task.done() for job in self._jobs)

    async def start(self) -> None:
        """Start the server, or wait for it, and have it say a word.

        Raises:
            ConfigurationError: it did not come up; the message ends with what it wrote last.
        """
        if self._session is not None:
            return
        # A connection for each request: uvicorn closes idle ones just when one is used again.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector)
        try:
            await self._keeper.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop what is being said; a server of ours is ended."""
        gone = UnavailableError("the vllm_omni engine was closed", retry_after_s=1.0)
        await asyncio.gather(*(job.stop(gone) for job in tuple(self._jobs)))
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self._references.close()
        await self._keeper.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def voices(self) -> tuple[Voice, ...]:
        """Return none: all voices are registered ones, and those the voice store lists."""
        return ()

    def voice(self, voice_id: str) -> Voice:
        """Refuse: there is none.

        Raises:
            NotFoundError: always (`voice_not_found`); the message says how to add a voice.
        """
        raise NotFoundError(
            f"voice {shown(voice_id)} does not exist: the vllm_omni engine speaks only like a "
            "recording. Register one with POST /v1/audio/voices and name it, or send ref_audio "
            "and ref_text",
            param="voice",
            code="voice_not_found",
        )

    def check(self, request: SynthesisRequest) -> None:
        """Raise unless this can be said; see `SpeechEngine.check`."""
        check_capabilities(self, request)
        if request.reference is None:
            self.voice(request.voice or "")
        else:
            check_reference(request.reference, "ref_audio")
        refuse_blank(request.text)

    async def prepare(self, reference: VoiceReference) -> None:
        """Upload a registered voice and have it say a word, which computes its features.

        With a server that is down, or that keeps no voices, its first use does that.

        Raises:
            InvalidRequestError: the recording is too short or too long, lacks its text
                (`ref_text`), or the server refuses it.
            EngineError: the server failed.
        """
        check_reference(reference, "audio_sample")
        await self._references.keep(reference)
        if not self.ready:
            return
        try:
            async with aclosing(self._speak(reference, "Hello.")) as frames:
                async for _ in frames:
                    break
        except UnavailableError as error:
            log.warning("voice %s is prepared at its first use: %s", reference.id, error)

    def forget(self, voice_id: str) -> None:
        """Drop a voice here and at the server, there as soon as it answers."""
        self._references.forget(voice_id)
        if self.ready:
            self._start_chore()

    async def synthesise(self, request: SynthesisRequest) -> AsyncGenerator[Samples, None]:
        """Yield frames as the server makes them; see `SpeechEngine.synthesise`.

        The server refuses `speed` for streams: the tempo is changed here, after the vocoder.
        """
        self.check(request)
        reference = request.reference
        if reference is None:  # for the type checker: checked above
            raise EngineError("no reference", code="engine_failed")
        if self._session is None or not self.ready:
            raise UnavailableError("the vLLM-Omni server is not running", retry_after_s=5.0)
        stretch = TimeStretch(SAMPLE_RATE_HZ, request.speed)
        job = Synthesis(request.text, partial(self._speak, reference), SAMPLE_RATE_HZ)
        self._jobs.add(job)
        try:
            async with aclosing(job.frames()) as frames:
                async for frame in frames:
                    if (stretched := stretch.feed(frame)).size:
                        yield stretched
            if (rest := stretch.finish()).size:
                yield rest
        finally:
            self._jobs.discard(job)
            await job.stop()

    async def _speak(self, reference: VoiceReference, text: str) -> AsyncGenerator[Samples, None]:
        """Yield one segment, and tell the keeper how it went."""
        client = self._keeper.client
        try:
            async with aclosing(self._references.speak(client, text, reference)) as frames:
                async for frame in frames:
                    yield frame
        except (EngineError, UnavailableError):
            self._keeper.fault()
            raise
        self._keeper.worked()

    def _connect(self, url: str) -> OmniClient:
        if self._session is None:
            raise UnavailableError("the vllm_omni engine was closed", retry_after_s=1.0)
        return self._connection(self._session, url)

    async def _trial(self, client: OmniClient) -> None:
        """Have a server say a word; what it knew of voices is taken for lost."""
        rate_hz = await client.trial(recording_of(murmur(SAMPLE_RATE_HZ)).inline())
        if rate_hz != SAMPLE_RATE_HZ:
            raise EngineError(
                f"the server speaks at {rate_hz} Hz, which is not Fun-CosyVoice3's "
                f"{SAMPLE_RATE_HZ}: is it another model?",
                code="engine_failed",
            )
        self._references.server_is_new()
        self._start_chore(client)

    def _start_chore(self, client: OmniClient | None = None) -> None:
        chore = asyncio.create_task(self._references.clean(client or self._keeper.client))
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    async def _launch(self) -> tuple[OmniProcess, str]:
        port = free_port()
        folder = Path(tempfile.mkdtemp(prefix="bentovox-vllm-omni-"))
        # fmt: off
        command = [
            *self._command, "serve", self._model, "--omni",
            "--host", "127.0.0.1", "--port", str(port),
            "--disable-uvicorn-access-log",
            *self._args,
        ]
        # fmt: on
        log.info("starting %s", " ".join(command))
        if "--trust-remote-code" in command:
            log.warning("code that the model's repository brings along will be run")
        programs = (str(Path(command[0]).parent), os.environ.get("PATH", os.defpath))
        environment = {
            "PATH": os.pathsep.join(programs),  # its environment's compilers come first
            "SPEAKER_SAMPLES_DIR": str(folder),
        }
        process = await OmniProcess.launch(command, environment, folder)
        return process, f"http://127.0.0.1:{port}"


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if url and not (parts.scheme in {"http", "https"} and parts.hostname):
        raise ConfigurationError(
            f"speech.vllm_omni.url {url!r} is no URL such as http://gpu-box:8091", param="url"
        )
    return url


def _checked_command(command: Sequence[str]) -> list[str]:
    found = shutil.which(command[0]) if command else None
    if found is None:
        raise ConfigurationError(
            f"speech.vllm_omni.command: {command[0] if command else ''!r} is not installed. "
            "vLLM-Omni needs an environment of its own: name its vllm-omni there, or set "
            "speech.vllm_omni.url to a server that runs (docs/engines/vllm-omni.md)",
            param="command",
        )
    return [found, *command[1:]]
