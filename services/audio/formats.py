"""What sound may be asked for: its formats, its rates and its speed."""

from __future__ import annotations

from typing import Final, Literal

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm", "ulaw", "alaw"]

FORMATS: Final[tuple[AudioFormat, ...]] = ("mp3", "opus", "aac", "flac", "wav", "pcm")
"""OpenAI's; beside them there is G.711 for telephones."""

SampleRate = Literal[8000, 16000, 22050, 24000, 44100, 48000]

MEDIA_TYPES: Final[dict[AudioFormat, str]] = {
    # What OpenAI answers with. RFC 7845 would call Ogg Opus audio/ogg; clients that dispatch on
    # the content type were written against OpenAI's audio/opus, so that is what they get.
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    # RFC 4856's names, which OpenAI's realtime API has for the same samples.
    "ulaw": "audio/pcmu",
    "alaw": "audio/pcma",
}

SPEED_RANGE: Final = (0.25, 4.0)
"""The speeds of speech that OpenAI's API knows."""
