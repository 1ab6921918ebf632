"""The store of registered voices and their consents."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import ValidationError

from services.audio.decode import decode_as_is
from services.audio.pcm import duration_s
from services.audio.wav import to_wav
from services.errors import ConflictError, InvalidRequestError, NotFoundError, ServiceError, shown
from services.speech.engines.protocol import VoiceReference
from services.speech.storage import ABOUT, Storage
from services.speech.voice_records import Consent, StoredVoice, check_name

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Consent", "StoredVoice", "VoiceStore"]

_CONSENT: Final = "consents"
_VOICE: Final = "voices"
_AUDIO: Final = "reference.wav"
_RECORDING: Final = "recording"
_FEATURES: Final = "features"
_IN_MEMORY: Final = 8  # references, of at most 5.8 MB each

_audit = logging.getLogger("bentovox.audit")
_log = logging.getLogger("bentovox.voices")

Record = TypeVar("Record", Consent, StoredVoice)


class VoiceStore:
    """Voices and consents in one folder, which threads, processes and containers may share.

    Every method is synchronous and may wait for the disk. What one process writes, the others can
    read at once. Writes are atomic, even if a process is killed.

    Every method raises `StorageError` if the folder is full or cannot be read or written; what was
    there before stays readable.
    """

    def __init__(self, root: Path) -> None:
        """Open the store at `root`, which the first write creates."""
        self._storage = Storage(root, {_CONSENT: "cons", _VOICE: "voice"})
        self._known: dict[str, StoredVoice] = {}  # voices never change, and ids are not reused
        self._references: OrderedDict[str, VoiceReference] = OrderedDict()
        self._memory = threading.Lock()
        self._storage.sweep()

    def add_consent(
        self, *, name: str, language: str, recording: bytes, media_type: str
    ) -> Consent:
        """Store a consent and its recording, unchanged.

        Raises:
            InvalidRequestError: the name is not allowed.
        """
        self._check_name(name)
        consent = Consent(
            id=self._storage.new_id(_CONSENT),
            name=name,
            language=language,
            created_at=int(time.time()),
            media_type=media_type,
        )
        with self._storage.writing():
            files = {_RECORDING: recording, ABOUT: _json(consent)}
            self._storage.add(_CONSENT, consent.id, files)
        _audit.info("created consent %s", consent.id)
        return consent

    def consents(self) -> list[Consent]:
        """Return all consents, oldest first."""
        found = (self._read_consent(consent_id) for consent_id in self._storage.ids(_CONSENT))
        return _in_order([consent for consent in found if consent])

    def consent(self, consent_id: str, *, param: str | None = None) -> Consent:
        """Return one consent; `param` is the field of the request with its id, if any.

        Raises:
            NotFoundError: no consent has that id (`consent_not_found`).
        """
        found = self._read_consent(consent_id)
        if found is None:
            raise NotFoundError(
                f"there is no consent {shown(consent_id)}", param=param, code="consent_not_found"
            )
        return found

    def rename_consent(self, consent_id: str, name: str) -> Consent:
        """Rename a consent and return it.

        Raises:
            InvalidRequestError: the name is not allowed.
            NotFoundError: no consent has that id (`consent_not_found`).
        """
        self._check_name(name)
        with self._storage.writing():
            renamed = self.consent(consent_id).model_copy(update={"name": name})
            self._storage.replace(_CONSENT, consent_id, ABOUT, _json(renamed))
        _audit.info("renamed consent %s", consent_id)
        return renamed

    def delete_consent(self, consent_id: str) -> None:
        """Delete a consent and its recording.

        Raises:
            NotFoundError: no consent has that id (`consent_not_found`).
            ConflictError: registered voices depend on it; the message names them
                (`consent_in_use`).
        """
        with self._storage.writing():
            self.consent(consent_id)
            users = [voice.id for voice in self.voices() if voice.consent_id == consent_id]
            if users:
                raise ConflictError(
                    f"consent {shown(consent_id)} is used by {', '.join(users)}; delete them first",
                    code="consent_in_use",
                )
            self._storage.remove(_CONSENT, consent_id)
        _audit.info("deleted consent %s", consent_id)

    def add_voice(
        self, *, name: str, consent_id: str, reference: VoiceReference, language: str | None
    ) -> StoredVoice:
        """Store a voice and its recording, sample for sample, in place of a built-in of that name.

        Raises:
            InvalidRequestError: the name is not allowed.
            NotFoundError: there is no such consent (`consent_not_found`, `param` is `consent`).
            ConflictError: a voice with that name exists (`voice_exists`).
        """
        self._check_name(name)
        voice = self._new(name, reference, language, consent_id=consent_id)
        with self._storage.writing():
            self.consent(consent_id, param="consent")
            other = self._named(name)
            if other is not None and other.origin is None:
                raise ConflictError(
                    f"there is a voice named {shown(name)}; delete it first or choose another name",
                    param="name",
                    code="voice_exists",
                )
            self._write(voice, reference)
            if other is not None:
                self._storage.remove(_VOICE, other.id)
        if other is not None:
            self._forget(other.id)
        _audit.info("created voice %s with consent %s", voice.id, consent_id)
        return voice

    def add_built_in(
        self, *, name: str, origin: str, reference: VoiceReference, language: str
    ) -> StoredVoice:
        """Store a voice that no person has, and return it, or what has that name meanwhile."""
        voice = self._new(name, reference, language, origin=origin)
        with self._storage.writing():
            other = self._named(name)
            if other is None:
                self._write(voice, reference)
        return other or voice

    def _new(
        self,
        name: str,
        reference: VoiceReference,
        language: str | None,
        *,
        consent_id: str | None = None,
        origin: str | None = None,
    ) -> StoredVoice:
        return StoredVoice(
            id=self._storage.new_id(_VOICE),
            name=name,
            consent_id=consent_id,
            text=reference.text,
            language=language,
            duration_s=duration_s(reference.samples.size, reference.sample_rate_hz),
            created_at=int(time.time()),
            origin=origin,
        )

    def _write(self, voice: StoredVoice, reference: VoiceReference) -> None:
        files = {
            _AUDIO: to_wav(reference.samples, reference.sample_rate_hz),
            ABOUT: _json(voice),
        }
        self._storage.add(_VOICE, voice.id, files, _FEATURES)

    def _named(self, name: str) -> StoredVoice | None:
        return next((voice for voice in self.voices() if voice.name == name), None)

    def voices(self) -> list[StoredVoice]:
        """Return all voices, oldest first."""
        ids = self._storage.ids(_VOICE)
        with self._memory:
            known = {voice_id: self._known[voice_id] for voice_id in ids if voice_id in self._known}
        for voice_id in ids:
            found = known.get(voice_id) or self._read_voice(voice_id)
            if found is not None:
                known[voice_id] = found
        with self._memory:
            self._known = known
            for voice_id in self._references.keys() - known.keys():
                del self._references[voice_id]
        return _in_order(list(known.values()))

    def find(self, id_or_name: str) -> StoredVoice | None:
        """Return the voice with that id, else the one with exactly that name, else None."""
        if self._storage.is_id(id_or_name):
            return self._read_voice(id_or_name)
        with self._memory:
            known = next((v.id for v in self._known.values() if v.name == id_or_name), "")
        found = self._read_voice(known)  # it may have been deleted, and another have its name
        if found is not None:
            return found
        return self._named(id_or_name)

    def voice(self, voice_id: str) -> StoredVoice:
        """Return one voice.

        Raises:
            NotFoundError: no voice has that id (`voice_not_found`).
        """
        found = self._read_voice(voice_id)
        if found is None:
            self._forget(voice_id)
            raise _no_voice(voice_id)
        return found

    def reference(self, voice_id: str) -> VoiceReference:
        """Return a voice's recording, with read-only samples, and the folder for its features.

        The folder exists as long as the voice: whoever writes in it must not create it.

        Raises:
            NotFoundError: no voice has that id (`voice_not_found`).
        """
        voice = self.voice(voice_id)
        with self._memory:
            held = self._references.get(voice_id)
            if held is not None:
                self._references.move_to_end(voice_id)
                return held
        data = self._storage.read(_VOICE, voice_id, _AUDIO)
        if data is None:
            raise _no_voice(voice_id)
        sound = decode_as_is(data, param="voice")
        sound.samples.setflags(write=False)
        reference = VoiceReference(
            samples=sound.samples,
            sample_rate_hz=sound.sample_rate_hz,
            text=voice.text,
            id=voice_id,
            features=self._storage.path(_VOICE, voice_id) / _FEATURES,
        )
        with self._memory:
            self._references[voice_id] = reference
            if len(self._references) > _IN_MEMORY:
                self._references.popitem(last=False)
        self.voice(voice_id)  # drops it from memory if it was deleted meanwhile
        return reference

    def delete_voice(self, voice_id: str) -> None:
        """Delete a voice, its recording and its features.

        Raises:
            NotFoundError: no voice has that id (`voice_not_found`).
        """
        with self._storage.writing():
            voice = self.voice(voice_id)
            self._storage.remove(_VOICE, voice_id)
        self._forget(voice_id)
        _audit.info("deleted voice %s with consent %s", voice_id, voice.consent_id)

    def _forget(self, voice_id: str) -> None:
        with self._memory:
            self._known.pop(voice_id, None)
            self._references.pop(voice_id, None)

    def _read_consent(self, consent_id: str) -> Consent | None:
        data = self._storage.read(_CONSENT, consent_id, ABOUT)
        return _record(Consent, consent_id, data)

    def _read_voice(self, voice_id: str) -> StoredVoice | None:
        data = self._storage.read(_VOICE, voice_id, ABOUT)
        return _record(StoredVoice, voice_id, data)

    def _check_name(self, name: str) -> None:
        check_name(name)
        if self._storage.is_id(name):
            raise InvalidRequestError(
                "name must not look like an id", param="name", code="invalid_value"
            )


def _no_voice(voice_id: str) -> ServiceError:
    return NotFoundError(
        f"there is no registered voice {shown(voice_id)}", param="voice", code="voice_not_found"
    )


def _json(record: Consent | StoredVoice) -> bytes:
    return record.model_dump_json(indent=1).encode()


def _record(kind: type[Record], item_id: str, data: bytes | None) -> Record | None:
    """Return the record in a file; None if there is no file or, with a warning, it is damaged."""
    try:
        return None if data is None else kind.model_validate_json(data)
    except ValidationError:
        _log.warning("the record of %s is damaged; it is ignored", item_id)
        return None


def _in_order(records: list[Record]) -> list[Record]:
    """Return `records`, oldest first."""
    return sorted(records, key=lambda record: (record.created_at, record.id))
