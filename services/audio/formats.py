"""The formats, rates and speeds of speech that a client can ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm", "ulaw", "alaw"]

OnAudioSeconds: TypeAlias = Callable[[float, AudioFormat], None]
"""Is told how many seconds of speech were made, and in which format."""

SampleRate = Literal[8000, 16000, 22050, 24000, 44100, 48000]

MEDIA_TYPES: Final[dict[AudioFormat, str]] = {
    # As OpenAI answers. RFC 7845 would call Ogg Opus audio/ogg, but clients that dispatch on the
    # content type were written against OpenAI's audio/opus.
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    # RFC 4856's names, as in OpenAI's realtime API.
    "ulaw": "audio/pcmu",
    "alaw": "audio/pcma",
}

SPEED_RANGE: Final = (0.25, 4.0)
"""The speeds of OpenAI's API."""
