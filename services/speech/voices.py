"""The store of registered voices and of the consents that they were made with."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from services.audio.decode import decode_as_is
from services.audio.pcm import duration_s
from services.audio.wav import to_wav
from services.errors import ConflictError, InvalidRequestError, NotFoundError, ServiceError
from services.speech.engines.protocol import VoiceReference
from services.speech.items import ABOUT, Items

if TYPE_CHECKING:
    from pathlib import Path

_CONSENT: Final = "consents"
_VOICE: Final = "voices"
_AUDIO: Final = "reference.wav"
_RECORDING: Final = "recording"
_FEATURES: Final = "features"
_NAME_LIMIT: Final = 256
_IN_MEMORY: Final = 8  # references, of at most 5.8 MB each

_audit = logging.getLogger("bentovox.audit")
_log = logging.getLogger("bentovox.voices")


@dataclass(frozen=True)
class Consent:
    """Somebody's recorded word that their voice may be used.

    Attributes:
        id: `cons_` and 32 hexadecimal digits.
        name: what the client calls it; others may have the same.
        language: a tag, as given.
        created_at: seconds since 1970.
    """

    id: str
    name: str
    language: str
    created_at: int


@dataclass(frozen=True)
class StoredVoice:
    """A registered voice.

    Attributes:
        id: `voice_` and 32 hexadecimal digits.
        name: what the client calls it; no other voice has the same.
        consent_id: of the consent that it was made with.
        text: what is said in its recording; None when not known.
        language: a tag, as given.
        duration_s: of its recording.
        created_at: seconds since 1970.
    """

    id: str
    name: str
    consent_id: str
    text: str | None
    language: str | None
    duration_s: float
    created_at: int


_Item = TypeVar("_Item", Consent, StoredVoice)
_CONSENTS: Final = TypeAdapter(Consent)
_VOICES: Final = TypeAdapter(StoredVoice)


class VoiceStore:
    """Voices and consents under one folder, which threads, processes and containers may share.

    Every method is synchronous and may wait for the disk. What one process writes, the others
    read at once. Each item is there whole or not at all, whenever a process is killed.

    Every method raises `StorageError` where the folder cannot be read or written, or is full; what
    was there before stays readable.
    """

    def __init__(self, root: Path) -> None:
        """Open the store at `root`; the first write makes the folder."""
        self._items = Items(root, {_CONSENT: "cons", _VOICE: "voice"})
        self._known: dict[str, StoredVoice] = {}  # a voice never changes, and its id never returns
        self._references: OrderedDict[str, VoiceReference] = OrderedDict()
        self._memory = threading.Lock()
        self._items.sweep()

    def add_consent(
        self, *, name: str, language: str, recording: bytes, media_type: str
    ) -> Consent:
        """Keep a consent with its recording, as it came.

        Raises:
            InvalidRequestError: the name cannot be one, or the language is no text.
        """
        self._check_name(name)
        _check_text(language, "language")
        consent = Consent(self._items.new_id(_CONSENT), name, language, int(time.time()))
        files = {
            _RECORDING: recording,
            ABOUT: _json(asdict(consent) | {"media_type": media_type}),
        }
        with self._items.writing():
            self._items.add(_CONSENT, consent.id, files)
        _audit.info("created consent %s", consent.id)
        return consent

    def consents(self) -> list[Consent]:
        """Return every consent, the oldest first."""
        found = (self._read_consent(consent_id) for consent_id in self._items.ids(_CONSENT))
        return _in_order([consent for consent in found if consent])

    def consent(self, consent_id: str, *, param: str | None = None) -> Consent:
        """Return one consent; `param` names the field that it came in, if any.

        Raises:
            NotFoundError: there is none of that id (`consent_not_found`).
        """
        found = self._read_consent(consent_id)
        if found is None:
            raise NotFoundError(
                f"there is no consent {consent_id!r}", param=param, code="consent_not_found"
            )
        return found

    def rename_consent(self, consent_id: str, name: str) -> Consent:
        """Give a consent another name and return it.

        Raises:
            InvalidRequestError: the name cannot be one.
            NotFoundError: there is none of that id (`consent_not_found`).
        """
        self._check_name(name)
        with self._items.writing():
            renamed = replace(self.consent(consent_id), name=name)
            kept = json.loads(self._items.read(_CONSENT, consent_id, ABOUT) or b"{}")
            self._items.replace(_CONSENT, consent_id, ABOUT, _json(kept | asdict(renamed)))
        _audit.info("renamed consent %s", consent_id)
        return renamed

    def delete_consent(self, consent_id: str) -> None:
        """Remove a consent and its recording for good.

        Raises:
            NotFoundError: there is none of that id (`consent_not_found`).
            ConflictError: voices made with it are there; the message names them
                (`consent_in_use`).
        """
        with self._items.writing():
            self.consent(consent_id)
            users = [voice.id for voice in self.voices() if voice.consent_id == consent_id]
            if users:
                raise ConflictError(
                    f"consent {consent_id!r} is that of {', '.join(users)}; delete them first",
                    code="consent_in_use",
                )
            self._items.remove(_CONSENT, consent_id)
        _audit.info("deleted consent %s", consent_id)

    def add_voice(
        self, *, name: str, consent_id: str, reference: VoiceReference, language: str | None
    ) -> StoredVoice:
        """Keep a voice with its recording, sample for sample.

        Raises:
            InvalidRequestError: the name cannot be one, or the transcript or language is no text.
            NotFoundError: there is no such consent (`consent_not_found`, `param` is `consent`).
            ConflictError: a voice of that name is there (`voice_exists`).
        """
        self._check_name(name)
        _check_text(reference.text, "text")
        _check_text(language, "language")
        voice = StoredVoice(
            id=self._items.new_id(_VOICE),
            name=name,
            consent_id=consent_id,
            text=reference.text,
            language=language,
            duration_s=duration_s(reference.samples.size, reference.sample_rate_hz),
            created_at=int(time.time()),
        )
        files = {
            _AUDIO: to_wav(reference.samples, reference.sample_rate_hz),
            ABOUT: _json(asdict(voice)),
        }
        with self._items.writing():
            self.consent(consent_id, param="consent")
            if any(other.name == name for other in self.voices()):
                raise ConflictError(
                    f"there is a voice named {name!r}; delete it first or choose another name",
                    param="name",
                    code="voice_exists",
                )
            self._items.add(_VOICE, voice.id, files, _FEATURES)
        _audit.info("created voice %s with consent %s", voice.id, consent_id)
        return voice

    def voices(self) -> list[StoredVoice]:
        """Return every voice, the oldest first."""
        ids = self._items.ids(_VOICE)
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
        """Return the voice of that id, else the one of exactly that name, else None."""
        if self._items.is_id(id_or_name):
            return self._read_voice(id_or_name)
        return next((voice for voice in self.voices() if voice.name == id_or_name), None)

    def voice(self, voice_id: str) -> StoredVoice:
        """Return one voice.

        Raises:
            NotFoundError: there is none of that id (`voice_not_found`).
        """
        found = self._read_voice(voice_id)
        if found is None:
            self._forget(voice_id)
            raise _no_voice(voice_id)
        return found

    def reference(self, voice_id: str) -> VoiceReference:
        """Return a voice's recording and the folder for its features; its samples are read-only.

        The folder is there as long as the voice: whoever writes in it must not make it.

        Raises:
            NotFoundError: there is none of that id (`voice_not_found`).
        """
        voice = self.voice(voice_id)
        with self._memory:
            held = self._references.get(voice_id)
            if held is not None:
                self._references.move_to_end(voice_id)
                return held
        data = self._items.read(_VOICE, voice_id, _AUDIO)
        if data is None:
            raise _no_voice(voice_id)
        sound = decode_as_is(data, param="voice")
        sound.samples.setflags(write=False)
        reference = VoiceReference(
            samples=sound.samples,
            sample_rate_hz=sound.sample_rate_hz,
            text=voice.text,
            id=voice_id,
            features=self._items.path(_VOICE, voice_id) / _FEATURES,
        )
        with self._memory:
            self._references[voice_id] = reference
            if len(self._references) > _IN_MEMORY:
                self._references.popitem(last=False)
        self.voice(voice_id)  # forgets it again if it was deleted meanwhile
        return reference

    def delete_voice(self, voice_id: str) -> None:
        """Remove a voice, its recording and its features for good.

        Raises:
            NotFoundError: there is none of that id (`voice_not_found`).
        """
        with self._items.writing():
            voice = self.voice(voice_id)
            self._items.remove(_VOICE, voice_id)
        self._forget(voice_id)
        _audit.info("deleted voice %s with consent %s", voice_id, voice.consent_id)

    def _forget(self, voice_id: str) -> None:
        with self._memory:
            self._known.pop(voice_id, None)
            self._references.pop(voice_id, None)

    def _read_consent(self, consent_id: str) -> Consent | None:
        data = self._items.read(_CONSENT, consent_id, ABOUT)
        return _parsed(_CONSENTS, consent_id, data)

    def _read_voice(self, voice_id: str) -> StoredVoice | None:
        data = self._items.read(_VOICE, voice_id, ABOUT)
        return _parsed(_VOICES, voice_id, data)

    def _check_name(self, name: str) -> None:
        if not 1 <= len(name) <= _NAME_LIMIT or not name.isprintable() or name != name.strip():
            raise InvalidRequestError(
                f"name must be 1 to {_NAME_LIMIT} printable characters, none of them a space at "
                "its start or end",
                param="name",
                code="invalid_value",
            )
        if self._items.is_id(name):
            raise InvalidRequestError(
                "name must not look like an id", param="name", code="invalid_value"
            )


def _check_text(text: str | None, param: str) -> None:
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON lets through
        raise InvalidRequestError(
            f"{param} is not valid Unicode text", param=param, code="invalid_value"
        ) from error


def _parsed(adapter: TypeAdapter[_Item], item_id: str, data: bytes | None) -> _Item | None:
    """Return what a metadata file says; None, and a line in the log, where it says nothing."""
    if data is None:
        return None
    try:
        return adapter.validate_json(data)
    except ValidationError:
        _log.warning("the metadata of %s is damaged; it is passed over", item_id)
        return None


def _in_order(items: list[_Item]) -> list[_Item]:
    return sorted(items, key=lambda item: (item.created_at, item.id))


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, indent=1).encode()


def _no_voice(voice_id: str) -> ServiceError:
    return NotFoundError(
        f"there is no registered voice {voice_id!r}", param="voice", code="voice_not_found"
    )
