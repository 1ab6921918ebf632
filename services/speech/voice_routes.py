"""The paths of audio/voices: the engine's voices, and those that clients register."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from services.errors import ConflictError, InvalidRequestError, shown
from services.openai.body import until_hangup
from services.openai.forms import FormFields, read_form
from services.openai.reading import read
from services.openai.speech import VoiceFields
from services.speech.engines.protocol import Capability, unsupported
from services.speech.recordings import MAX_BYTES, read_recording
from services.speech.speakers import no_consent
from services.speech.storage import added

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.openai.answers import Call
    from services.openai.forms import Upload
    from services.openai.speech import Deleted, VoiceAnswer, VoiceList
    from services.speech.engines.protocol import Voice
    from services.speech.speakers import Speakers
    from services.speech.voices import StoredVoice

_FORM: Final = FormFields(frozenset(VoiceFields.model_fields), {"audio_sample": MAX_BYTES})


class VoiceRoutes:
    """The voices of one engine and one store, as JSON."""

    def __init__(self, speakers: Speakers) -> None:
        """Serve the voices of `speakers`."""
        self._speakers = speakers
        self._engine = speakers.engine
        self._store = speakers.store

    async def listed(self, _: Call) -> VoiceList:
        """Return all voices, in the shapes of several servers.

        `data` is OpenAI's list shape. `voices` is what Open WebUI and Kokoro's clients read: an
        `id` to request and a `name` to show, the same for registered voices. `uploaded_voices` is
        vLLM-Omni's, and only it lists registered voices if the engine cannot clone.
        """
        stored = await asyncio.to_thread(self._store.voices)
        usable = {voice.id: voice for voice in stored if self._can_clone}
        by_name = {**usable, **{voice.name: voice for voice in usable.values()}}
        ids = (*(voice.id for voice in self._engine.voices()), *self._speakers.aliases)
        servers = {name: told for name in ids if (told := self._servers(name, by_name))}
        data = [*servers.values(), *(_registered(voice) for voice in usable.values())]
        names = {name: voice["name"] for name, voice in servers.items()}
        for voice in usable.values():
            names.setdefault(voice.name, voice.name)
        return {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": False,
            "voices": [{"id": name, "name": said} for name, said in names.items()],
            "uploaded_voices": [_registered(voice) for voice in stored if voice.origin is None],
        }

    async def one(self, call: Call) -> VoiceAnswer:
        """Return one voice, by any name that a request may use.

        Raises:
            NotFoundError: there is no such voice (`voice_not_found`).
        """
        name = call.name
        target = self._speakers.aliases.get(name, name)
        stored = await asyncio.to_thread(self._store.find, target)
        told = self._servers(name, {target: stored} if stored else {})
        return told or _own(self._engine.voice(name))

    async def added(self, call: Call) -> VoiceAnswer:
        """Register a voice, have the engine prepare it, and return it.

        Raises:
            ServiceError: the engine cannot clone voices, or the form, consent or recording is not
                acceptable; nothing was stored.
            ClientGoneError: the client hung up; nothing was stored.
        """
        if Capability.REFERENCE not in self._engine.capabilities:
            raise unsupported(self._engine, "audio_sample")
        form = await read_form(call.scope, call.receive, _FORM)
        fields = read(VoiceFields, form.texts)
        _check_kind(fields)
        sample = form.file("audio_sample")
        if fields.consent is None:
            raise no_consent()
        await asyncio.to_thread(self._store.consent, fields.consent, param="consent")
        self._check_free(fields.name)
        self._speakers.demand_ready()
        work = self._register(fields, fields.consent, sample)
        return _registered(await until_hangup(call.receive, work))

    async def deleted(self, call: Call) -> Deleted:
        """Delete a registered voice, its recording and its features.

        Raises:
            NotFoundError: no registered voice has that id.
            InvalidRequestError: it is built in, or an alias (`voice_not_deletable`).
        """
        voice_id = call.name
        servers = voice_id in self._speakers.aliases or self._speakers.own(voice_id) is not None
        if not servers:
            stored = await asyncio.to_thread(self._store.voice, voice_id)
            servers = stored.origin is not None
        if servers:
            raise InvalidRequestError(
                f"voice {shown(voice_id)} belongs to the server; only registered voices "
                "can be deleted",
                param="voice",
                code="voice_not_deletable",
            )
        await asyncio.to_thread(self._store.delete_voice, voice_id)
        self._engine.forget(voice_id)
        return {"id": voice_id, "object": "audio.voice.deleted", "deleted": True}

    @property
    def _can_clone(self) -> bool:
        return bool({Capability.REFERENCE, Capability.CONVERSION} & self._engine.capabilities)

    def _servers(self, name: str, stored: Mapping[str, StoredVoice]) -> VoiceAnswer | None:
        """Return what a name of the engine's or an alias stands for, or one of the `stored`."""
        target = self._speakers.aliases.get(name, name)
        found = stored.get(target)
        if found is not None:
            return _registered(found) if target == name else _alias(name, _registered(found))
        if (own := self._speakers.own(name)) is not None:
            return _own(own)
        own = self._speakers.own(target)
        return None if own is None else _alias(name, _own(own))

    def _check_free(self, name: str) -> None:
        """Refuse the names of the server's own voices."""
        if name in self._speakers.aliases or self._speakers.own(name) is not None:
            raise ConflictError(
                f"{shown(name)} is one of this server's own voices; choose another name",
                param="name",
                code="voice_exists",
            )

    async def _register(self, fields: VoiceFields, consent_id: str, sample: Upload) -> StoredVoice:
        text = fields.text or fields.ref_text or None
        reference = await asyncio.to_thread(
            read_recording, sample.data, param="audio_sample", text=text
        )
        add = partial(
            self._store.add_voice,
            name=fields.name,
            consent_id=consent_id,
            reference=reference,
            language=fields.language,
        )
        voice: StoredVoice | None = None
        built_in = await asyncio.to_thread(self._store.find, fields.name)  # which it replaces
        try:
            async with added(add, lambda voice: self._store.delete_voice(voice.id)) as voice:
                if built_in is not None:
                    self._engine.forget(built_in.id)
                await self._engine.prepare(await asyncio.to_thread(self._store.reference, voice.id))
                return voice
        except BaseException:
            if voice is not None:
                self._engine.forget(voice.id)
            raise


