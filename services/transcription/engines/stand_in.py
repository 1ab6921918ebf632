"""An engine that hears in the place of another while that one has no model."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from services.engines import create
from services.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from services.transcription.engines.protocol import (
        GuessRequest,
        Hypothesis,
        Segment,
        SpeechDetector,
        TranscriptionEngine,
        TranscriptionRequest,
    )

log = logging.getLogger("bentovox.transcription")


def with_stand_in(engine: TranscriptionEngine, name: str) -> TranscriptionEngine:
    """Return an engine with the one of that name in its place; itself if none is named or here."""
    if name in ("", engine.name):
        return engine
    try:
        return WithStandIn(engine, create("transcription", name))
    except ConfigurationError as error:  # its library is no part of the images for GPUs
        log.warning("nothing hears in %s's place: %s", engine.name, error)
        return engine


class WithStandIn:
    """Two engines as one; who hears a recording when it begins hears it to its end.

    While the stand-in hears, `status` says so, and what the other lacks.
    """

    def __init__(self, engine: TranscriptionEngine, stand_in: TranscriptionEngine) -> None:
        """Take both, not started yet."""
        self.name = engine.name
        self.models: Sequence[str] = (*engine.models, *stand_in.models)
        self._engine = engine
        self._stand_in = stand_in

    @property
    def languages(self) -> Collection[str]:
        """What is understood now."""
        return self._hearing.languages

    @property
    def translates(self) -> bool:
        """Whether it translates now."""
        return self._hearing.translates

    @property
    def ready(self) -> bool:
        """Whether one of them can hear."""
        return self._hearing.ready

    @property
    def status(self) -> str:
        """What the engine is doing, and who hears meanwhile."""
        if self._engine.ready or not self._stand_in.ready:
            return self._engine.status
        return f"{self._stand_in.name} hears in {self.name}'s place: {self._engine.status}"

    @property
    def settled(self) -> bool:
        """Whether the engine has no model for now."""
        return self._engine.settled

    async def start(self) -> None:
        """Begin to load both."""
        await self._stand_in.start()
        await self._engine.start()

    async def close(self) -> None:
        """End all work."""
        await self._engine.close()
        await self._stand_in.close()

    def check(self, request: TranscriptionRequest | GuessRequest) -> None:
        """Raise unless this can be heard now; see `TranscriptionEngine.check`."""
        self._hearing.check(request)

    def transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[Segment, None]:
        """Yield what was said; see `TranscriptionEngine.transcribe`."""
        return self._hearing.transcribe(request)

    async def guess(self, request: GuessRequest) -> Hypothesis:
        """Return what an unfinished turn seems to say; see `TranscriptionEngine.guess`."""
        return await self._hearing.guess(request)

    def detector(self) -> SpeechDetector:
        """Return a new detector."""
        return self._hearing.detector()

    @property
    def _hearing(self) -> TranscriptionEngine:
        return self._stand_in if self._stand_in.ready and not self._engine.ready else self._engine
