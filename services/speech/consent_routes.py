"""The paths of audio/voice_consents: recordings of people who agree to be cloned."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from services.errors import InvalidRequestError, shown
from services.openai.body import expect_json, until_hangup, whole
from services.openai.forms import FormFields, read_form
from services.openai.reading import read
from services.openai.speech import ConsentFields, ConsentName, ConsentPage
from services.speech.recordings import MAX_BYTES, sound_in
from services.speech.storage import added

if TYPE_CHECKING:
    from services.openai.answers import Call
    from services.openai.forms import Upload
    from services.openai.speech import ConsentAnswer, ConsentList, Deleted
    from services.speech.voices import Consent, VoiceStore

CONSENT_SECONDS: Final = 60.0
"""The longest consent; the shortest is that of a voice."""

_FORM: Final = FormFields(frozenset(ConsentFields.model_fields), {"recording": MAX_BYTES})
_NAME_BYTES: Final = 16 * 1024  # 256 characters of at most 12 bytes each in JSON, and the rest


class ConsentRoutes:
    """The consents of one store, as JSON."""

    def __init__(self, store: VoiceStore) -> None:
        """Serve the consents in `store`."""
        self._store = store

    async def listed(self, call: Call) -> ConsentList:
        """Return a page of the consents, oldest first.

        Raises:
            InvalidRequestError: the query has parameters other than `after` and `limit`, or `after`
                is not the id of a consent (any more).
        """
        query = call.scope["query_string"].decode("latin-1")
        page = read(ConsentPage, dict(parse_qsl(query, keep_blank_values=True)))
        found = await asyncio.to_thread(self._store.consents)
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

    async def added(self, call: Call) -> ConsentAnswer:
        """Store a consent and return it.

        Raises:
            ServiceError: the form, name, language or recording is not acceptable, or the store
                cannot be written; nothing was stored.
            ClientGoneError: the client hung up; nothing was stored.
        """
        form = await read_form(call.scope, call.receive, _FORM)
        fields = read(ConsentFields, form.texts)
        keeping = _keep(self._store, fields, form.file("recording"))
        return _document(await until_hangup(call.receive, keeping))

    async def one(self, call: Call) -> ConsentAnswer:
        """Return one consent.

        Raises:
            NotFoundError: no consent has that id.
        """
        return _document(await asyncio.to_thread(self._store.consent, call.name))

    async def renamed(self, call: Call) -> ConsentAnswer:
        """Rename a consent and return it.

        Raises:
            InvalidRequestError: the body or the name is not acceptable.
            NotFoundError: no consent has that id.
            ClientGoneError: the client hung up before the body was complete.
        """
        expect_json(call.scope)
        body = await whole(call.scope, call.receive, _NAME_BYTES)
        name = read(ConsentName, body).name
        return _document(await asyncio.to_thread(self._store.rename_consent, call.name, name))

    async def deleted(self, call: Call) -> Deleted:
        """Delete a consent.

        Raises:
            NotFoundError: no consent has that id.
            ConflictError: registered voices depend on it.
        """
        await asyncio.to_thread(self._store.delete_consent, call.name)
        return {"id": call.name, "object": "audio.voice_consent", "deleted": True}


async def _keep(store: VoiceStore, fields: ConsentFields, recording: Upload) -> Consent:
    await asyncio.to_thread(
        sound_in, recording.data, param="recording", max_seconds=CONSENT_SECONDS
    )
    add = partial(
        store.add_consent,
        name=fields.name,
        language=fields.language,
        recording=recording.data,
        media_type=_media_type(recording),
    )
    async with added(add, lambda consent: store.delete_consent(consent.id)) as consent:
        return consent


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
