"""The paths of audio/voices and audio/voice_consents: the engine's voices, and clients' own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import parse_qsl

from services.errors import ConflictError, InvalidRequestError, shown
from services.openai.answers import Call, Handlers, document
from services.openai.body import expect_json, until_hangup, whole
from services.openai.forms import FormFields, Upload, read_form
from services.openai.reading import read
from services.openai.speech import (
    ConsentAnswer,
    ConsentFields,
    ConsentList,
    ConsentName,
    ConsentPage,
    Deleted,
    VoiceAnswer,
    VoiceFields,
    VoiceList,
)
from services.speech.engines.protocol import Voice, unsupported
from services.speech.recordings import MAX_BYTES, read_recording, sound_in
from services.speech.speakers import Speakers, no_consent
from services.speech.storage import added
from services.speech.voices import Consent, StoredVoice, VoiceStore

CONSENT_SECONDS: Final = 60.0
"""The longest consent; the shortest is that of a voice."""

_VOICE_FORM: Final = FormFields(frozenset(VoiceFields.model_fields), {"audio_sample": MAX_BYTES})
_CONSENT_FORM: Final = FormFields(frozenset(ConsentFields.model_fields), {"recording": MAX_BYTES})
_NAME_BYTES: Final = 16 * 1024  # 256 characters of at most 12 bytes each in JSON, and the rest


def voice_handlers(speakers: Speakers) -> Handlers:
    """Return the table of the paths of voices and consents."""
    voices, consents = _VoiceRoutes(speakers), _ConsentRoutes(speakers.store)
    voice, consent = "/v1/audio/voices/{}", "/v1/audio/voice_consents/{}"
    return {
        ("GET", "/v1/audio/voices"): document(voices.listed),
        ("GET", "/v1/audio/speech/voices"): document(voices.listed),
        ("POST", "/v1/audio/voices"): document(voices.added),
        ("GET", voice): document(voices.one),
        ("DELETE", voice): document(voices.deleted),
        ("GET", "/v1/audio/voice_consents"): document(consents.listed),
        ("POST", "/v1/audio/voice_consents"): document(consents.added),
        ("GET", consent): document(consents.one),
        ("POST", consent): document(consents.renamed),
        ("DELETE", consent): document(consents.deleted),
    }


@dataclass(frozen=True)
class _VoiceRoutes:
    """The voices of one engine and one store, as JSON."""

    speakers: Speakers

    async def listed(self, _: Call) -> VoiceList:
        """Return all voices, in the shapes of several servers.

        `data` is OpenAI's list shape. `voices` is what Open WebUI and Kokoro's clients read: an
        `id` to request and a `name` to show, the same for registered voices. `uploaded_voices` is
        vLLM-Omni's, and only it lists registered voices if the engine cannot clone.
        """
        engine = self.speakers.engine
        stored = await asyncio.to_thread(self.speakers.store.voices)
        usable = stored if self.speakers.clones else []
        by_name = {name: voice for voice in usable for name in (voice.id, voice.name)}
        ids = (*(voice.id for voice in engine.voices()), *self.speakers.aliases)
        servers = {name: told for name in ids if (told := self._servers(name, by_name))}
        data = [*servers.values(), *map(_registered, usable)]
        names = {name: voice["name"] for name, voice in servers.items()}
        for voice in usable:
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
        """Return one voice, by any name that a request may use; unknown ones are refused."""
        target = self.speakers.stands_for(call.name)
        stored = await asyncio.to_thread(self.speakers.store.find, target)
        told = self._servers(call.name, {target: stored} if stored else {})
        return told or _own(self.speakers.engine.voice(target))

    async def added(self, call: Call) -> VoiceAnswer:
        """Register a voice, have the engine prepare it, and return it.

        If anything is not acceptable, or the client hangs up, nothing was stored.
        """
        speakers = self.speakers
        if not speakers.clones:
            raise unsupported(speakers.engine, "audio_sample")
        form = await read_form(call.scope, call.receive, _VOICE_FORM)
        fields = read(VoiceFields, form.texts)
        _check_kind(fields)
        sample = form.file("audio_sample")
        if fields.consent is None:
            raise no_consent()
        await asyncio.to_thread(speakers.store.consent, fields.consent, param="consent")
        if speakers.is_servers(fields.name):
            raise ConflictError(
                f"{shown(fields.name)} is one of this server's own voices; choose another name",
                param="name",
                code="voice_exists",
            )
        speakers.demand_ready()
        work = self._register(fields, fields.consent, sample)
        return _registered(await until_hangup(call.receive, work))

    async def _register(self, fields: VoiceFields, consent_id: str, sample: Upload) -> StoredVoice:
        engine, store = self.speakers.engine, self.speakers.store
        text = fields.text or fields.ref_text or None
        reference = await asyncio.to_thread(
            read_recording, sample.data, param="audio_sample", text=text
        )
        built_in = await asyncio.to_thread(store.find, fields.name)  # which it replaces
        add = partial(
            store.add_voice,
            name=fields.name,
            consent_id=consent_id,
            reference=reference,
            language=fields.language,
        )

        voice: StoredVoice | None = None
        try:
            async with added(add, lambda voice: store.delete_voice(voice.id)) as voice:
                if built_in is not None:
                    engine.forget(built_in.id)
                await engine.prepare(await asyncio.to_thread(store.reference, voice.id))
                return voice
        except BaseException:
            if voice is not None:
                engine.forget(voice.id)
            raise

    async def deleted(self, call: Call) -> Deleted:
        """Delete a registered voice, its recording and its features; refuse the server's own."""
        speakers, voice_id = self.speakers, call.name
        if (
            speakers.is_servers(voice_id)
            or (await asyncio.to_thread(speakers.store.voice, voice_id)).origin is not None
        ):
            raise InvalidRequestError(
                f"voice {shown(voice_id)} belongs to the server; only registered voices "
                "can be deleted",
                param="voice",
                code="voice_not_deletable",
            )
        await asyncio.to_thread(speakers.store.delete_voice, voice_id)
        speakers.engine.forget(voice_id)
        return {"id": voice_id, "object": "audio.voice.deleted", "deleted": True}

    def _servers(self, name: str, stored: Mapping[str, StoredVoice]) -> VoiceAnswer | None:
        """Return what a name of the engine's or an alias stands for, or one of the `stored`."""
        speakers = self.speakers
        target = speakers.stands_for(name)
        if (found := stored.get(target)) is not None:
            told = _registered(found)
        elif (own := speakers.own(target)) is not None:
            told = _own(own)
            if target != name:
                told["name"] = f"{name} ({own.name})"
        else:  # what an alias stands for is not registered yet
            own = speakers.own(name)
            return _own(own) if own else None
        if target == name:
            return told
        return {**told, "id": name, "alias_of": told["alias_of"] or told["id"]}


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


