"""Puts voices and consents into a store, for its tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.speech.engines.protocol import VoiceReference

if TYPE_CHECKING:
    from services.speech.voices import Consent, StoredVoice, VoiceStore


def reference(seed: int = 0, *, count: int = 16_000, text: str | None = "Hello.") -> VoiceReference:
    samples = np.random.default_rng(seed).uniform(-1, 1, count).astype(np.float32)
    return VoiceReference(samples, 16_000, text)


def with_consent(store: VoiceStore) -> Consent:
    return store.add_consent(
        name="Ann", language="en-US", recording=b"I agree.", media_type="audio/wav"
    )


def with_voice(store: VoiceStore, name: str = "Ann", seed: int = 0) -> StoredVoice:
    consent = with_consent(store)
    return store.add_voice(
        name=name, consent_id=consent.id, reference=reference(seed), language="en"
    )
