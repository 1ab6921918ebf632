"""espeak-ng through ctypes, as `speak_lib.h` of espeak-ng 1.52 declares it.

Its state is global to the process, so there is one `EspeakLibrary` a process, and every call takes
its lock. Text goes in as plain UTF-8: neither SSML nor `[[phonemes]]` is switched on.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from services.errors import ConfigurationError, EngineError

_AUDIO_OUTPUT_SYNCHRONOUS: Final = 2
_DONT_EXIT: Final = 0x8000
_FRAME_MS: Final = 200  # of a callback; each one costs a turn of the interpreter's lock
_POSITION_CHARACTER: Final = 1
_CHARS_UTF8: Final = 1
_IPA_WITH_TIES: Final = (ord("^") << 8) | 0x80 | 0x02
_END_PAUSE: Final = 0x1000
_RATE: Final = 1
_GENDERS: Final[dict[int, Literal["female", "male"]]] = {1: "male", 2: "female"}


class _Voice(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class EspeakVoice:
    """A voice or variant file of espeak-ng."""

    name: str  # such as `English (America)`
    identifier: str  # the file's path below the data's voices, such as `gmw/en-US` or `!v/f3`
    languages: tuple[str, ...]  # its tags, the first one its own
    gender: Literal["female", "male"] | None


class EspeakLibrary:
    """The loaded library; get it from `library`."""

    def __init__(self) -> None:
        """Load and initialise espeak-ng with the data that comes with it.

        ImportError if espeakng-loader is not installed, ConfigurationError if it cannot be loaded.
        """
        import espeakng_loader  # noqa: PLC0415  only who chose this engine pays for it

        try:
            self._lib: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as error:
            raise ConfigurationError(f"espeak-ng cannot be loaded: {error}") from error
        data_path = espeakng_loader.get_data_path()
        self._lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        self._lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._lock = threading.Lock()
        self._said: list[NDArray[np.int16]] = []
        self.sample_rate_hz = int(
            self._lib.espeak_Initialize(
                _AUDIO_OUTPUT_SYNCHRONOUS, _FRAME_MS, str(data_path).encode(), _DONT_EXIT
            )
        )
        if self.sample_rate_hz <= 0:
            raise ConfigurationError(f"espeak-ng cannot read its data in {data_path}")
        self._callback = _Callback(self._take)  # kept: espeak holds only the address
        self._lib.espeak_SetSynthCallback(self._callback)

    def voices(self) -> list[EspeakVoice]:
        """Return the voices of every language, without the variants."""
        return self._list(None)

    def variants(self) -> list[EspeakVoice]:
        """Return the variants that can be laid over any voice; their identifier is `!v/NAME`."""
        tag = ctypes.create_string_buffer(b"variant")
        return self._list(ctypes.byref(_Voice(languages=ctypes.addressof(tag))))

    def phonemes(self, text: str, voice: str) -> str:
        """Return a text's phonemes in IPA, without punctuation; `^` ties letters of one sound."""
        data = ctypes.create_string_buffer(text.encode())
        rest = ctypes.c_void_p(ctypes.addressof(data))
        said = []
        with self._lock:
            if self._lib.espeak_SetVoiceByName(voice.encode()):
                raise EngineError(f"espeak-ng has no voice {voice!r}")
            while rest.value:  # a clause at a time
                clause = self._lib.espeak_TextToPhonemes(
                    ctypes.byref(rest), _CHARS_UTF8, _IPA_WITH_TIES
                )
                said.append((clause or b"").decode())
        return " ".join(said).strip()

    def speak(self, text: str, *, voice: str, words_per_minute: int) -> NDArray[np.int16]:
        """Return `text`, without NUL, as speech, int16 [N], with the pause after a sentence.

        Blocks its thread, a millisecond or two for a second of speech; several threads take turns.
        `voice` is an identifier, with `+NAME` for a variant; its own pace is 175 words a minute.
        EngineError if espeak-ng refuses.
        """
        data = text.encode()
        with self._lock:
            status = self._lib.espeak_SetVoiceByName(voice.encode())
            status |= self._lib.espeak_SetParameter(_RATE, words_per_minute, 0)
            status |= self._lib.espeak_Synth(
                data,
                ctypes.c_size_t(len(data) + 1),
                0,
                _POSITION_CHARACTER,
                0,
                _CHARS_UTF8 | _END_PAUSE,
                None,
                None,
            )
            said, self._said = self._said, []
        if status:
            raise EngineError(f"espeak-ng refused to speak with voice {voice!r}: {status}")
        return np.concatenate([np.zeros(0, dtype=np.int16), *said])

    def _take(self, samples: Any, count: int, _events: int | None) -> int:
        """Called by espeak for each frame; 0 has it go on."""
        if count and samples:
            # numpy's `as_array` would make a type for each length, which ctypes keeps forever.
            self._said.append(np.frombuffer(ctypes.string_at(samples, 2 * count), np.int16))
        return 0

    def _list(self, spec: Any) -> list[EspeakVoice]:
        with self._lock:
            found = self._lib.espeak_ListVoices(spec)  # a null pointer ends the array
            voices = [_voice(one.contents) for one in takewhile(bool, found)]
        return sorted(voices, key=lambda voice: voice.identifier)


@cache
def library() -> EspeakLibrary:
    """Return the one library of this process, loaded at the first call."""
    return EspeakLibrary()


def _voice(found: _Voice) -> EspeakVoice:
    languages = []
    address = found.languages
    while ctypes.c_ubyte.from_address(address).value:  # priority, then the tag; a zero ends all
        tag = ctypes.string_at(address + 1)
        languages.append(tag.decode())
        address += len(tag) + 2
    return EspeakVoice(
        name=found.name.decode().strip(),
        identifier=found.identifier.decode(),
        languages=tuple(languages),
        gender=_GENDERS.get(found.gender),
    )
