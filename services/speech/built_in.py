"""OpenAI's voice names for an engine that clones voices and has none of its own.

Another engine, whose output is free to use, says a sentence with each of its voices for these
names. The recordings become stored voices, without a consent, since no person is involved. That
happens once: later starts find them in the store.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import numpy as np

from services.errors import ConfigurationError, ServiceError, UnavailableError
from services.speech.engines.protocol import (
    Capability,
    SpeechEngine,
    SynthesisRequest,
    VoiceReference,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from services.speech.engines.protocol import Voice
    from services.speech.voices import VoiceStore

log = logging.getLogger("bentovox.speech")

TEXT: Final = (
    "The sun was low when we reached the harbour, and a light wind moved the boats. "
    "Somebody laughed, and then it was quiet again."
)
_POLL_S: Final = 1.0
_RETRY_S: Final = 10.0


class BuiltInVoices:
    """Makes the voices that are missing, once the engine runs.

    Attributes:
        missing: the names of voices that are not there yet.
    """

    def __init__(
        self,
        create: Callable[[], SpeechEngine],
        origin: str,
        store: VoiceStore,
        taken: Collection[str],
    ) -> None:
        """Store the voices of what `create` returns, except for the names in `taken`.

        `origin` says what its voices are, and under which licence.
        """
        self.missing: frozenset[str] = frozenset()
        self._create = create
        self._origin = origin
        self._store = store
        self._taken = taken
        self._status = "not started"
        self._lender: SpeechEngine | None = None

    async def make(self, engine: SpeechEngine) -> None:
        """Make the voices that are missing, if `engine` needs any; errors go to the log."""
        if Capability.REFERENCE not in engine.capabilities or engine.voices():
            return
        try:
            lender = self._lender = self._create()
            stored = {voice.name for voice in await asyncio.to_thread(self._store.voices)}
            wanted = [voice for voice in lender.voices() if voice.alias_of]
            names = {voice.id for voice in wanted} - stored - set(self._taken)
            self.missing = frozenset(names)
            if names:
                await self._make([one for one in wanted if one.id in names], lender, engine)
        except ServiceError as error:
            self._status = error.message
            level = logging.INFO if isinstance(error, ConfigurationError) else logging.WARNING
            log.log(level, "no built-in voices: %s", error.message)
        finally:
            self._lender = None

    def expect(self, name: str) -> None:
        """Raise if `name` is a voice that is not there yet.

        Raises:
            UnavailableError: it is; the message says what is missing.
        """
        if name in self.missing:
            status = (self._lender and self._lender.lack) or self._status
            raise UnavailableError(
                f"The built-in voice {name} is not there yet: {status}.", retry_after_s=_RETRY_S
            )

    async def _make(self, voices: list[Voice], lender: SpeechEngine, engine: SpeechEngine) -> None:
        self._status = f"{lender.name} is making it"
        log.info("making %d built-in voices", len(voices))
        await lender.start()
        try:
            while lender.lack or not lender.ready:  # noqa: ASYNC110  it tells by these only
                await asyncio.sleep(_POLL_S)
            for voice in voices:
                request = SynthesisRequest(TEXT, voice.id)
                async with aclosing(lender.synthesise(request)) as frames:
                    samples = np.concatenate([frame async for frame in frames])
                stored = await asyncio.to_thread(
                    self._store.add_built_in,
                    name=voice.id,
                    origin=f"{self._origin}, voice {lender.voice(voice.alias_of or '').name}",
                    reference=VoiceReference(samples, lender.sample_rate_hz, TEXT),
                    language=voice.languages[0],
                )
                await engine.prepare(await asyncio.to_thread(self._store.reference, stored.id))
                self.missing -= {voice.id}
        finally:
            await lender.close()
        log.info("the built-in voices are there")
