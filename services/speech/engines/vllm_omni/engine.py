"""Fun-CosyVoice3 through a vLLM-Omni server that somebody else runs.

The server makes tokens and samples; API, formats, voices, splitting and admission are ours.

Not offered, because vLLM-Omni 0.30 accepts the field and ignores it: `instructions` and `language`.
Nor `seed`: it seeds the tokens, but the flow draws its noise from a generator that all requests
share, so the same seed does not give the same samples.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from services.audio.pcm import Samples
from services.audio.resample import TimeStretch
from services.errors import (
    ConfigurationError,
    EngineError,
    InvalidRequestError,
    NotFoundError,
    ServiceError,
    UnavailableError,
    shown,
)
from services.speech.engines.protocol import (
    Capability,
    SpeaksOnly,
    SynthesisRequest,
    Voice,
    VoiceReference,
    check_capabilities,
)
from services.speech.engines.segments import one_ahead, refuse_blank, segments_as_written
from services.speech.engines.vllm_omni.client import SAMPLE_RATE_HZ, OmniClient, transcript

log = logging.getLogger("bentovox.speech.vllm_omni")

PROBE_S: Final = 5.0
"""Between two looks at the server; a request that fails calls for one at once."""

_MODEL: Final = "FunAudioLLM/Fun-CosyVoice3-0.5B-2512"
_FAULTS: Final = 3  # failed requests in a row that call for a trial


class VllmOmniEngine(SpeaksOnly):
    """Speaks through vLLM-Omni; see `SpeechEngine` for what is promised.

    It has no voices of its own: every request brings a recording (`reference`). It is ready while
    `GET /health` is 200, which in vLLM-Omni 0.30 it is not once a stage has no live replica, and
    the server has said a word since it was last down.
    """

    name = "vllm_omni"
    models = (_MODEL, _MODEL.rpartition("/")[2])
    sample_rate_hz = SAMPLE_RATE_HZ
    streams = None
    loading = False
    capabilities = frozenset({Capability.REFERENCE})

    def __init__(self, *, url: str = "", api_key: str = "") -> None:
        """Make an engine that is not started; the options are those of `VllmOmniSettings`.

        ConfigurationError if `url` is missing or not a URL.
        """
        parts = urlsplit(url)
        if not (parts.scheme in {"http", "https"} and parts.hostname):
            raise ConfigurationError(
                f"speech.vllm_omni.url {url!r} is no URL of a vLLM-Omni server. Start one on a "
                f"machine with a GPU with `vllm-omni serve {_MODEL} --omni --port 8091`, and set "
                "BENTOVOX_SPEECH__VLLM_OMNI__URL to where it is, such as http://gpu-box:8091 "
                "(docs/engines/vllm-omni.md)"
            )
        self.lack = "not started"
        self._client = OmniClient(url, api_key)
        self._faults = 0
        self._forgot = False  # a voice that the server may still have
        self._alarm = asyncio.Event()  # calls for a look
        self._work: set[asyncio.Task[None]] = set()  # what is said
        self._watching: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether the server was usable when it was last looked at."""
        return not self.lack

    async def start(self) -> None:
        """Have the server say a word, and watch it from here on; one that is down is waited for.

        ConfigurationError if it answers, and not as it should.
        """
        self._client.open()
        try:
            await self._look()
        except BaseException as error:
            await self.close()
            if isinstance(error, ServiceError):
                raise ConfigurationError(error.message) from error
            raise
        self._watching = {asyncio.create_task(self._watch())}

    async def close(self) -> None:
        """Stop what is being said; the server goes on."""
        self.lack = "closed"
        tasks = self._work | self._watching
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    def voices(self) -> tuple[Voice, ...]:
        """Return none: all voices are registered ones, and those the voice store lists."""
        return ()

    def voice(self, voice_id: str) -> Voice:
        """Refuse: there is none, and the message says how to add one."""
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
            _demand_transcript(request.reference)
        refuse_blank(request.text)

    async def prepare(self, reference: VoiceReference) -> None:
        """Upload a registered voice and have it say a word, which computes its features.

        If the server is down, or keeps no voices, that is left to the first use.
        """
        _demand_transcript(reference)
        try:
            async with aclosing(self._speak(reference, "Hello.")) as frames:
                async for _ in frames:
                    break
        except UnavailableError as error:
            log.warning("voice %s is prepared at its first use: %s", reference.id, error)

    def forget(self, voice_id: str) -> None:
        """Drop a voice here and at the server, there as soon as it answers."""
        self._client.forget(voice_id)
        self._forgot = True
        self._alarm.set()

    async def synthesise(self, request: SynthesisRequest) -> AsyncGenerator[Samples, None]:
        """Yield frames as the server makes them; see `SpeechEngine.synthesise`.

        The server refuses `speed` for streams: the tempo is changed here, after the vocoder.
        """
        self.check(request)
        reference = request.reference
        assert reference is not None  # noqa: S101  `check` demands one
        stretch = TimeStretch(SAMPLE_RATE_HZ, request.speed)
        say = partial(self._speak, reference)
        async with aclosing(one_ahead(segments_as_written(request.text), say, self._work)) as said:
            async for frame in said:
                if (stretched := stretch.feed(frame)).size:
                    yield stretched
        if (rest := stretch.finish()).size:
            yield rest

    async def _speak(self, reference: VoiceReference, text: str) -> AsyncGenerator[Samples, None]:
        """Yield one segment, and note whether the server failed."""
        if not self.ready:
            raise UnavailableError(
                f"the vLLM-Omni server is not usable: {self.lack}", retry_after_s=PROBE_S
            )
        try:
            async with aclosing(self._client.speak(text, reference)) as frames:
                async for frame in frames:
                    yield frame
        except (EngineError, UnavailableError):
            self._faults += 1
            self._alarm.set()
            raise
        self._faults = 0

    async def _watch(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PROBE_S):
                    await self._alarm.wait()
            self._alarm.clear()
            try:
                await self._look()
            except ServiceError:
                continue  # it is noted
            except Exception:  # whatever it is, the next look may succeed
                log.exception("the vLLM-Omni server cannot be looked at")
                self.lack = "it cannot be looked at"

    async def _look(self) -> None:
        """Note whether the server is usable; raise if it answers and does not speak as it must."""
        was_down = not self.ready
        try:
            await self._client.health()
            if was_down or self._faults >= _FAULTS:
                self._faults = 0
                await self._client.trial()
            if was_down or self._forgot:
                self._forgot = False
                await self._client.clean()
        except ServiceError as error:
            if error.message != self.lack:
                why = error.__cause__ or error.message  # it has the address, for the log only
                log.error("the vLLM-Omni server is down: %s", why)  # noqa: TRY400
            self.lack = error.message
            if not isinstance(error, UnavailableError):
                raise
        else:
            if was_down:
                log.info("the vLLM-Omni server is up")
            self.lack = ""


def _demand_transcript(reference: VoiceReference) -> None:
    if not transcript(reference):
        raise InvalidRequestError(
            "ref_text is needed: the vllm_omni engine clones a voice only with what is said in "
            "its recording",
            param="ref_text",
            code="missing_required_parameter",
        )
