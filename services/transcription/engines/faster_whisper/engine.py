"""Whisper on CTranslate2 as a transcription engine: requests share one model, in batches."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from services.audio.pcm import Samples
from services.errors import ServiceError
from services.tasks import Handover
from services.transcription.engines import protocol
from services.transcription.engines.batches import Batches, BatchingEngine, cut
from services.transcription.engines.faster_whisper.checkpoint import Checkpoint, Features
from services.transcription.engines.faster_whisper.decoder import (
    FALLBACK,
    DecodedWindow,
    Job,
    decode,
    decoded_well,
    segments,
)
from services.transcription.engines.faster_whisper.loader import Loader
from services.transcription.engines.windows import SileroDetector, Timeline

_MOST_ROUNDS: Final = 9  # for the end of a window that is left for another one
_SPEECH: Final = 0.5  # Silero's own threshold
_ONLY_TRANSCRIBE: Final = ("turbo", "distil", ".en")
"""In the names of models that were trained to transcribe only."""


class Recording:
    """A recording at work, each window in a task.

    At most `held` windows exist at a time until their segments are taken, and the next one. The
    first window is decoded before those after it, so that its text comes soon. If no language was
    named, that goes for all windows up to the first in which somebody speaks: those after it are
    decoded in its language, whatever else is decoded at the same time.
    """

    def __init__(
        self,
        model: Checkpoint,
        batches: Batches[Job, DecodedWindow],
        request: protocol.TranscriptionRequest,
        held: int,
    ) -> None:
        """Begin to read."""
        self.windows: Handover[Handover[protocol.Segment]] = Handover()
        self.room = asyncio.Semaphore(held)  # to be released for each window that was taken
        self._model = model
        self._batches = batches
        self._request = request
        self._language = request.language
        self._order = asyncio.Lock()  # of the windows, which begin to be decoded one after another
        self._told = False  # whether the window was decoded that those after it wait for
        self._tasks = {asyncio.create_task(self._read())}

    async def close(self) -> None:
        """Drop its windows."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self) -> None:
        """Cut the recording into windows until it ends."""
        asked = self._request
        common = Job(
            np.zeros((0, 0), dtype=np.float32),
            self._model.before(asked.prompt, asked.keywords),
            frozenset(asked.languages) or self._model.languages,
            task=asked.task,
        )

        def made(samples: Samples, timeline: Timeline) -> tuple[Features, Timeline, bool]:
            # Whether somebody speaks in it matters if its language may become the recording's;
            # with cutting, windows are speech.
            speech = self._language is not None or asked.cutting is not None
            speech = speech or max(SileroDetector().feed(samples), default=0.0) >= _SPEECH
            return self._model.features(samples), timeline, speech

        try:
            async with aclosing(cut(asked, made)) as found:
                async for features, timeline, speech in found:
                    if not features.shape[1]:  # less than a hundredth of a second
                        continue
                    await self.room.acquire()
                    window: Handover[protocol.Segment] = Handover()
                    self.windows.put(window)
                    job = replace(common, features=features)
                    hearing = self._hear(job, timeline, window, speech=speech)
                    task = asyncio.create_task(hearing)
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        except Exception as error:  # noqa: BLE001  raised where the segments are awaited
            self.windows.end(error)
        else:
            self.windows.end()

    async def _hear(
        self, job: Job, timeline: Timeline, window: Handover[protocol.Segment], *, speech: bool
    ) -> None:
        """Hand over the segments of a window, and what it was not decoded to the end of, again."""
        whole, offset = job.features, 0
        try:
            async with self._order:
                job = replace(job, language=self._language)
                heard = None
                if speech and not self._told:
                    heard = await self._decoded(job, again=False)
                    self._told = self._request.language is not None or not heard.decoded.is_silence
                    if self._told:  # silence does not tell the language
                        self._language = heard.language
            for left in reversed(range(_MOST_ROUNDS)):
                heard = heard or await self._decoded(job, again=offset > 0)
                frames = job.features.shape[1]
                found, seek = await asyncio.to_thread(
                    segments,
                    self._model,
                    self._request,
                    heard,
                    timeline,
                    offset=offset,
                    frames=frames,
                    is_last=not left,
                )
                for segment in found:
                    window.put(segment)
                offset += seek
                if seek == frames:
                    break
                job = replace(job, features=whole[:, offset:], language=heard.language)
                heard = None
        except Exception as error:  # noqa: BLE001  raised where the segments are awaited
            window.end(error if isinstance(error, ServiceError) else self._batches.failed(error))
        else:
            window.end()

    async def _decoded(self, job: Job, *, again: bool) -> DecodedWindow:
        asked = self._request.temperature
        return await decoded_well(
            job,
            (asked,) if asked > 0 else FALLBACK,
            lambda one, more: self._batches.done(self, one, first=again or more),
        )