@dataclass(frozen=True)
class _ConsentRoutes:
    """The consents of one store, recordings of people who agree to be cloned, as JSON."""

    store: VoiceStore

    async def listed(self, call: Call) -> ConsentList:
        query = call.scope["query_string"].decode("latin-1")
        page = read(ConsentPage, dict(parse_qsl(query, keep_blank_values=True)))
        found = await asyncio.to_thread(self.store.consents)
        if page.after is not None:
            ids = [consent.id for consent in found]
            if page.after not in ids:
                raise InvalidRequestError(
                    f"after {shown(page.after)} is not the id of a consent",
                    param="after",
                    code="invalid_value",
                )
            found = found[ids.index(page.after) + 1 :]
        listed = [_consent(consent) for consent in found[: page.limit]]
        return {
            "object": "list",
            "data": listed,
            "first_id": listed[0]["id"] if listed else None,
            "last_id": listed[-1]["id"] if listed else None,
            "has_more": len(found) > len(listed),
        }

    async def added(self, call: Call) -> ConsentAnswer:
        """Store a consent and return it.

        If anything is not acceptable, or the client hangs up, nothing was stored.
        """
        form = await read_form(call.scope, call.receive, _CONSENT_FORM)
        fields = read(ConsentFields, form.texts)
        keeping = self._keep(fields, form.file("recording"))
        return _consent(await until_hangup(call.receive, keeping))

    async def _keep(self, fields: ConsentFields, recording: Upload) -> Consent:
        await asyncio.to_thread(
            sound_in, recording.data, param="recording", max_seconds=CONSENT_SECONDS
        )
        known = re.fullmatch(r"audio/[a-z0-9.+-]{1,64}", recording.media_type)
        add = partial(
            self.store.add_consent,
            name=fields.name,
            language=fields.language,
            recording=recording.data,
            media_type=recording.media_type if known else "application/octet-stream",
        )
        async with added(add, lambda consent: self.store.delete_consent(consent.id)) as consent:
            return consent

    async def one(self, call: Call) -> ConsentAnswer:
        return _consent(await asyncio.to_thread(self.store.consent, call.name))

    async def renamed(self, call: Call) -> ConsentAnswer:
        expect_json(call.scope)
        body = await whole(call.scope, call.receive, _NAME_BYTES)
        name = read(ConsentName, body).name
        return _consent(await asyncio.to_thread(self.store.rename_consent, call.name, name))

    async def deleted(self, call: Call) -> Deleted:
        await asyncio.to_thread(self.store.delete_consent, call.name)
        return {"id": call.name, "object": "audio.voice_consent", "deleted": True}


def _consent(consent: Consent) -> ConsentAnswer:
    return {
        "id": consent.id,
        "object": "audio.voice_consent",
        "name": consent.name,
        "language": consent.language,
        "created_at": consent.created_at,
    }
