"""Reads recordings of voices, from bytes, data URLs or https, and checks them."""

from __future__ import annotations

import asyncio
import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

import numpy as np

from services.audio.decode import decode_as_is
from services.audio.pcm import duration_s
from services.errors import InvalidRequestError, TooLargeError
from services.speech.engines.protocol import VoiceReference
from services.speech.reference_download import Downloads

MAX_BYTES: Final = 10 * 1024 * 1024
MIN_SECONDS: Final = 1.0
MAX_SECONDS: Final = 30.0
MIN_RATE_HZ: Final = 16_000
MAX_RATE_HZ: Final = 48_000
SILENCE_DBFS: Final = -60.0

_PARAM: Final = "ref_audio"
_PADDING_S: Final = 0.1  # that mp3 and aac add at the end
_DATA_URL: Final = re.compile(r"data:([^;,]*)((?:;[^;,]*)*?);base64,", re.IGNORECASE)
_DOWNLOADS: Final = Downloads(max_bytes=MAX_BYTES)


def read_recording(data: bytes, *, param: str, text: str | None) -> VoiceReference:
    """Return the recording in `data`, mono at its own rate or 48 kHz, whichever is lower.

    Takes tens of milliseconds, so call it in a thread. A codec's padding past 30 s is cut off.

    Args:
        data: an audio file, up to 10 MiB.
        param: the field that errors name.
        text: its transcript, if known.

    Raises:
        TooLargeError: over 10 MiB (`audio_too_large`) or 30 s (`audio_too_long`).
        InvalidRequestError: not audio (`invalid_audio`), under 1 s (`audio_too_short`), under
            16 kHz (`unsupported_sample_rate`), or under -60 dBFS (`silent_audio`).
    """
    sound = decode_as_is(
        data,
        max_rate_hz=MAX_RATE_HZ,
        max_seconds=MAX_SECONDS + _PADDING_S,
        max_bytes=MAX_BYTES,
        param=param,
    )
    if sound.source_rate_hz < MIN_RATE_HZ:
        raise InvalidRequestError(
            f"{param} is sampled at {sound.source_rate_hz} Hz; at least {MIN_RATE_HZ} Hz is needed",
            param=param,
            code="unsupported_sample_rate",
        )
    samples = np.clip(sound.samples[: int(MAX_SECONDS * sound.sample_rate_hz)], -1.0, 1.0)
    seconds = duration_s(samples.size, sound.sample_rate_hz)
    if seconds < MIN_SECONDS:
        raise InvalidRequestError(
            f"{param} lasts {seconds:.2f} s; {MIN_SECONDS:g} to {MAX_SECONDS:g} s are needed",
            param=param,
            code="audio_too_short",
        )
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

    Raises:
        TooLargeError: as for `read_recording`.
        InvalidRequestError: as for `read_recording` and `Downloads.fetch`, or a data URL is not
            base64 of an `audio/…` type (`invalid_data_url`).
    """
    scheme = ref_audio[:6].lower()
    if scheme.startswith("data:"):
        return await asyncio.to_thread(_read_data_url, ref_audio, text)
    if not scheme.startswith("https:"):
        raise InvalidRequestError(
            "ref_audio must be a data: URL or an https: URL", param=_PARAM, code="url_not_allowed"
        )
    data = await downloads.fetch(ref_audio)
    return await asyncio.to_thread(read_recording, data, param=_PARAM, text=text)


def _read_data_url(url: str, text: str | None) -> VoiceReference:
    head = _DATA_URL.match(url[:256])
    if head is None or not head[1].lower().startswith("audio/"):
        raise _no_data_url()
    try:
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
    except (binascii.Error, ValueError) as error:
        raise _no_data_url() from error
    return read_recording(data, param=_PARAM, text=text)


def _no_data_url() -> InvalidRequestError:
    return InvalidRequestError(
        "ref_audio is not a data URL like data:audio/wav;base64,…",
        param=_PARAM,
        code="invalid_data_url",
    )
