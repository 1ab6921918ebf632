"""Reads recordings of voices, from bytes, data URLs or https, and checks them."""

from __future__ import annotations

import asyncio
import binascii
import re
from contextlib import suppress
from dataclasses import replace
from typing import Final
from urllib.parse import unquote_to_bytes

import numpy as np

from services.audio.decode import Decoded, decode_as_is
from services.audio.pcm import duration_s
from services.errors import InvalidRequestError, TooLargeError
from services.speech.engines.protocol import VoiceReference
from services.speech.reference_download import Downloads

MAX_BYTES: Final = 10 * 1024 * 1024
MIN_SECONDS: Final = 1.0
MAX_SECONDS: Final = 30.0
MIN_RATE_HZ: Final = 16_000
SILENCE_DBFS: Final = -60.0

_PARAM: Final = "ref_audio"
_PADDING_S: Final = 0.1  # that mp3 and aac add at the end
_DATA_URL: Final = re.compile(r"data:audio/[^;,]*(?:;[^;,]*)*?;base64,", re.IGNORECASE)
_DOWNLOADS: Final = Downloads(max_bytes=MAX_BYTES)


def sound_in(
    data: bytes, *, param: str, min_seconds: float = MIN_SECONDS, max_seconds: float = MAX_SECONDS
) -> Decoded:
    """Return what is in an audio file, mono at its own rate or 48 kHz, whichever is lower.

    Takes tens of milliseconds, so call it in a thread. A codec's padding is cut off. Raises as
    `decode_as_is`, or InvalidRequestError if it is too short (`audio_too_short`).
    """
    sound = decode_as_is(data, max_seconds=max_seconds + _PADDING_S, param=param)
    samples = sound.samples[: int(max_seconds * sound.sample_rate_hz)]
    seconds = duration_s(samples.size, sound.sample_rate_hz)
    if seconds < min_seconds:
        raise InvalidRequestError(
            f"{param} lasts {seconds:.2f} s; {min_seconds:g} to {max_seconds:g} s are needed",
            param=param,
            code="audio_too_short",
        )
    return replace(sound, samples=samples)


def read_recording(data: bytes, *, param: str, text: str | None) -> VoiceReference:
    """Return the recording of a voice; `text` is its transcript, if known.

    Raises as `sound_in`, or InvalidRequestError if it is under 16 kHz (`unsupported_sample_rate`)
    or under -60 dBFS (`silent_audio`).
    """
    sound = sound_in(data, param=param)
    if sound.source_rate_hz < MIN_RATE_HZ:
        raise InvalidRequestError(
            f"{param} is sampled at {sound.source_rate_hz} Hz; at least {MIN_RATE_HZ} Hz is needed",
            param=param,
            code="unsupported_sample_rate",
        )
    samples = np.clip(sound.samples, -1.0, 1.0)
    # The standard deviation, not the root mean square: a constant offset is silence, too.
    if float(np.std(samples, dtype=np.float64)) < 10 ** (SILENCE_DBFS / 20):
        raise InvalidRequestError(
            f"{param} is silent: its level is below {SILENCE_DBFS:g} dBFS",
            param=param,
            code="silent_audio",
        )
    return VoiceReference(samples, sound.sample_rate_hz, text)


async def fetch_recording(
    ref_audio: str, *, text: str | None = None, downloads: Downloads = _DOWNLOADS
) -> VoiceReference:
    """Return the recording in a data URL or behind an https URL.

    Raises as `read_recording` and `Downloads.fetch`, or InvalidRequestError if a data URL is not
    base64 of an `audio/…` type (`invalid_data_url`).
    """
    if ref_audio[:5].lower() == "data:":
        return await asyncio.to_thread(_read_data_url, ref_audio, text)
    data = await downloads.fetch(ref_audio)
    return await asyncio.to_thread(read_recording, data, param=_PARAM, text=text)


def _read_data_url(url: str, text: str | None) -> VoiceReference:
    head = _DATA_URL.match(url[:256])
    data = None
    if head is not None:
        with suppress(ValueError):  # binascii's error is one
            encoded = url[head.end() :].encode("ascii")
            if b"%" in encoded:
                encoded = unquote_to_bytes(encoded)
            if len(encoded) > (MAX_BYTES + 2) // 3 * 4:
                raise TooLargeError(
                    f"ref_audio is larger than {MAX_BYTES} bytes, the maximum",
                    param=_PARAM,
                    code="audio_too_large",
                )
            data = binascii.a2b_base64(encoded, strict_mode=True)
    if data is None:
        raise InvalidRequestError(
            "ref_audio is not a data URL like data:audio/wav;base64,…",
            param=_PARAM,
            code="invalid_data_url",
        )
    return read_recording(data, param=_PARAM, text=text)
