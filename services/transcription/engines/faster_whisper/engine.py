"""Whisper on CTranslate2 as a transcription engine: requests share one model, in batches."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from services.handover import Handover, in_daemon
from services.transcription.engines.batches import BatchingEngine
from services.transcription.engines.faster_whisper.checkpoint import Checkpoint
from services.transcription.engines.faster_whisper.decoder import Decoder, Job
from services.transcription.engines.faster_whisper.loader import Loader, ModelSource
from services.transcription.engines.faster_whisper.requesters import Guess, Recording
from services.transcription.engines.protocol import check_request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from services.transcription.engines.protocol import (
        GuessRequest,
        Hypothesis,
        Segment,
        TranscriptionRequest,
    )

_ONLY_TRANSCRIBE: Final = ("turbo", "distil", ".en")
"""In the names of models that were trained to transcribe only."""


class FasterWhisperEngine(BatchingEngine[Checkpoint, Job]):
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
        """Check that it can work; nothing heavy is imported or loaded before `start`.

        Raises:
            ConfigurationError: `model` is not a size, a hub id or a directory.
        """
        source = ModelSource(model, revision, Path(cache).expanduser() if cache else None)
        self.models: Sequence[str] = source.names
        self._batch = batch
        self._beam_size = beam_size
        threads = threads or len(os.sched_getaffinity(0))
        loader = Loader(source, device=device, compute_type=compute_type, threads=threads)
        super().__init__(loader, kind=lambda job: job.kind, most=batch)

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

    def check(self, request: TranscriptionRequest | GuessRequest) -> None:
        """Raise unless the model can do this; see `TranscriptionEngine.check`."""
        self._loaded()
        check_request(self, request)

    async def transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[Segment, None]:
        """Yield what was said, segment by segment; see `TranscriptionEngine.transcribe`."""
        self.check(request)
        # Twice as many windows as a batch: the next is cut while one is decoded.
        handover: Handover[tuple[list[Segment], bool]] = Handover()
        hearing = Recording(*self._loaded(), request, handover, 2 * self._batch)
        self._active.add(hearing)
        reading = asyncio.ensure_future(in_daemon(hearing.read))
        try:
            async with aclosing(handover.items()) as found:
                async for segments, ends_window in found:
                    for segment in segments:
                        yield segment
                    if ends_window:
                        hearing.taken()
        finally:
            self._active.discard(hearing)
            hearing.close()
            await reading

    async def guess(self, request: GuessRequest) -> Hypothesis:
        """Return what an unfinished turn seems to say; see `TranscriptionEngine.guess`."""
        self.check(request)
        model, batches = self._loaded()
        guess = Guess(model, batches, request)
        self._active.add(guess)
        try:
            features = await asyncio.to_thread(model.features, request.samples)
            return await guess.answer(features)
        finally:
            self._active.discard(guess)

    def _hear(self, jobs: list[Job]) -> None:
        if (model := self._loader.model) is not None:  # else `close` tells the requesters
            Decoder(model, self._beam_size).hear(jobs)