def _check_kind(fields: VoiceFields) -> None:
    if fields.type == "prompt":
        raise InvalidRequestError(
            "type 'prompt' makes voices for OpenAI's Live API only; send type 'audio_sample'",
            param="type",
            code="unsupported_voice_type",
        )
    for field in ("prompt", "model", "script_hint"):
        if getattr(fields, field) is not None:
            raise InvalidRequestError(
                f"{field} is only for type 'prompt'; leave it out",
                param=field,
                code="unknown_parameter",
            )
    if fields.text is not None and fields.ref_text is not None:
        raise InvalidRequestError(
            "ref_text is another name for text; send one of them",
            param="ref_text",
            code="duplicate_parameter",
        )


def _own(voice: Voice) -> VoiceAnswer:
    return {
        "id": voice.id,
        "object": "voice",
        "name": voice.name,
        "languages": list(voice.languages),
        "language": voice.languages[0] if voice.languages else None,
        "gender": voice.gender,
        "alias_of": voice.alias_of,
    }


def _registered(voice: StoredVoice) -> VoiceAnswer:
    """Return OpenAI's shape of a voice, with our fields added."""
    return {
        "id": voice.id,
        "object": "audio.voice",
        "name": voice.name,
        "created_at": voice.created_at,
        "type": "audio_sample",
        "consent": voice.consent_id,
        "origin": voice.origin,
        "text": voice.text,
        "duration_s": voice.duration_s,
        "languages": [] if voice.language is None else [voice.language],
        "language": voice.language,
        "gender": None,
        "alias_of": None,
    }


def _alias(name: str, voice: VoiceAnswer) -> VoiceAnswer:
    return {**voice, "id": name, "alias_of": voice["alias_of"] or voice["id"]}
