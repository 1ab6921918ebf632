"""Decodes whole files, for tests that check the audio they got."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.audio.decode import Decoding

if TYPE_CHECKING:
    from services.audio.pcm import Samples


def decode(data: bytes, *, sample_rate_hz: int, max_seconds: float = 600.0) -> Samples:
    """Return a file's audio as float32 [N] at `sample_rate_hz`."""
    return np.concatenate(
        list(Decoding(data, sample_rate_hz=sample_rate_hz, max_seconds=max_seconds))
    )


def sound_alike(one: bytes, other: bytes) -> bool:
    """Return whether raw 16-bit samples are the same but for 1e-4 of full scale."""
    if len(one) != len(other):
        return False
    both = (np.frombuffer(data, dtype="<i2").astype(int) for data in (one, other))
    return bool(np.abs(np.subtract(*both)).max(initial=0) <= 4)
