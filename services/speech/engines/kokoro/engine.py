"""Kokoro-82M as a speech engine: natural voices on any machine, faster than they play.

The model comes in the background. Until it is there, and in languages that it does not speak,
espeak-ng speaks in its stead, where it is installed. A single thread computes, a sentence at a
time, and requests take turns. Of each, one sentence is made while the one before is taken.

The graph has no randomness. Without a seed, though, the load decides where long sentences are cut.
"""

# ruff: noqa: RUF001 (the punctuation of many scripts)

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np

from services.audio.pcm import Samples
from services.audio.resample import Resampler, TimeStretch
from services.errors import EngineError, InvalidRequestError, NotFoundError, UnavailableError, shown
from services.speech.engines.espeak import voices as espeak_voices
from services.speech.engines.espeak.engine import EspeakEngine
from services.speech.engines.kokoro.model import SAMPLE_RATE_HZ, SPEEDS, Model, Source
from services.speech.engines.kokoro.phonemes import Phonemes, in_pieces
from services.speech.engines.kokoro.voices import Mix, Voices
from services.speech.engines.protocol import (
    Capability,
    SpeaksOnly,
    SynthesisRequest,
    Voice,
    check_capabilities,
    no_voice,
    unsupported,
)
from services.speech.engines.scripts import language_by_script, plain_width
from services.speech.engines.segments import one_ahead, refuse_blank, segments_as_written

Work = TypeVar("Work")

_CAPABILITIES: Final = frozenset({Capability.LANGUAGE, Capability.SEED})
_SENTENCE_PAUSE_S: Final = 0.3
_CLAUSE_PAUSE_S: Final = 0.1
# Whose listener would have to wait for a long sentence gets it clause by clause.
_LONG_CHARACTERS: Final = 70
_CHARACTERS_A_S: Final = 15.0  # of English
_CLAUSE: Final = re.compile(r"(?<=\S{3})[,;:—–،、，；：](?=\s)|[、，；：]")
_SHORTEST_CLAUSE: Final = 20
_RETRY_S: Final = 10.0