class FasterWhisperEngine(BatchingEngine[Checkpoint, Job, DecodedWindow]):
    """One Whisper model; see `TranscriptionEngine` for what is promised."""

    name = "faster_whisper"

    def __init__(
        self,
        *,
        model: str = "tiny",
        revision: str = "",
        cache: str = "",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        compute_type: str = "default",
        threads: int = 0,
        batch: int = 8,
        beam_size: int = 5,
    ) -> None:
        """Raise ConfigurationError unless `model` is a size, a hub id or a directory.

        Nothing heavy is imported or loaded before `start`.
        """
        how = {"compute_type": compute_type, "threads": threads or len(os.sched_getaffinity(0))}
        folder = Path(cache).expanduser() if cache else None
        loader = Loader(model, revision, folder, device=device, **how)
        self.models: Sequence[str] = loader.names
        self._batch = batch
        self._beam_size = beam_size
        super().__init__("Whisper", loader, lambda job: job.kind, batch)

    @property
    def languages(self) -> Collection[str]:
        """The codes of the model's languages; none before it is loaded."""
        model = self._loader.model
        return model.languages if model else frozenset()

    @property
    def translates(self) -> bool:
        """Whether the model was trained to translate into English."""
        model = self._loader.model
        can = model.is_multilingual if model else True
        return can and not any(
            part in Path(name).name.lower() for name in self.models for part in _ONLY_TRANSCRIBE
        )

    def check(self, request: protocol.TranscriptionRequest | protocol.GuessRequest) -> None:
        """Raise unless the model can do this; see `TranscriptionEngine.check`."""
        self._loaded()
        protocol.check_request(self, request)

    async def transcribe(
        self, request: protocol.TranscriptionRequest
    ) -> AsyncGenerator[protocol.Segment, None]:
        """Yield what was said, segment by segment; see `TranscriptionEngine.transcribe`."""
        self.check(request)
        # Twice as many windows as a batch: the next is cut while one is decoded.
        hearing = Recording(*self._loaded(), request, 2 * self._batch)
        try:
            async for window in hearing.windows.items():
                async for segment in window.items():
                    yield segment
                hearing.room.release()
        finally:
            await hearing.close()

    async def guess(self, request: protocol.GuessRequest) -> protocol.Hypothesis:
        """Return what an unfinished turn seems to say; see `TranscriptionEngine.guess`."""
        self.check(request)
        model, batches = self._loaded()
        prefix = request.prefix
        job = Job(
            await asyncio.to_thread(model.features, request.samples),
            model.before(request.prompt, request.keywords),
            frozenset(request.languages) or model.languages,
            request.language,
            times=False,
            prefix=model.tokens(" " + prefix.strip()) if prefix.strip() else (),
        )
        heard = await batches.done(object(), job, urgent=True)
        more = ""
        if not heard.decoded.is_silence:
            more = model.text(heard.decoded.tokens[len(job.prefix) :]).rstrip("\ufffd")
        if not prefix or prefix[-1:].isspace():
            more = more.lstrip()
        return protocol.Hypothesis(prefix + more.rstrip(), heard.language)

    def _hear(self, model: Checkpoint, jobs: list[Job]) -> list[DecodedWindow]:
        return decode(model, self._beam_size, jobs)
