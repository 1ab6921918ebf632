"""A sound in place of a voice, for engines that speak only like a recording."""

from __future__ import annotations

import numpy as np

from services.speech.engines.protocol import VoiceReference


def murmur(sample_rate_hz: int) -> VoiceReference:
    """Return two seconds of a buzz at 120 Hz, to warm a model up or to try a server with."""
    time_s = np.arange(2 * sample_rate_hz) / sample_rate_hz
    harmonics = np.arange(1, 12)[:, np.newaxis]
    tones = (np.sin(2 * np.pi * 120 * harmonics * time_s) / harmonics).sum(axis=0)
    return VoiceReference((0.1 * tones).astype(np.float32), sample_rate_hz, text="Hm.")
