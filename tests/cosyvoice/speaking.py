"""Texts for the engine to speak, and checks of the audio."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from services.speech.engines.protocol import ConversionRequest, SynthesisRequest, VoiceReference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from services.audio.pcm import Samples
    from services.speech.engines.cosyvoice.engine import CosyVoiceEngine

SHORT: Final = "Good morning to you."
LONG: Final = (
    "This is one long sentence that goes on without any pause so that it comes in some pieces and "
    "nobody who hears it can tell where."
)
"""One segment, of more speech tokens than are streamed at once."""

LONGER: Final = (
    "This is one very long sentence that goes on and on without any pause so that it comes in many "
    "pieces and each of them is longer than the one before it while nobody who hears it could tell "
    "where one of them ends and where the next begins because that is what all of this is about "
    "and what we have been after for all these many days and nights."
)

THREE: Final = f"{LONG} And here is another one, with the number 42! A third one follows them."
TRANSCRIPT: Final = "Hello there my friend."


def sound(seed: int, seconds: float = 3.0, sample_rate_hz: int = 24_000) -> Samples:
    """Return a steady sound that another seed makes another one of."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    pitches, levels = rng.uniform(90, 5000, 12), rng.uniform(0.01, 0.05, 12)
    tones = (np.sin(2 * np.pi * pitches[:, None] * time_s) * levels[:, None]).sum(0)
    wave: Samples = (tones + 0.02 * rng.standard_normal(time_s.size)).astype(np.float32)
    return wave


ANNA: Final = VoiceReference(sound(1), 24_000, text=TRANSCRIPT)
BEN: Final = VoiceReference(sound(2), 24_000, text=TRANSCRIPT)
UNTOLD: Final = VoiceReference(sound(1), 24_000)
"""Anna's recording, of which nobody says what is said in it."""


def asked(engine: CosyVoiceEngine, text: str | AsyncIterator[str] = SHORT, **fields: Any) -> Any:
    """Return a request for `engine`, with Anna's voice unless another is given."""
    del engine
    if "voice" not in fields:
        fields.setdefault("reference", ANNA)
    return SynthesisRequest(**{"text": text, "voice": None, "seed": 7, **fields})


def conversion(**fields: Any) -> ConversionRequest:
    """Return a request to say two seconds again with Anna's voice."""
    given = {"samples": sound(3, 2.0), "sample_rate_hz": 24_000, "reference": ANNA, "seed": 7}
    return ConversionRequest(**{**given, **fields})


async def frames(
    engine: CosyVoiceEngine, request: SynthesisRequest | ConversionRequest
) -> list[Samples]:
    """Return every frame of an answer."""
    convert = isinstance(request, ConversionRequest)
    made = engine.convert(request) if convert else engine.synthesise(request)  # type: ignore[arg-type]
    return [frame async for frame in made]


async def spoken(
    engine: CosyVoiceEngine, text: str | AsyncIterator[str] = SHORT, **fields: Any
) -> Samples:
    """Return all the audio of a text."""
    return np.concatenate(await frames(engine, asked(engine, text, **fields)))


def active(engine: CosyVoiceEngine) -> int:
    """Return how many requests its stages are at work for."""
    assert engine._stages is not None
    return len(engine._stages._utterances)


def apart(one: Samples, other: Samples) -> float:
    """Return the largest difference of two sounds of one length."""
    assert one.shape == other.shape
    return float(np.abs(one - other).max())


def within(seconds: float, happens: Callable[[], bool]) -> bool:
    """Return whether something happens in that time; looks every millisecond."""
    until = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True
