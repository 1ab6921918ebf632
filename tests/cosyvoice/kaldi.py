"""Kaldi's filter bank as in its manual, for environments without torchaudio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_LENGTH, _HOP, _FFT = 400, 160, 512  # 25 and 10 ms at 16 kHz


def fbank(
    waveform: torch.Tensor, *, num_mel_bins: int, dither: float, sample_frequency: float
) -> torch.Tensor:
    """Return log energies [T, `num_mel_bins`] of a waveform [1, N], as torchaudio's function."""
    import torch  # noqa: PLC0415  heavy

    assert dither == 0
    frames = waveform[0].double().unfold(0, _LENGTH, _HOP)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    window = torch.hann_window(_LENGTH, periodic=False, dtype=torch.float64) ** 0.85  # "povey"
    power = torch.fft.rfft((frames - 0.97 * before) * window, n=_FFT).abs() ** 2

    edges = np.linspace(_mel(20.0), _mel(sample_frequency / 2), num_mel_bins + 2)
    bins = _mel(np.arange(_FFT // 2 + 1) * sample_frequency / _FFT)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    filters = torch.from_numpy(np.clip(np.minimum(rising, falling), 0, None))
    return (power @ filters).clamp(min=np.finfo(np.float32).eps).log().float()


def _mel(frequency_hz: float | np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(frequency_hz) / 700.0)
