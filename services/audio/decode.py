"""Bounded decoding: bytes of any common audio file to mono float32."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import av
import numpy as np
from av.error import FFmpegError

from services.errors import InvalidRequestError, TooLargeError

if TYPE_CHECKING:
    from services.audio.pcm import Samples


def decode(
    data: bytes,
    *,
    sample_rate_hz: int,
    max_seconds: float = 600.0,
    max_bytes: int = 25 * 1024 * 1024,
    param: str = "file",
) -> Samples:
    """Decode a file's audio to float32 [N] at `sample_rate_hz`, mixed down to mono.

    The size is checked before anything is parsed, the length while decoding, so that a small
    file that unpacks to hours costs at most `max_seconds` of work. `param` names the field at
    fault in errors.

    Raises:
        TooLargeError: more than `max_bytes`, or more than `max_seconds` of audio.
        InvalidRequestError: not audio, broken audio, or no sample at all (`invalid_audio`).
    """
    if len(data) > max_bytes:
        raise TooLargeError(
            f"{param} has {len(data)} bytes; at most {max_bytes} are accepted",
            param=param,
            code="audio_too_large",
        )
    limit = int(max_seconds * sample_rate_hz)
    parts: list[Samples] = []
    count = 0
    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            if not container.streams.audio:
                raise InvalidRequestError(
                    f"{param} holds no audio stream", param=param, code="invalid_audio"
                )
            resampler = av.AudioResampler("flt", "mono", sample_rate_hz)
            for frame in container.decode(audio=0):
                for piece in resampler.resample(frame):
                    parts.append(piece.to_ndarray()[0])
                    count += piece.samples
                if count > limit:
                    raise TooLargeError(
                        f"{param} is longer than {max_seconds:g} s",
                        param=param,
                        code="audio_too_long",
                    )
            if count:
                parts += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    except (FFmpegError, ValueError) as error:
        raise InvalidRequestError(
            f"{param} is not audio that can be decoded", param=param, code="invalid_audio"
        ) from error
    if not count:
        raise InvalidRequestError(f"{param} holds no sample", param=param, code="invalid_audio")
    return np.concatenate(parts)
