"""Fun-CosyVoice3 through a vLLM-Omni server, one of ours or one at a URL.

The server makes tokens and samples; API, formats, voices, splitting and admission are ours.

Not offered, because vLLM-Omni 0.30 accepts the field and ignores it: `instructions` and `language`.
Nor `seed`: it seeds the tokens, but the flow draws its noise from a generator that all requests
share, so the same seed does not give the same samples.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
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
from services.speech.engines.ahead import one_ahead
from services.speech.engines.murmur import murmur
from services.speech.engines.protocol import Capability, SpeaksOnly, check_capabilities
from services.speech.engines.segments import refuse_blank, segments_as_written
from services.speech.engines.vllm_omni.client import SAMPLE_RATE_HZ, OmniClient
from services.speech.engines.vllm_omni.keeper import Keeper
from services.speech.engines.vllm_omni.process import OmniProcess
from services.speech.engines.vllm_omni.references import References, demand_transcript, inline

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
    streams = None
    lack = ""
    loading = False
    capabilities = frozenset({Capability.REFERENCE})

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
        start_timeout_s: float = 900.0,
        timeout_s: float = 60.0,
    ) -> None:
        """Make an engine that is not started; the options are those of `VllmOmniSettings`.

        Raises:
            ConfigurationError: `url` is not a URL, or the command is not installed.
        """
        del voices  # names for registered voices are the voice store's business
        short = model.rstrip("/").rpartition("/")[2]
        # Clients need not know our directories.
        self.models = (short,) if Path(model).is_dir() else tuple(dict.fromkeys((model, short)))
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._references = References()
        args = [*(["--trust-remote-code"] if trust_remote_code else []), *args]
        checked = [] if url else _checked_command(command)
        self._keeper = Keeper(
            self._trial,
            url=_checked_url(url),
            launch=partial(OmniProcess.launch, checked, model, args),
            start_timeout_s=start_timeout_s,
        )
        self._session: aiohttp.ClientSession | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._chores: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether the server is usable."""
        return self._keeper.ready

    @property
    def active(self) -> int:
        """Syntheses that the server works on, or whose text is not all there yet."""
        return len(self._work)

    async def start(self) -> None:
        """Start the server, or wait for it, and have it say a word.

        Raises:
            ConfigurationError: it did not come up; the message ends with what it wrote last.
        """
        # A connection for each request: uvicorn closes idle ones just when one is used again.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector)
        connect = partial(
            OmniClient, self._session, api_key=self._api_key, timeout_s=self._timeout_s
        )
        try:
            await self._keeper.start(connect)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop what is being said; a server of ours is ended."""
        tasks = (*self._work, *self._chores)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._references.close()
        await self._keeper.close()
        if self._session is not None:
            await self._session.close()

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
            demand_transcript(request.reference)
        refuse_blank(request.text)

    async def prepare(self, reference: VoiceReference) -> None:
        """Upload a registered voice and have it say a word, which computes its features.

        If the server is down, or keeps no voices, that is left to the first use.

        Raises:
            InvalidRequestError: the transcript is missing (`ref_text`), or the server refuses the
                recording.
            EngineError: the server failed.
        """
        demand_transcript(reference)
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
            chore = asyncio.create_task(self._references.clean(self._keeper.client))
            self._chores.add(chore)
            chore.add_done_callback(self._chores.discard)

    async def synthesise(self, request: SynthesisRequest) -> AsyncGenerator[Samples, None]:
        """Yield frames as the server makes them; see `SpeechEngine.synthesise`.

        The server refuses `speed` for streams: the tempo is changed here, after the vocoder.
        """
        self.check(request)
        reference = request.reference
        assert reference is not None  # noqa: S101  `check` demands one
        if not self.ready:
            raise UnavailableError("the vLLM-Omni server is not running", retry_after_s=5.0)
        stretch = TimeStretch(SAMPLE_RATE_HZ, request.speed)
        say = partial(self._speak, reference)
        async with aclosing(one_ahead(segments_as_written(request.text), say, self._work)) as said:
            async for frame in said:
                if (stretched := stretch.feed(frame)).size:
                    yield stretched
        if (rest := stretch.finish()).size:
            yield rest

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

    async def _trial(self, client: OmniClient) -> None:
        """Have a server say a word; it may have lost the voices that it knew."""
        await client.trial(inline(murmur(SAMPLE_RATE_HZ)))
        self._references.server_is_new()
        await self._references.clean(client)


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
            "speech.vllm_omni.url to a running server (docs/engines/vllm-omni.md)",
            param="command",
        )
    return [found, *command[1:]]
