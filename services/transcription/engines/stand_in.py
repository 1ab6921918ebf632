"""An engine that hears in the place of another while that one has no model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

from services.engines import create
from services.errors import ConfigurationError
from services.transcription.engines.protocol import TranscriptionEngine

log = logging.getLogger("bentovox.transcription")


def with_stand_in(engine: TranscriptionEngine, name: str) -> TranscriptionEngine:
    """Return an engine with the one of that name in its place; itself if none is named or here."""
    if name in ("", engine.name):
        return engine
    try:
        return cast("TranscriptionEngine", WithStandIn(engine, create("transcription", name)))
    except ConfigurationError as error:  # its library is no part of the images for GPUs
        log.warning("nothing hears in %s's place: %s", engine.name, error)
        return engine


class WithStandIn:
    """Two engines as one; who hears a recording when it begins hears it to its end.

    Whatever is not here is the business of whoever hears now.
    """

    def __init__(self, engine: TranscriptionEngine, stand_in: TranscriptionEngine) -> None:
        """Take both, not started yet."""
        self.name = engine.name
        self.models: Sequence[str] = (*engine.models, *stand_in.models)
        self._engine = engine
        self._stand_in = stand_in

    def __getattr__(self, name: str) -> Any:
        """Return what the stand-in does while it has to, or else the engine."""
        stands_in = self._stand_in.ready and not self._engine.ready
        return getattr(self._stand_in if stands_in else self._engine, name)

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
