"""Finds the voice for a request's `voice`, `ref_audio` and `consent`, and asks the engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from services.errors import InvalidRequestError, NotFoundError, StorageError, UnavailableError
from services.languages import tag_of
from services.openai.reading import ignore
from services.speech.engines.protocol import Capability, SynthesisRequest, unsupported
from services.speech.recordings import fetch_recording

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.openai.speech import Manner
    from services.speech.built_in import BuiltInVoices
    from services.speech.engines.protocol import SpeechEngine, Voice, VoiceReference
    from services.speech.voices import VoiceStore

RefAudio = Literal["consent", "open", "off"]
"""Whether a request may bring a recording: with the id of a consent, freely, or not at all."""

_WITH_RECORDINGS = frozenset({Capability.REFERENCE, Capability.CONVERSION})


@dataclass(frozen=True)
class Speakers:
    """Every voice that a request may name, and the rule for recordings that it brings.

    Attributes:
        engine: it has voices of its own.
        store: the registered voices and the consents.
        aliases: more names, each for a registered voice (id or name) or one of the engine's.
        ref_audio: the rule for recordings sent with a request.
        built_in: what gives an engine voices that has none of its own.
    """

    engine: SpeechEngine
    store: VoiceStore
    aliases: Mapping[str, str]
    ref_audio: RefAudio
    built_in: BuiltInVoices | None = None

    def demand_ready(self) -> None:
        """Raise unless the engine can speak.

        Raises:
            UnavailableError: it is not ready.
        """
        if not self.engine.ready:
            raise UnavailableError(f"the {self.engine.name} engine is not ready", retry_after_s=1.0)

    @property
    def takes_recordings(self) -> bool:
        """Whether a request to speak may bring a recording, with or without a consent."""
        return Capability.REFERENCE in self.engine.capabilities and self.ref_audio != "off"

    async def request(
        self, asked: Manner, text: str, *, one_pass: bool = False
    ) -> SynthesisRequest:
        """Return what the engine is to say and how, which it has checked.

        Instructions are ignored if it cannot follow any: the spoken text does not depend on them,
        and clients send them to every model.

        Raises:
            ServiceError: as `named`, `recorded` and `SpeechEngine.check`, or BENTOVOX_STRICT
                forbids ignored fields (`unknown_parameter`).
        """
        voice = reference = None
        if asked.ref_audio is not None:
            reference = await self.recorded(asked.ref_audio, asked.ref_text, asked.consent)
        elif isinstance(named := await self.named(asked.voice_id), str):
            voice = named
        else:
            reference = named
        instructions = asked.instructions or None
        if instructions and Capability.INSTRUCTIONS not in self.engine.capabilities:
            ignore("instructions")
            instructions = None
        request = SynthesisRequest(
            text=text,
            voice=voice,
            speed=asked.speed,
            instructions=instructions,
            seed=asked.seed,
            language=tag_of(asked.language),
            reference=reference,
            one_pass=one_pass,
        )
        self.engine.check(request)
        return request

    async def named(self, name: str) -> str | VoiceReference:
        """Return the voice called `name`: aliases come first, then the store, then the engine.

        A registered voice is returned as its recording, any other as a name of the engine's, whose
        check refuses one that it does not know.

        Raises:
            NotFoundError: the voice was deleted meanwhile (`voice_not_found`).
            UnavailableError: it is built in, and not there yet.
            StorageError: the store cannot be read, and the engine has no such voice itself.
        """
        name = self.aliases.get(name, name)
        stored = None
        try:
            if _WITH_RECORDINGS & self.engine.capabilities:
                stored = await asyncio.to_thread(self.store.find, name)
        except StorageError:  # the engine needs no disk for its own voices
            if self.own(name) is None:
                raise
        if stored is None:
            if self.built_in is not None:
                self.built_in.expect(name)
            return name
        return await asyncio.to_thread(self.store.reference, stored.id)

    async def recorded(
        self, ref_audio: str, text: str | None, consent: str | None
    ) -> VoiceReference:
        """Return the voice recorded in `ref_audio`, a data URL or an https URL.

        Raises:
            InvalidRequestError: the engine cannot clone voices, or `permit` refuses (both before
                anything is fetched), or the recording is not acceptable.
            NotFoundError: there is no such consent.
            TooLargeError: the recording is too long or too large.
        """
        if Capability.REFERENCE not in self.engine.capabilities:
            raise unsupported(self.engine, "ref_audio")
        await self.permit(consent)
        return await fetch_recording(ref_audio, text=text or None)

    async def permit(self, consent: str | None) -> None:
        """Raise unless a request may bring a recording with this consent, or without one.

        Raises:
            InvalidRequestError: recordings are turned off (`unsupported_parameter`), or need a
                consent (`consent_required`).
            NotFoundError: there is no such consent (`consent_not_found`).
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

    def own(self, name: str) -> Voice | None:
        """Return the engine's voice of that name, if there is one."""
        try:
            return self.engine.voice(name)
        except NotFoundError:
            return None


def no_consent() -> InvalidRequestError:
    """Return the error for a recording without a consent."""
    return InvalidRequestError(
        "a recorded voice needs its owner's consent: upload it with "
        "POST /v1/audio/voice_consents and send its id as consent",
        param="consent",
        code="consent_required",
    )
