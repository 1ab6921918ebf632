"""The paths of audio/voice_consents: recorded words that a voice may be used."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from services.audio.decode import decode_as_is
from services.audio.pcm import duration_s
from services.errors import InvalidRequestError, NotFoundError, shown
from services.openai.body import expect_json, whole
from services.openai.forms import FormFields, read_form
from services.openai.hangup import until_hangup
from services.openai.speech import ConsentFields, ConsentPage
from services.speech.additions import added
from services.speech.recordings import MAX_BYTES, MIN_SECONDS
from services.speech.schema import parse_consent_name, parse_fields

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from services.openai.forms import Upload
    from services.openai.speech import ConsentAnswer, ConsentList, Deleted
    from services.speech.voices import Consent, VoiceStore

CONSENT_SECONDS: Final = 60.0
"""The longest consent; the shortest is as long as the shortest voice."""

_FORM: Final = FormFields(frozenset(ConsentFields.model_fields), {"recording": MAX_BYTES})
_NAME_BYTES: Final = 16 * 1024  # 256 characters, each at most 12 bytes in JSON, and the rest


class ConsentRoutes:
    """The consents of one store, as documents of JSON."""

    def __init__(self, store: VoiceStore | None) -> None:
        """Serve `store`; without one there are no consents, and none can be added."""
        self._store = store

    async def listed(self, scope: Scope) -> ConsentList:
        """Return a page of the consents, the oldest first.

        Raises:
            InvalidRequestError: a query that is none of `after` and `limit`, or an `after` that is
                no consent's id (any more).
        """
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        page = parse_fields(ConsentPage, dict(query))
        found = [] if self._store is None else await asyncio.to_thread(self._store.consents)
        if page.after is not None:
            ids = [consent.id for consent in found]
            if page.after not in ids:
                raise InvalidRequestError(
                    f"after {shown(page.after)} is not the id of a consent",
                    param="after",
                    code="invalid_value",
                )
            found = found[ids.index(page.after) + 1 :]
        listed = [_document(consent) for consent in found[: page.limit]]
        return {
            "object": "list",
            "data": listed,
            "first_id": listed[0]["id"] if listed else None,
            "last_id": listed[-1]["id"] if listed else None,
            "has_more": len(found) > len(listed),
        }

    async def added(self, scope: Scope, receive: Receive) -> ConsentAnswer:
        """Keep a consent and return it.

        Raises:
            ServiceError: a form, a name, a language or a recording that will not do, or a store
                that cannot keep it; nothing was kept.
            ClientGoneError: the client hung up; nothing was kept.
        """
        store = expect_store(self._store)
        form = await read_form(scope, receive, _FORM)
        fields = parse_fields(ConsentFields, form.texts)
        return _document(await until_hangup(receive, _keep(store, fields, form.file("recording"))))

    async def one(self, consent_id: str) -> ConsentAnswer:
        """Return one consent.

        Raises:
            NotFoundError: there is none of that id.
        """
        store = self._store_with(consent_id)
        return _document(await asyncio.to_thread(store.consent, consent_id))

    async def renamed(self, consent_id: str, scope: Scope, receive: Receive) -> ConsentAnswer:
        """Give one consent another name and return it.

        Raises:
            InvalidRequestError: a body or a name that will not do.
            NotFoundError: there is none of that id.
            ClientGoneError: the client hung up in its request.
        """
        expect_json(scope)
        name = parse_consent_name(await whole(scope, receive, _NAME_BYTES)).name
        store = self._store_with(consent_id)
        return _document(await asyncio.to_thread(store.rename_consent, consent_id, name))

    async def deleted(self, consent_id: str) -> Deleted:
        """Remove one consent.

        Raises:
            NotFoundError: there is none of that id.
            ConflictError: voices made with it are there.
        """
        store = self._store_with(consent_id)
        await asyncio.to_thread(store.delete_consent, consent_id)
        return {"id": consent_id, "object": "audio.voice_consent", "deleted": True}

    def _store_with(self, consent_id: str) -> VoiceStore:
        if self._store is None:
            raise NotFoundError(
                f"there is no consent {shown(consent_id)}", code="consent_not_found"
            )
        return self._store


def expect_store(store: VoiceStore | None) -> VoiceStore:
    """Return the store.

    Raises:
        InvalidRequestError: this server keeps no voices (`no_voice_store`).
    """
    if store is None:
        raise InvalidRequestError(
            "this server keeps no voices; its operator can set BENTOVOX_SPEECH__STORE to a folder",
            code="no_voice_store",
        )
    return store


async def _keep(store: VoiceStore, fields: ConsentFields, recording: Upload) -> Consent:
    await asyncio.to_thread(_check, recording.data)
    add = partial(
        store.add_consent,
        name=fields.name,
        language=fields.language,
        recording=recording.data,
        media_type=_media_type(recording),
    )
    async with added(add, lambda consent: store.delete_consent(consent.id)) as consent:
        return consent


def _check(data: bytes) -> None:
    """Raise unless this can be a recording of a consent, by its length."""
    sound = decode_as_is(data, max_seconds=CONSENT_SECONDS, max_bytes=MAX_BYTES, param="recording")
    seconds = duration_s(sound.samples.size, sound.sample_rate_hz)
    if seconds < MIN_SECONDS:
        raise InvalidRequestError(
            f"recording lasts {seconds:.2f} s; {MIN_SECONDS:g} to {CONSENT_SECONDS:g} s are needed",
            param="recording",
            code="audio_too_short",
        )


def _media_type(recording: Upload) -> str:
    known = re.fullmatch(r"audio/[a-z0-9.+-]{1,64}", recording.media_type)
    return recording.media_type if known else "application/octet-stream"


def _document(consent: Consent) -> ConsentAnswer:
    return {
        "id": consent.id,
        "object": "audio.voice_consent",
        "name": consent.name,
        "language": consent.language,
        "created_at": consent.created_at,
    }
