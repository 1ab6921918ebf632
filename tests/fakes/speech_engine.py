"""A speech engine for tests: it plays one tone for each character, always the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from services.errors import EngineError, InvalidRequestError, NotFoundError, UnavailableError, shown
from services.speech.engines.protocol import Capability, Voice, check_capabilities
from services.speech.engines.segments import is_speakable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from services.audio.pcm import Samples
    from services.speech.engines.protocol import (
        ConversionRequest,
        SynthesisRequest,
        VoiceReference,
    )

CHARACTER_S = 0.1
_VOICES = (Voice("alloy", "Alloy", ("en",)), Voice("echo", "Echo", ("en", "fr"), "male"))


class FakeEngine:
    """Plays 0.1 s / speed of a sine of 200 + 10 * (code point mod 64) Hz for each character.

    It has every capability and makes one frame per character. It sleeps `delay_s` before each frame
    and breaks off with an `EngineError` at the character `fail_at`.
    """

    name = "fake"
    models = ("fake",)
    streams: int | None = None
    lack = ""
    loading = False
    capabilities = frozenset(Capability)

    def __init__(
        self,
        voices: Mapping[str, str] | None = None,
        *,
        delay_s: float = 0.0,
        sample_rate_hz: int = 24_000,
        fail_at: str | None = None,
    ) -> None:
        """Make an engine that is not started; `voices` adds names for its two voices."""
        self._voices = (
            *_VOICES,
            *(Voice(name, name, ("en",), alias_of=real) for name, real in (voices or {}).items()),
        )
        self.delay_s = delay_s
        self.sample_rate_hz = sample_rate_hz
        self.fail_at = fail_at
        self.ready = False
        self.active = 0
        self.requests: list[SynthesisRequest | ConversionRequest] = []
        self.prepared: list[VoiceReference] = []
        self.forgotten: list[str] = []

    async def start(self) -> None:
        """Be ready."""
        self.ready = True

    async def close(self) -> None:
        """Be ready no more."""
        self.ready = False

    def voices(self) -> tuple[Voice, ...]:
        """Return the two voices, and the names added."""
        return self._voices

    def voice(self, voice_id: str) -> Voice:
        """Return one of them.

        Raises:
            NotFoundError: there is no such voice.
        """
        for voice in self._voices:
            if voice.id == voice_id:
                return voice
        raise NotFoundError(
            f"voice {shown(voice_id)} does not exist; use alloy or echo",
            param="voice",
            code="voice_not_found",
        )

    def check(self, request: SynthesisRequest) -> None:
        """Return if this can be played; see `SpeechEngine.check`."""
        check_capabilities(self, request)
        if request.reference is None:
            self.voice(request.voice or "")
        if isinstance(request.text, str) and not is_speakable(request.text):
            raise InvalidRequestError(
                "input holds nothing to say", param="input", code="blank_input"
            )

    async def synthesise(self, request: SynthesisRequest) -> AsyncGenerator[Samples, None]:
        """Yield one frame a character; see `SpeechEngine.synthesise`."""
        self.check(request)
        if not self.ready:
            raise UnavailableError("the fake engine is not running", retry_after_s=1.0)
        self.requests.append(request)
        self.active += 1
        try:
            if isinstance(request.text, str):
                for character in request.text:
                    yield await self._frame(character, request.speed)
            else:
                async for piece in request.text:
                    for character in piece:
                        yield await self._frame(character, request.speed)
        finally:
            self.active -= 1

    async def prepare(self, reference: VoiceReference) -> None:
        """Note it in `prepared`, and leave a file among its features."""
        self.prepared.append(reference)
        if reference.features is not None:
            reference.features.mkdir(parents=True, exist_ok=True)
            (reference.features / "fake").write_bytes(b"features")

    def forget(self, voice_id: str) -> None:
        """Note it in `forgotten`."""
        self.forgotten.append(voice_id)

    async def convert(self, request: ConversionRequest) -> AsyncGenerator[Samples, None]:
        """Yield one frame for each 0.1 s of the recording; see `SpeechEngine.convert`."""
        if not request.samples.size:
            raise InvalidRequestError("file holds no sample", param="file", code="invalid_audio")
        if not self.ready:
            raise UnavailableError("the fake engine is not running", retry_after_s=1.0)
        self.requests.append(request)
        self.active += 1
        try:
            for _ in range(-(-request.samples.size * 10 // request.sample_rate_hz)):
                yield await self._frame("c", request.speed)
        finally:
            self.active -= 1

    async def _frame(self, character: str, speed: float) -> Samples:
        await asyncio.sleep(self.delay_s)
        if character == self.fail_at:
            raise EngineError("the fake engine fails on request", code="engine_failed")
        time_s = np.arange(round(self.sample_rate_hz * CHARACTER_S / speed)) / self.sample_rate_hz
        tone: Samples = np.sin(2 * np.pi * (200 + 10 * (ord(character) % 64)) * time_s).astype(
            np.float32
        )
        return tone * np.float32(0.5)
