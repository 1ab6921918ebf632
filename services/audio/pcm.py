"""Samples as float32 and as 16-bit PCM, and how long they last."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import numpy as np
from numpy.typing import NDArray

from services.errors import EngineError

Samples = NDArray[np.float32]
"""Mono float32 samples, shape [N], full scale -1.0..1.0."""

_FULL_SCALE = 32768.0
_HIGHEST = 32767.0
_KNEE = 0.85
_CEILING = 0.97


def checked(samples: Samples) -> Samples:
    """Return `samples` unchanged if they are mono and finite.

    Otherwise EngineError: the engine that made them is at fault.
    """
    if samples.ndim != 1:
        raise EngineError(
            f"audio has shape {samples.shape}; mono samples of shape [N] are expected",
            code="audio_not_mono",
        )
    if not np.isfinite(samples).all():
        raise EngineError("audio has samples that are not finite", code="audio_not_finite")
    return samples


def amplified(samples: Samples, gain_db: float) -> Samples:
    """Return float32 [N] amplified by `gain_db`, with peaks above 0.85 bent to stay within 0.97.

    This works sample by sample, so it does not matter how the audio is cut. The headroom up to 1.0
    is for the overshoot of resamplers and codecs.
    """
    louder = samples * np.float32(10 ** (gain_db / 20))
    height = np.abs(louder)
    if height.size and height.max() > _KNEE:
        room = _CEILING - _KNEE
        bent = _KNEE + room * np.tanh((height - _KNEE) / room)
        louder = np.where(height > _KNEE, np.copysign(bent, louder), louder)
    return louder.astype(np.float32, copy=False)


def to_int16(samples: Samples) -> NDArray[np.int16]:
    """Convert float32 [N] to int16 [N], rounding to nearest and clipping at full scale."""
    scaled = np.rint(checked(samples) * np.float32(_FULL_SCALE))
    whole: NDArray[np.int16] = np.clip(scaled, -_FULL_SCALE, _HIGHEST).astype(np.int16)
    return whole


def to_float32(samples: NDArray[np.int16]) -> Samples:
    """Convert int16 [N] to float32 [N]; `to_int16` restores the same integers."""
    return samples.astype(np.float32) / np.float32(_FULL_SCALE)


async def from_pieces(pieces: AsyncIterator[bytes]) -> AsyncGenerator[Samples, None]:
    """Yield the samples of signed 16-bit little-endian PCM, whose bytes may be cut anywhere."""
    half = b""
    async for piece in pieces:
        data = half + piece
        whole = len(data) - len(data) % 2
        half = data[whole:]
        if whole:
            yield to_float32(np.frombuffer(data[:whole], dtype="<i2"))


def duration_s(sample_count: int, sample_rate_hz: int) -> float:
    """Return how many seconds `sample_count` samples last at `sample_rate_hz`."""
    return sample_count / sample_rate_hz
