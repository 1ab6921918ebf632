"""Sound as tests send it, and the formats that they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.audio.pcm import to_int16

if TYPE_CHECKING:
    from services.audio.formats import AudioFormat
    from services.audio.pcm import Samples

FORMATS: Final[tuple[AudioFormat, ...]] = ("mp3", "opus", "aac", "flac", "wav", "pcm")
"""OpenAI's."""


def to_bytes(samples: Samples) -> bytes:
    """Return float32 [N] as 2N bytes of signed 16-bit little-endian PCM."""
    return to_int16(samples).astype("<i2", copy=False).tobytes()
