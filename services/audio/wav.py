"""WAV files of 32-bit floats, which keep samples bit for bit."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import av
import numpy as np

from services.audio.pcm import checked

if TYPE_CHECKING:
    from services.audio.pcm import Samples


def to_wav(samples: Samples, sample_rate_hz: int) -> bytes:
    """Return float32 [N] as a mono WAV file; `decode_as_is` restores the same samples.

    Raises:
        EngineError: samples that are not mono or not finite.
    """
    file = io.BytesIO()
    data = np.ascontiguousarray(checked(samples), dtype=np.float32)[np.newaxis]
    with av.open(file, mode="w", format="wav") as container:
        stream = container.add_stream("pcm_f32le", sample_rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(data, format="flt", layout="mono")
        frame.sample_rate = sample_rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
