"""The vocoders, fed piece by piece: the result is that of one pass over the whole.

Upstream's of family 3 is causal. That of family 2 upstream runs on each piece with eight frames of
the one before, with new noise, and cross-fades two sounds that differ in phase and noise; and no
piece knows what follows it. Here the phase of the harmonics continues from piece to piece, noise
belongs to its place in time, and a frame is returned once everything that it depends on is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

# How far a frame of mel has an effect, in frames; tests/cosyvoice/test_joins.py measures it.
PITCH_REACH: Final = 5
"""On the pitch, to both sides: five convolutions of width 3."""
AHEAD: Final = 16
"""On the audio before its time: 20 frames to be exact, but from 16 on less than 1e-4."""
BEHIND: Final = 16
"""On the audio after its time, if the source is the same."""
BLOCK: Final = 50
"""Frames of the source that are made at once, at fixed places, so that rounding is the same.

Upstream adds up the phase in float32 from the start; after half a minute it is off by a radian.
"""


class CausalVocoder:
    """Makes the audio of one segment of family 3, from the beginning each time."""

    def __init__(self, hift: Any) -> None:
        """Make audio with `hift`, upstream's generator."""
        self._hift = hift
        self._mel = torch.zeros(1, 80, 0)
        self._given = 0

    def feed(self, mel: torch.Tensor, *, last: bool) -> torch.Tensor:
        """Return the audio [1, N] that is settled with `mel` [1, 80, T]."""
        self._mel = torch.cat([self._mel.to(mel), mel], dim=2)
        wave, _ = self._hift.inference(speech_feat=self._mel, finalize=last)
        new: torch.Tensor = wave[:, self._given :]
        self._given = wave.shape[1]
        return new


class Vocoder:
    """Makes the audio of one segment of family 2.

    Each piece costs its own frames and `AHEAD + BEHIND`.
    """

    def __init__(self, hift: Any, seed: int) -> None:
        """Make audio with `hift`, upstream's generator, and noise that follows from `seed`.

        `hift.f0_predictor` is in float64.
        """
        self._hift = hift
        self._seed = seed
        self._a_frame = int(hift.f0_upsamp.scale_factor)  # in samples
        self._mel: torch.Tensor | None = None
        self._begins = 0  # the frame that `_mel` begins with
        self._given = 0
        self._pitch = torch.zeros(1, 0)  # of all frames so far, in hertz
        self._pitched = 0  # so many of them will not change

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def feed(self, mel: torch.Tensor, *, last: bool) -> torch.Tensor:
        """Return the audio [1, N] that is settled with `mel` [1, 80, T].

        It ends `AHEAD` frames before the mel so far; with `last`, where the mel ends.
        """
        mel = mel if self._mel is None else torch.cat([self._mel, mel], dim=2)
        end = self._begins + mel.shape[2]
        self._hear_pitch(mel, last=last)
        start = max(0, self._given - BEHIND)
        wave = self._hift.decode(x=mel[:, :, start - self._begins :], s=self._source(start))
        until = end if last else max(self._given, end - AHEAD)
        first, past = ((frame - start) * self._a_frame for frame in (self._given, until))
        made: torch.Tensor = wave[:, first:past]
        self._given = until
        keep = max(self._begins, until - BEHIND)
        self._mel, self._begins = mel[:, :, keep - self._begins :], keep
        return made

    def _hear_pitch(self, mel: torch.Tensor, *, last: bool) -> None:
        """Note the pitch of `mel`, which begins at `_begins`; its last frames may still change.

        The predictor is in float64, as the phase adds up its errors.
        """
        start = max(self._begins, self._pitched - PITCH_REACH)
        heard = self._hift.f0_predictor(mel[:, :, start - self._begins :].double()).to(mel)
        settled = self._pitch[:, : self._pitched].to(mel)
        self._pitch = torch.cat([settled, heard[:, self._pitched - start :]], dim=1)
        size = self._pitch.shape[1]
        self._pitched = size if last else max(self._pitched, size - PITCH_REACH)

    def _source(self, frame: int) -> torch.Tensor:
        """Return the sines and the noise that are shaped, [1, 1, N] from `frame` on, in blocks."""
        first = frame // BLOCK
        blocks = range(first, -(-self._pitch.shape[1] // BLOCK))
        made = torch.cat([self._block(block) for block in blocks], dim=2)
        return made[:, :, (frame - first * BLOCK) * self._a_frame :]

    def _block(self, block: int) -> torch.Tensor:
        """Return a block's source, with a frame at both sides to interpolate its phase from.

        What is not known yet goes on as before it: each block draws as much noise, whatever is.
        """
        start = block * BLOCK
        before = max(0, start - 1)
        pitch = self._pitch[:, before : start + BLOCK + 1]
        if before:
            pitch = torch.cat([self._turned(before), pitch], dim=1)
        lead = start - before + (1 if before else 0)
        missing = lead + BLOCK + 1 - pitch.shape[1]
        pitch = torch.nn.functional.pad(pitch, (0, missing), mode="replicate")
        upsampled = self._hift.f0_upsamp(pitch[:, None]).transpose(1, 2)
        with drawing_from(self._seed + block, pitch.device):
            source, _, _ = self._hift.m_source(upsampled)
        frames = min(BLOCK, self._pitch.shape[1] - start)
        made: torch.Tensor = source.transpose(1, 2)
        return made[:, :, lead * self._a_frame : (lead + frames) * self._a_frame]

    def _turned(self, frame: int) -> torch.Tensor:
        """Return a pitch [1, 1] that turns the phase in one frame as all before `frame` did."""
        frames_hz = self._hift.sampling_rate / self._a_frame
        cycles = self._pitch[:, :frame].double().sum(dim=1, keepdim=True) / frames_hz
        return ((cycles % 1.0) * frames_hz).to(self._pitch)


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Let torch's global generators, on the CPU and on `device`, draw from `seed` in the block.

    Only the vocoder's thread may. No other one draws from them: family 3 has its noise since it was
    loaded, and tokens have generators of their own.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
