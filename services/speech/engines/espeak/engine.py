"""espeak-ng as a speech engine: intelligible, in a hundred languages, without a model.

espeak-ng's state is global, so a single thread speaks, one segment (a sentence, at most 200
characters) at a time, and requests take turns. A segment's frames never wait in the thread for a
slow listener; the next segment is made once the last one has been taken. So nobody blocks anybody,
and at most one segment waits to be taken.

Not offered: `instructions` and `ref_audio`, which espeak-ng cannot follow, and `seed`: its
oscillators keep their state between utterances, and two runs of one text differ by a few samples
(measured with espeak-ng 1.52, also after `espeak_ng_SetRandSeed` and a new initialisation).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from services.audio.pcm import amplified, to_float32
from services.errors import EngineError, UnavailableError
from services.handover import Handover
from services.speech.engines.espeak.library import library
from services.speech.engines.espeak.voices import OPENAI_VOICES, VoiceCatalogue
from services.speech.engines.protocol import Capability, SpeaksOnly, check_capabilities
from services.speech.engines.scripts import plain_width
from services.speech.engines.segments import refuse_blank, segments_as_written

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from numpy.typing import NDArray

    from services.audio.pcm import Samples
    from services.speech.engines.protocol import SynthesisRequest, Voice

_SILENCE: Final = 8  # of 32768: a sample no louder belongs to a pause


class EspeakEngine(SpeaksOnly):
    """Speaks through espeak-ng in this process; see `SpeechEngine` for what is promised."""

    name = "espeak"
    models = ("espeak",)
    streams = None
    lack = ""
    loading = False
    capabilities = frozenset({Capability.LANGUAGE, Capability.SPEED, Capability.STREAMING_TEXT})

    def __init__(self, voices: Mapping[str, str] | None = None) -> None:
        """Load the library; `voices` maps further names to voices and overrides OpenAI's.

        Raises:
            ImportError: espeakng-loader is not installed.
            ConfigurationError: it cannot be loaded, or `voices` names a voice that does not exist.
        """
        self._library = library()
        self.sample_rate_hz = self._library.sample_rate_hz
        self._catalogue = VoiceCatalogue(
            self._library.voices(),
            self._library.variants(),
            {**OPENAI_VOICES, **(voices or {})},
        )
        self._thread: ThreadPoolExecutor | None = None
        self._segments: set[Handover[NDArray[np.int16]]] = set()

    @property
    def ready(self) -> bool:
        """Whether `start` is done and `close` was not called."""
        return self._thread is not None

    @property
    def active(self) -> int:
        """Segments that are being made or wait for the thread."""
        return len(self._segments)

    async def start(self) -> None:
        """Start the thread and say one word, which reads the data from disk."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak")
        voice = self._catalogue.identifier(self.voice("en-us"), None)
        warm_up = partial(self._library.speak, "a", voice=voice, speed=1.0, on_frame=lambda _: True)
        await asyncio.get_running_loop().run_in_executor(thread, warm_up)
        self._thread = thread

    async def close(self) -> None:
        """Stop what is being said and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            for segment in tuple(self._segments):
                segment.end(UnavailableError("the espeak engine was closed", retry_after_s=1.0))
                segment.close()
            thread.shutdown(wait=False, cancel_futures=True)
            await asyncio.to_thread(thread.shutdown)

    def voices(self) -> tuple[Voice, ...]:
        """Return OpenAI's names and, for each language, a plain, a female and a male voice."""
        return self._catalogue.voices()

    def voice(self, voice_id: str) -> Voice:
        """Return any `<language>[+variant]` or alias.

        Raises:
            NotFoundError: no such voice (`voice_not_found`).
        """
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
        """Yield frames of up to 200 ms; see `SpeechEngine.synthesise`."""
        self.check(request)
        voice = self.voice(request.voice or "")
        gain_db = self._catalogue.gain_db(voice)
        tail = _TrailingSilence()
        async with aclosing(segments_as_written(request.text)) as texts:
            async for text in texts:
                identifier = self._catalogue.identifier(voice, request.language, text)
                said = self._say(plain_width(text), identifier, request.speed)
                async with aclosing(said) as frames:
                    async for frame in frames:
                        sounding = tail.hold_back(frame)
                        if sounding.size:
                            yield amplified(to_float32(sounding), gain_db)

    async def _say(
        self, text: str, voice: str, speed: float
    ) -> AsyncGenerator[NDArray[np.int16], None]:
        """Yield the frames of one segment, none of which waits in the thread."""
        if self._thread is None:
            raise UnavailableError("the espeak engine is not running", retry_after_s=1.0)
        segment: Handover[NDArray[np.int16]] = Handover(0, lambda _: 0)

        def speak() -> None:
            try:
                self._library.speak(text, voice=voice, speed=speed, on_frame=segment.put)
            except Exception as error:  # noqa: BLE001  raised where the frames are taken
                failed = EngineError("espeak-ng failed", code="engine_failed")
                failed.__cause__ = error
                segment.end(failed)
            segment.end()

        self._segments.add(segment)
        work = self._thread.submit(speak)
        work.add_done_callback(lambda _: self._segments.discard(segment))
        try:
            async with aclosing(segment.items()) as frames:
                async for frame in frames:
                    yield frame
        finally:
            segment.close()
            work.cancel()


class _TrailingSilence:
    """Holds pauses back until more is said, so that an utterance ends with its last sound."""

    def __init__(self) -> None:
        self._held: list[NDArray[np.int16]] = []

    def hold_back(self, frame: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return the pause held and `frame` up to its last sound; empty if there is none."""
        sounding = np.flatnonzero(np.abs(frame.astype(np.int32)) > _SILENCE)
        if not sounding.size:
            self._held.append(frame)
            return frame[:0]
        end = int(sounding[-1]) + 1
        whole = np.concatenate([*self._held, frame[:end]]) if self._held else frame[:end]
        self._held = [frame[end:]]
        return whole
