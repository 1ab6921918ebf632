"""espeak-ng as a speech engine: intelligible, in a hundred languages, without a model.

espeak-ng's state is global, so a single thread speaks, one segment (a sentence, at most 200
characters, some 20 ms of work) at a time, and requests take turns. The next segment is made once
the last one has been taken, so a slow listener holds nobody up.

Not offered: `instructions` and `ref_audio`, which espeak-ng cannot follow, and `seed`: its
oscillators keep their state between utterances, and two runs of one text differ by a few samples
(measured with espeak-ng 1.52, also after `espeak_ng_SetRandSeed` and a new initialisation).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.audio.pcm import Samples, amplified, to_float32
from services.audio.resample import TimeStretch
from services.errors import EngineError, UnavailableError
from services.speech.engines.espeak.library import library
from services.speech.engines.espeak.voices import VoiceCatalogue
from services.speech.engines.protocol import (
    Capability,
    SpeaksOnly,
    SynthesisRequest,
    Voice,
    check_capabilities,
)
from services.speech.engines.scripts import plain_width
from services.speech.engines.segments import refuse_blank, segments_as_written

_SILENCE: Final = 8  # of 32768: a sample no louder belongs to a pause
_NORMAL_WPM: Final = 175  # speed 1.0
# Where espeak-ng's rate scales the duration within 4 %. Below 80 it has no effect, and from 300 to
# 450 it drops pauses (12 % too short); `TimeStretch` does the rest.
_NATIVE_WPM: Final = (80, 260)


class EspeakEngine(SpeaksOnly):
    """Speaks through espeak-ng in this process; see `SpeechEngine` for what is promised."""

    name = "espeak"
    models = ("espeak",)
    streams = None
    lack = ""
    loading = False
    capabilities = frozenset({Capability.LANGUAGE})

    def __init__(self) -> None:
        self._library = library()
        self.sample_rate_hz = self._library.sample_rate_hz
        self._catalogue = VoiceCatalogue(self._library.voices(), self._library.variants())
        self._thread: ThreadPoolExecutor | None = None

    @property
    def ready(self) -> bool:
        """Whether `start` is done and `close` was not called."""
        return self._thread is not None

    async def start(self) -> None:
        """Start the thread and say one word, which reads the data from disk."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak")
        voice = self._catalogue.identifier(self.voice("en-us"), None)
        warm_up = partial(self._library.speak, "a", voice=voice, words_per_minute=_NORMAL_WPM)
        await asyncio.get_running_loop().run_in_executor(thread, warm_up)
        self._thread = thread

    async def close(self) -> None:
        """Stop what is being said and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.shutdown)

    def voices(self) -> tuple[Voice, ...]:
        """Return OpenAI's names and, for each language, a plain, a female and a male voice."""
        return self._catalogue.voices()

    def voice(self, voice_id: str) -> Voice:
        """Return any `<language>[+variant]` or alias; see `SpeechEngine.voice`."""
        return self._catalogue.find(voice_id)

    def check(self, request: SynthesisRequest) -> None:
        """Raise unless this can be said; see `SpeechEngine.check`."""
        check_capabilities(self, request)
        self._catalogue.identifier(self.voice(request.voice or ""), request.language)
        refuse_blank(request.text)

    def phonemes(self, text: str, language: str) -> str:
        """Return a text's phonemes; see `EspeakLibrary.phonemes`."""
        return self._library.phonemes(text, self._catalogue.identifier(self.voice(language), None))

    async def synthesise(self, request: SynthesisRequest) -> AsyncGenerator[Samples, None]:
        """Yield each segment once it is said; see `SpeechEngine.synthesise`."""
        self.check(request)
        voice = self.voice(request.voice or "")
        gain_db = self._catalogue.gain_db(voice)
        wanted = round(_NORMAL_WPM * request.speed)
        rate = min(max(wanted, _NATIVE_WPM[0]), _NATIVE_WPM[1])
        left_over = 1.0 if rate == wanted else _NORMAL_WPM * request.speed / rate
        stretch = TimeStretch(self.sample_rate_hz, left_over)
        pause = np.zeros(0, dtype=np.int16)  # held back, so that the last sound is the end
        async with aclosing(segments_as_written(request.text)) as texts:
            async for text in texts:
                identifier = self._catalogue.identifier(voice, request.language, text)
                said = await self._said(plain_width(text), identifier, rate)
                said = np.concatenate([pause, said])
                sounding = np.flatnonzero((said > _SILENCE) | (said < -_SILENCE))
                end = int(sounding[-1]) + 1 if sounding.size else 0
                pause = said[end:]
                if (frame := stretch.feed(to_float32(said[:end]))).size:
                    yield amplified(frame, gain_db)
        if (frame := stretch.finish()).size:
            yield amplified(frame, gain_db)

    async def _said(self, text: str, voice: str, words_per_minute: int) -> NDArray[np.int16]:
        if self._thread is None:
            raise UnavailableError("the espeak engine is not running", retry_after_s=1.0)
        speak = partial(self._library.speak, text, voice=voice, words_per_minute=words_per_minute)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, speak)
        except Exception as error:
            raise EngineError("espeak-ng failed", code="engine_failed") from error
