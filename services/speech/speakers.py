"""Finds the voice for a request's `voice`, `ref_audio` and `consent`, and asks the engine.

An engine that clones voices and has none of its own gets built-in ones, by OpenAI's names: another
engine, whose output is free to use, says a sentence for each. The recordings become stored voices,
without a consent, since no person is involved. That happens once: later starts find them there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from services.errors import (
    ConfigurationError,
    InvalidRequestError,
    NotFoundError,
    ServiceError,
    UnavailableError,
)
from services.languages import tag_of
from services.openai.reading import ignore
from services.openai.speech import Manner
from services.speech.engines.protocol import (
    Capability,
    SpeechEngine,
    SynthesisRequest,
    Voice,
    VoiceReference,
    unsupported,
)
from services.speech.recordings import fetch_recording
from services.speech.voices import VoiceStore

log = logging.getLogger("bentovox.speech")

TEXT: Final = (
    "The sun was low when we reached the village, and a light wind moved the trees. "
    "Somebody laughed, and then it was quiet again."
)
"""What built-in voices say."""

_POLL_S: Final = 1.0
_RETRY_S: Final = 10.0


@dataclass
class BuiltInVoices:
    """Makes the voices that are missing, once the engine runs."""

    create: Callable[[], SpeechEngine]  # returns the engine that lends its voices
    origin: str  # what these are, and under which licence
    store: VoiceStore
    taken: Collection[str]  # names to leave out
    missing: frozenset[str] = frozenset()  # names of voices that are not there yet
    _status: str = ""

    async def make(self, engine: SpeechEngine) -> None:
        """Make the voices that are missing, if `engine` needs any; errors go to the log."""
        if Capability.REFERENCE not in engine.capabilities or engine.voices():
            return
        try:
            lender = self.create()
            stored = {voice.name for voice in await asyncio.to_thread(self.store.voices)}
            taken = {*stored, *self.taken}
            wanted = [one for one in lender.voices() if one.alias_of and one.id not in taken]
            self.missing = frozenset(voice.id for voice in wanted)
            if wanted:
                await self._make(wanted, lender, engine)
        except ServiceError as error:
            self._status = error.message
            level = logging.INFO if isinstance(error, ConfigurationError) else logging.WARNING
            log.log(level, "no built-in voices: %s", error.message)

    def expect(self, name: str) -> None:
        """Raise `UnavailableError` if `name` is a voice that is not there yet, and say why."""
        if name in self.missing:
            raise UnavailableError(
                f"The built-in voice {name} is not there yet: {self._status}.",
                retry_after_s=_RETRY_S,
            )

    async def _make(self, voices: list[Voice], lender: SpeechEngine, engine: SpeechEngine) -> None:
        self._status = making = f"{lender.name} is making it"
        log.info("making %d built-in voices", len(voices))
        await lender.start()
        try:
            while lender.lack or not lender.ready:
                self._status = lender.lack or making
                await asyncio.sleep(_POLL_S)
            self._status = making
            for voice in voices:
                request = SynthesisRequest(TEXT, voice.id)
                async with aclosing(lender.synthesise(request)) as frames:
                    samples = np.concatenate([frame async for frame in frames])
                stored = await asyncio.to_thread(
                    self.store.add_voice,
                    name=voice.id,
                    reference=VoiceReference(samples, lender.sample_rate_hz, TEXT),
                    language=voice.languages[0],
                    origin=f"{self.origin}, voice {lender.voice(voice.alias_of or '').name}",
                )
                await engine.prepare(await asyncio.to_thread(self.store.reference, stored.id))
                self.missing -= {voice.id}
        finally:
            await lender.close()
        log.info("the built-in voices are there")


@dataclass(frozen=True)
class Speakers:
    """Every voice that a request may name, and the rule for recordings that it brings."""

    engine: SpeechEngine
    store: VoiceStore
    aliases: Mapping[str, str]  # names for registered voices (ids or names) or the engine's
    ref_audio: Literal["consent", "open", "off"]  # may a request bring a recording?
    built_in: BuiltInVoices | None = None  # for an engine without voices of its own

    def demand_ready(self) -> None:
        """Raise `UnavailableError` unless the engine can speak."""
        if not self.engine.ready:
            raise UnavailableError(f"the {self.engine.name} engine is not ready", retry_after_s=1.0)

    @property
    def clones(self) -> bool:
        """Whether the engine speaks like a recording, such as a registered voice's."""
        return Capability.REFERENCE in self.engine.capabilities

    async def request(
        self, asked: Manner, text: str, *, one_pass: bool = False
    ) -> SynthesisRequest:
        """Return what the engine is to say and how, which it has checked.

        Instructions are ignored if it cannot follow any: the spoken text does not depend on them,
        and clients send them to every model. Raises as `named`, `recorded`, `SpeechEngine.check`
        and `ignore`.
        """
        voice: str | VoiceReference
        if asked.ref_audio is not None:
            voice = await self.recorded(asked.ref_audio, asked.ref_text, asked.consent)
        else:
            voice = await self.named(asked.voice_id)
        instructions = asked.instructions or None
        if instructions and Capability.INSTRUCTIONS not in self.engine.capabilities:
            ignore("instructions")
            instructions = None
        request = SynthesisRequest(
            text=text,
            voice=voice if isinstance(voice, str) else None,
            speed=asked.speed,
            instructions=instructions,
            seed=asked.seed,
            language=tag_of(asked.language),
            reference=None if isinstance(voice, str) else voice,
            one_pass=one_pass,
        )
        self.engine.check(request)
        return request

    async def named(self, name: str) -> str | VoiceReference:
        """Return the voice called `name`: aliases come first, then the store, then the engine.

        A registered voice is returned as its recording, any other as a name of the engine's, whose
        check refuses one that it does not know. UnavailableError if it is built in and not there
        yet, StorageError if the store cannot be read.
        """
        name = self.stands_for(name)
        if self.clones:
            stored = await asyncio.to_thread(self.store.find, name)
            if stored is not None:
                return await asyncio.to_thread(self.store.reference, stored.id)
        if self.built_in is not None:
            self.built_in.expect(name)
        return name

    async def recorded(
        self, ref_audio: str, text: str | None, consent: str | None
    ) -> VoiceReference:
        """Return the voice recorded in `ref_audio`, a data URL or an https URL.

        InvalidRequestError if the engine cannot clone voices; else as `permit`, before anything is
        fetched, and as `fetch_recording`.
        """
        if not self.clones:
            raise unsupported(self.engine, "ref_audio")
        await self.permit(consent)
        return await fetch_recording(ref_audio, text=text or None)

    async def permit(self, consent: str | None) -> None:
        """Raise unless a request may bring a recording with this consent, or without one.

        InvalidRequestError if recordings are turned off (`unsupported_parameter`) or need a consent
        (`consent_required`), NotFoundError if there is no such consent (`consent_not_found`).
        """
        if self.ref_audio == "off":
            raise InvalidRequestError(
                "ref_audio is turned off on this server; name a voice of GET /v1/audio/voices",
                param="ref_audio",
                code="unsupported_parameter",
            )
        if consent is not None:
            await asyncio.to_thread(self.store.consent, consent, param="consent")
        elif self.ref_audio == "consent":
            raise no_consent()

    def stands_for(self, name: str) -> str:
        """Return what an alias stands for, else the name itself.

        Engines find their own names in any case, so aliases are, too; those of registered voices
        are exact.
        """
        if name in self.aliases or self.clones:
            return self.aliases.get(name, name)
        found = (to for alias, to in self.aliases.items() if alias.lower() == name.lower())
        return next(found, name)

    def own(self, name: str) -> Voice | None:
        """Return the engine's voice of that name, if there is one."""
        try:
            return self.engine.voice(name)
        except NotFoundError:
            return None

    def is_servers(self, name: str) -> bool:
        """Return whether a name is an alias, or a voice of the engine's own."""
        return self.stands_for(name) != name or self.own(name) is not None


def no_consent() -> InvalidRequestError:
    """Return the error for a recording without a consent."""
    return InvalidRequestError(
        "a recorded voice needs its owner's consent: upload it with "
        "POST /v1/audio/voice_consents and send its id as consent",
        param="consent",
        code="consent_required",
    )


def check_aliases(engine: SpeechEngine, aliases: Mapping[str, str]) -> None:
    """Raise ConfigurationError if an alias stands for no voice of an engine that has its own."""
    for name, target in aliases.items() if engine.voices() else ():
        try:
            engine.voice(target)
        except NotFoundError as error:
            raise ConfigurationError(
                f"voice {name!r} stands for {target!r}: {error.message}"
            ) from error