class KokoroEngine(SpeaksOnly):
    """Speaks through onnxruntime in this process; see `SpeechEngine` for what is promised."""

    name = "kokoro"
    models = ("kokoro",)
    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, **options: Any) -> None:
        """Check the options, those of `Source`; nothing heavy is loaded before `start`."""
        try:
            self._stand_in: EspeakEngine | None = EspeakEngine()
        except ImportError:  # it is not installed
            self._stand_in = None
        self._voices = Voices()
        self._source = Source(self._voices, **options)
        self._phonemes = Phonemes(self._stand_in.phonemes if self._stand_in else None)
        self._thread: ThreadPoolExecutor | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._turns = 0  # in the thread, or waiting for it

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the model can do; a seed needs it, as espeak-ng has none."""
        return _CAPABILITIES if self._source.model else _CAPABILITIES - {Capability.SEED}

    @property
    def ready(self) -> bool:
        """Whether it can speak, if only with espeak-ng's voice."""
        return self._thread is not None and (
            self._source.model is not None or self._stand_in is not None
        )

    @property
    def lack(self) -> str:
        """Why the model does not speak; empty if it does."""
        if self._source.model is not None:
            return ""
        instead = "espeak-ng speaks in kokoro's place: " if self._stand_in else ""
        return f"{instead}{self._source.status}"

    @property
    def loading(self) -> bool:
        """Whether the model is on its way."""
        return self._source.model is None and not self._source.settled

    @property
    def streams(self) -> int | None:
        """How many streams it makes faster than they play; None while espeak-ng speaks."""
        model = self._source.model
        return model.streams if model else None

    async def start(self) -> None:
        """Start the stand-in, and find, download and load the model in the background."""
        if self._stand_in is not None:
            await self._stand_in.start()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kokoro")
        self._source.start()

    async def close(self) -> None:
        """Stop what is being said, end the thread and free the model."""
        thread, self._thread = self._thread, None
        self._source.close()
        work = tuple(self._work)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        if thread is not None:
            await asyncio.to_thread(thread.shutdown)
        self._phonemes.clear()
        if self._stand_in is not None:
            await self._stand_in.close()

    def voices(self) -> tuple[Voice, ...]:
        """Return OpenAI's names and the model's voices; all of espeak-ng's are found, too."""
        return self._voices.listed()

    def voice(self, voice_id: str) -> Voice:
        """Return a voice, one of OpenAI's names, a mix, or one of espeak-ng's."""
        found = self._voices.find(voice_id)
        if found is None and self._stand_in is not None:
            with suppress(NotFoundError):
                found = self._stand_in.voice(voice_id)
        if found is None:
            names = [voice.id for voice in self._voices.listed()]
            raise no_voice(voice_id, names, "a voice is a name or a mix of names")
        return found

    def check(self, request: SynthesisRequest) -> None:
        """Raise unless this can be said; see `SpeechEngine.check`."""
        check_capabilities(self, request)
        refuse_blank(request.text)
        text = request.text if isinstance(request.text, str) else ""
        voice_id = self.voice(request.voice or "").id
        if self._language(voice_id, request, text) is None:
            if self._stand_in is None:
                raise InvalidRequestError(
                    f"language {shown(request.language or language_by_script(text, 'en') or '')} "
                    "is not one that kokoro speaks here",
                    param="language",
                    code="unsupported_language",
                )
            self._stand_in.check(self._instead(voice_id, request, text or "a"))
            if request.seed is not None:
                raise unsupported(self._stand_in, "seed")

    async def synthesise(self, request: SynthesisRequest) -> AsyncGenerator[Samples, None]:
        """Yield each segment, or clause, once it is said; see `SpeechEngine.synthesise`."""
        self.check(request)
        voice_id = self.voice(request.voice or "").id
        pause = np.zeros(0, dtype=np.float32)  # after the segment before
        heard_until: float | None = None  # by a listener who began with the first sound

        async def say(text: str) -> AsyncGenerator[Samples, None]:
            nonlocal pause, heard_until
            async with aclosing(self._segment(voice_id, request, text)) as pieces:
                async for piece in pieces:
                    if piece.size:
                        now = time.monotonic()
                        seconds = (pause.size + piece.size) / SAMPLE_RATE_HZ
                        heard_until = max(now, heard_until or now) + seconds
                        yield np.concatenate([pause, piece])
                        pause = pause[:0]
            ends = text.rstrip("\"'”’»)] ")[-1:]
            pause_s = _CLAUSE_PAUSE_S if ends in ",;:—–،、，；：" else _SENTENCE_PAUSE_S
            pause = np.zeros(round(pause_s * SAMPLE_RATE_HZ / request.speed), dtype=np.float32)

        def hurries(text: str) -> bool:
            """Return whether a listener would wait for a text, others' turns included."""
            model = self._source.model
            # With a seed only the first is hurried, so that load does not change where text is cut.
            if heard_until is None or request.seed is not None or model is None:
                return heard_until is None
            made_in_s = len(text) / _CHARACTERS_A_S / model.pace
            return heard_until - time.monotonic() < made_in_s * (1 + self._turns)

        texts = _in_clauses(segments_as_written(request.text), hurries)
        async with aclosing(one_ahead(texts, say, self._work)) as pieces:
            async for piece in pieces:
                yield piece

    def _segment(
        self, voice_id: str, request: SynthesisRequest, text: str
    ) -> AsyncGenerator[Samples, None]:
        language = self._language(voice_id, request, text)
        model = self._source.model
        if language is None or model is None:
            return self._by_espeak(self._instead(voice_id, request, text))
        mix = self._voices.spoken(voice_id, language)
        return self._by_model(model, mix, language, text, request.speed)

    async def _by_model(
        self, model: Model, mix: Mix, language: str, text: str, speed: float
    ) -> AsyncGenerator[Samples, None]:
        low, high = SPEEDS
        native = min(max(speed, low), high)
        stretch = TimeStretch(SAMPLE_RATE_HZ, speed / native)
        phonemes = await self._in_thread(lambda _: self._phonemes.of(plain_width(text), language))
        for piece in in_pieces(phonemes):
            say = partial(model.say, piece, mix, native)
            yield stretch.feed(await self._in_thread(say))
        yield stretch.finish()

    async def _by_espeak(self, request: SynthesisRequest) -> AsyncGenerator[Samples, None]:
        if self._stand_in is None:
            raise UnavailableError(self.lack, retry_after_s=_RETRY_S)
        resampler = Resampler(self._stand_in.sample_rate_hz, SAMPLE_RATE_HZ)
        async with aclosing(self._stand_in.synthesise(request)) as frames:
            async for frame in frames:
                yield resampler.feed(frame)
        yield resampler.finish()

    async def _in_thread(self, work: Callable[[Any], Work]) -> Work:
        """Do a piece of work in the thread, which stops as soon as it is cancelled."""
        if self._thread is None:
            raise UnavailableError("the kokoro engine was closed", retry_after_s=_RETRY_S)
        from onnxruntime import RunOptions  # noqa: PLC0415  heavy

        run = RunOptions()
        self._turns += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, run)
        except asyncio.CancelledError:
            run.terminate = True
            raise
        except Exception as error:
            raise EngineError("kokoro failed", code="engine_failed") from error
        finally:
            self._turns -= 1

    def _language(self, voice_id: str, request: SynthesisRequest, text: str) -> str | None:
        """Return the language that the model speaks a text in; None if it cannot."""
        mix = self._voices.mix(voice_id)
        if mix is None:
            return None
        own = mix.language
        if own in ("ja", "zh") or self._phonemes.language(own) is None:
            own = "en-us" if not language_by_script(text, "en") else own
        tag = request.language or language_by_script(text, own) or own
        if tag == "en":
            tag = own if own.startswith("en-") else "en-us"
        return self._phonemes.language(tag)

    def _instead(self, voice_id: str, request: SynthesisRequest, text: str) -> SynthesisRequest:
        """Return a request for what espeak-ng says in the model's place."""
        mix = self._voices.mix(voice_id)
        if mix is not None and voice_id not in espeak_voices.OPENAI_VOICES:
            variant = "f3" if mix.gender == "female" else "m3"
            voice_id = f"{mix.language}+{variant}"
        return replace(request, text=text, voice=voice_id, seed=None)


async def _in_clauses(
    texts: AsyncGenerator[str, None], hurries: Callable[[str], bool]
) -> AsyncGenerator[str, None]:
    """Yield the texts, and the clauses of a long one while there is a hurry for its rest."""
    async with aclosing(texts):
        async for text in texts:
            rest = text
            while len(rest) > _LONG_CHARACTERS and hurries(rest):
                clauses = (one.end() for one in _CLAUSE.finditer(rest))
                end = next((one for one in clauses if one >= _SHORTEST_CLAUSE), len(rest))
                yield rest[:end]
                rest = rest[end:].strip()
            if rest:
                yield rest
