"""The store of registered voices and their consents."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from services.audio.decode import decode_as_is
from services.audio.encode import to_wav
from services.audio.pcm import duration_s
from services.errors import ConflictError, InvalidRequestError, NotFoundError, ServiceError, shown
from services.speech.engines.protocol import VoiceReference
from services.speech.storage import Entries, Kind, Record, writing

_AUDIO: Final = "reference.wav"
_RECORDING: Final = "recording"
_FEATURES: Final = "features"
_IN_MEMORY: Final = 8  # references, of at most 5.8 MB each
_NAME_LIMIT: Final = 256

_audit = logging.getLogger("bentovox.audit")


class Consent(Record):
    """Somebody's recorded consent to have their voice cloned, as the client described it."""

    name: str  # need not be unique
    language: str  # a tag
    media_type: str  # of the recording


class StoredVoice(Record):
    """A registered voice, or a built-in one."""

    name: str  # unique among voices
    consent_id: str | None  # of the consent that it was registered with; None if it is built in
    text: str | None  # the transcript of its recording; None if unknown
    language: str | None  # a tag, as given by the client
    duration_s: float  # of its recording
    origin: str | None = None  # what spoke a built-in voice; None if a person did


class VoiceStore:
    """Voices and consents in one folder, which threads, processes and containers may share.

    Every method is synchronous and may wait for the disk. What one process writes, the others can
    read at once. Writes are atomic, even if a process is killed.

    Every method raises `StorageError` if the folder is full or cannot be read or written; what was
    there before stays readable. An id that does not exist is a `NotFoundError` (`consent_not_found`
    or `voice_not_found`), a name that is not allowed an `InvalidRequestError`.
    """

    def __init__(self, root: Path) -> None:
        """Open the store at `root`, which the first write creates."""
        self._consents = Entries(root / "consents", "cons", Consent)
        self._voices = Entries(root / "voices", "voice", StoredVoice)
        self._known: dict[str, StoredVoice] = {}  # voices never change, and ids are not reused
        self._references = lru_cache(_IN_MEMORY)(self._read_reference)
        self._writing = partial(writing, root, self._consents, self._voices)
        if root.is_dir():  # removes what killed processes left, unless somebody is writing
            with suppress(ServiceError), self._writing(wait_s=0.0):
                pass

    def add_consent(
        self, *, name: str, language: str, recording: bytes, media_type: str
    ) -> Consent:
        """Store a consent and its recording, unchanged."""
        self._check_name(name)
        consent = Consent(
            id=self._consents.new_id(),
            name=name,
            language=language,
            created_at=int(time.time()),
            media_type=media_type,
        )
        with self._writing():
            self._consents.add(consent, {_RECORDING: recording})
        _audit.info("created consent %s", consent.id)
        return consent

    def consents(self) -> list[Consent]:
        """Return all consents, oldest first."""
        return _in_order(map(self._consents.get, self._consents.ids()))

    def consent(self, consent_id: str, *, param: str | None = None) -> Consent:
        """Return one consent; `param` is the field of the request with its id, if any."""
        found = self._consents.get(consent_id)
        if found is None:
            raise NotFoundError(
                f"there is no consent {shown(consent_id)}", param=param, code="consent_not_found"
            )
        return found

    def rename_consent(self, consent_id: str, name: str) -> Consent:
        """Rename a consent and return it."""
        self._check_name(name)
        with self._writing():
            renamed = self.consent(consent_id).model_copy(update={"name": name})
            self._consents.replace(renamed)
        _audit.info("renamed consent %s", consent_id)
        return renamed

    def delete_consent(self, consent_id: str) -> None:
        """Delete a consent and its recording.

        ConflictError if registered voices depend on it; the message names them (`consent_in_use`).
        """
        with self._writing():
            self.consent(consent_id)
            users = [voice.id for voice in self.voices() if voice.consent_id == consent_id]
            if users:
                raise ConflictError(
                    f"consent {shown(consent_id)} is used by {', '.join(users)}; delete them first",
                    code="consent_in_use",
                )
            self._consents.remove(consent_id)
        _audit.info("deleted consent %s", consent_id)

    def add_voice(
        self,
        *,
        name: str,
        reference: VoiceReference,
        language: str | None,
        consent_id: str | None = None,
        origin: str | None = None,
    ) -> StoredVoice:
        """Store a voice and its recording, sample for sample; it has a consent or an origin.

        A registered voice takes the place of a built-in one of its name, but one that is built in
        gives way: what has the name already is returned.

        Raises:
            ConflictError: a registered voice with that name exists (`voice_exists`).
        """
        self._check_name(name)
        voice = StoredVoice(
            id=self._voices.new_id(),
            name=name,
            consent_id=consent_id,
            text=reference.text,
            language=language,
            duration_s=duration_s(reference.samples.size, reference.sample_rate_hz),
            created_at=int(time.time()),
            origin=origin,
        )
        wav = to_wav(reference.samples, reference.sample_rate_hz)
        with self._writing():
            if consent_id is not None:
                self.consent(consent_id, param="consent")
            other = self._named(name)
            if other is not None and origin is not None:
                return other
            if other is not None and other.origin is None:
                raise ConflictError(
                    f"there is a voice named {shown(name)}; delete it first or choose another name",
                    param="name",
                    code="voice_exists",
                )
            self._voices.add(voice, {_AUDIO: wav}, _FEATURES)
            if other is not None:
                self._voices.remove(other.id)
        if other is not None:
            self._forget(other.id)
        if consent_id is not None:
            _audit.info("created voice %s with consent %s", voice.id, consent_id)
        return voice

    def voices(self) -> list[StoredVoice]:
        """Return all voices, oldest first."""
        before, known = self._known, {}
        for voice_id in self._voices.ids():
            if (found := before.get(voice_id) or self._voices.get(voice_id)) is not None:
                known[voice_id] = found
        self._known = known
        if before.keys() - known.keys():
            self._references.cache_clear()  # also of those that another process has deleted
        return _in_order(known.values())

    def find(self, id_or_name: str) -> StoredVoice | None:
        """Return the voice with that id, else the one with exactly that name, else None."""
        if self._voices.is_id(id_or_name):
            return self._voices.get(id_or_name)
        known = next((one.id for one in list(self._known.values()) if one.name == id_or_name), "")
        # The known one may have been deleted, and another have its name.
        return self._voices.get(known) or self._named(id_or_name)

    def _named(self, name: str) -> StoredVoice | None:
        return next((voice for voice in self.voices() if voice.name == name), None)

    def voice(self, voice_id: str) -> StoredVoice:
        """Return one voice."""
        found = self._voices.get(voice_id)
        if found is None:
            if voice_id in self._known:  # an id that never was costs the others nothing
                self._forget(voice_id)
            raise _no_voice(voice_id)
        return found

    def reference(self, voice_id: str) -> VoiceReference:
        """Return a voice's recording, with read-only samples, and the folder for its features.

        The folder exists as long as the voice: whoever writes in it must not create it.
        """
        voice = self._known[voice_id] = self._known.get(voice_id) or self.voice(voice_id)
        reference = self._references(voice)
        self.voice(voice_id)  # drops it from memory if it was deleted
        return reference

    def _read_reference(self, voice: StoredVoice) -> VoiceReference:
        data = self._voices.read(voice.id, _AUDIO)
        if data is None:
            raise _no_voice(voice.id)
        sound = decode_as_is(data, param="voice")
        sound.samples.setflags(write=False)
        return VoiceReference(
            samples=sound.samples,
            sample_rate_hz=sound.sample_rate_hz,
            text=voice.text,
            id=voice.id,
            features=self._voices.path(voice.id) / _FEATURES,
        )

    def delete_voice(self, voice_id: str) -> None:
        """Delete a voice, its recording and its features."""
        with self._writing():
            voice = self.voice(voice_id)
            self._voices.remove(voice_id)
        self._forget(voice_id)
        _audit.info("deleted voice %s with consent %s", voice_id, voice.consent_id)

    def _forget(self, voice_id: str) -> None:
        self._known.pop(voice_id, None)
        self._references.cache_clear()

    def _check_name(self, name: str) -> None:
        """Raise `InvalidRequestError` if a voice or consent may not be called that."""
        if not 1 <= len(name) <= _NAME_LIMIT or not name.isprintable() or name != name.strip():
            raise InvalidRequestError(
                f"name must be 1 to {_NAME_LIMIT} printable characters, without a space at the "
                "start or end",
                param="name",
                code="invalid_value",
            )
        if self._voices.is_id(name) or self._consents.is_id(name):
            raise InvalidRequestError(
                "name must not look like an id", param="name", code="invalid_value"
            )


def _no_voice(voice_id: str) -> NotFoundError:
    return NotFoundError(
        f"there is no registered voice {shown(voice_id)}", param="voice", code="voice_not_found"
    )


def _in_order(records: Iterable[Kind | None]) -> list[Kind]:
    """Return the records that are there, oldest first."""
    return sorted(filter(None, records), key=lambda record: (record.created_at, record.id))
