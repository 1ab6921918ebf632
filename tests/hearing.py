"""A speech recogniser with a small grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from services.audio.pcm import Samples

HEARING_RATE_HZ = 16_000
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def four_digits_heard(speech: Samples) -> str:
    """Return the four digits heard in `speech`, float32 mono at `HEARING_RATE_HZ`."""
    pocketsphinx = pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed")
    silence = np.zeros(3200, dtype=np.float32)
    heard = np.concatenate([silence, speech, silence])
    decoder = pocketsphinx.Decoder(samprate=HEARING_RATE_HZ, loglevel="FATAL")
    digit = " | ".join(_DIGITS)
    decoder.add_jsgf_string(
        "digits", f"#JSGF V1.0; grammar d; public <four> = <d> <d> <d> <d>; <d> = {digit};"
    )
    decoder.activate_search("digits")
    decoder.start_utt()
    decoder.process_raw((heard * 25_000).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    assert hypothesis is not None
    return str(hypothesis.hypstr)
