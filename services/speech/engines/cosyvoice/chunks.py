"""A segment's speech tokens cut into parts that grow, as upstream cuts them, or left in one.

Each family has its own way: overlapping parts (1), or parts that are made from all tokens so far,
with a vocoder that is fed piece by piece (2) or upstream's causal one (3).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from services.speech.engines.cosyvoice.flow import Part
from services.speech.engines.cosyvoice.randomness import drawing_from
from services.speech.engines.cosyvoice.vocoder import Vocoder

if TYPE_CHECKING:
    from random import Random

    from services.speech.engines.cosyvoice.checkpoint import Checkpoint
    from services.speech.engines.cosyvoice.modes import Prompt


def chunks(checkpoint: Checkpoint, prompt: Prompt, noise: Random, speed: float | None) -> _Growing:
    """Return a segment's parts in the way of the checkpoint's family.

    `next` says what can be made of its tokens so far, `take` goes on after that, and `sound` makes
    the audio of what the flow made of each part, in order.

    Args:
        checkpoint: the model.
        prompt: what the flow is given beside the tokens.
        noise: seeds for the sound's noise.
        speed: for a segment made in one pass, how fast; None for a stream.
    """
    kind = {1: _Overlapping, 2: _Joined, 3: _Growing}[checkpoint.family]
    return kind(checkpoint, prompt, noise, speed)


class _Growing:
    """Family 3's: each part is made from all tokens before it and a few after it."""

    def __init__(
        self, checkpoint: Checkpoint, prompt: Prompt, noise: Random, speed: float | None
    ) -> None:
        self._upstream = checkpoint.session_vocoder()
        self._prompt = prompt
        self._noise = noise
        self._speed = speed or 1.0
        self._in_one = speed is not None
        self._done = 0
        self._begin()

    def _begin(self) -> None:
        hop = self._hop = self._chunk = self._upstream.token_hop_len
        self._ahead: int = self._upstream.flow.pre_lookahead_len
        prompted = self._prompt.flow_speech.shape[1]
        # The first part is longer, so that the prompt and it fill whole chunks.
        self._step: int = hop + math.ceil(prompted / hop) * hop - prompted
        self._longest: int = getattr(self._upstream, "token_max_hop_len", 4 * hop)
        self._growth: int = getattr(self._upstream, "stream_scale_factor", 2)
        self._mel = torch.zeros(1, 80, 0)
        self._given = 0

    @property
    def before(self) -> int:
        """Return how many tokens the flow is given before those that are new."""
        return int(self._prompt.flow_speech.shape[1]) + self._done

    def next(self, tokens: list[int], *, complete: bool, most: float) -> Part | None:
        """Return the next part, of `most` new tokens if upstream's step is less; None: too few.

        A part of whole chunks ends where it likes: it changes nothing of what is heard.
        """
        new = len(tokens) - self._done
        ready = 0 if self._in_one else new - self._ahead
        if complete and (ready < self._step or new <= most):
            return self._part(tokens, len(tokens), is_last=True)
        if ready < self._step:
            return None
        more = max(0, min(ready, int(most)) - self._step)
        until = self._done + self._step + more // self._chunk * self._chunk
        return self._part(tokens[: until + self._ahead], until, is_last=False)

    def _part(self, tokens: list[int], until: int, *, is_last: bool) -> Part:
        return Part(self._prompt, tuple(tokens), is_last, self._done, until)

    def take(self, part: Part) -> None:
        """Go on to what comes after `part`."""
        self._done = part.until
        self._step = self._hop = min(self._longest, int(self._hop * self._growth))

    def sound(self, mel: torch.Tensor, part: Part) -> torch.Tensor:
        """Return the audio [1, N] of a part's `mel` [1, 80, T]."""
        return self._sound(self._new(mel, part), last=part.is_last)

    def _new(self, mel: torch.Tensor, part: Part) -> torch.Tensor:
        """Return the frames of a part that are not in those before it, at the right speed."""
        mel = mel[:, :, part.since * self._upstream.flow.token_mel_ratio :]
        if self._speed == 1.0:
            return mel
        size = int(mel.shape[2] / self._speed)
        return torch.nn.functional.interpolate(mel, size=size, mode="linear")

    def _sound(self, mel: torch.Tensor, *, last: bool) -> torch.Tensor:
        self._mel = torch.cat([self._mel.to(mel), mel], dim=2)
        wave, _ = self._upstream.hift.inference(speech_feat=self._mel, finalize=last)
        new: torch.Tensor = wave[:, self._given :]
        self._given = wave.shape[1]
        return new


class _Joined(_Growing):
    """Family 2's: the same, with a vocoder that looks ahead, too: `Vocoder` waits for that."""

    def _begin(self) -> None:
        super()._begin()
        self._vocoder = Vocoder(self._upstream.hift, self._noise.getrandbits(62))

    def _sound(self, mel: torch.Tensor, *, last: bool) -> torch.Tensor:
        return self._vocoder.feed(mel, last=last)


class _Overlapping(_Growing):
    """Family 1's: its flow is not causal, so parts overlap and are cross-faded."""

    def _begin(self) -> None:
        self._step = self._hop = self._chunk = self._upstream.token_min_hop_len
        self._ahead = self._upstream.token_overlap_len
        self._longest = self._upstream.token_max_hop_len
        self._growth = self._upstream.stream_scale_factor

    def next(self, tokens: list[int], *, complete: bool, most: float) -> Part | None:
        """Return the next part; where it ends is heard, so it ends where upstream's does."""
        del most
        return super().next(tokens, complete=complete, most=0)

    def _part(self, tokens: list[int], until: int, *, is_last: bool) -> Part:
        return super()._part(tokens[self._done :], until, is_last=is_last)

    def wave(self, part: Part) -> torch.Tensor:
        """Return the audio of a part: upstream's model object makes it of the tokens."""
        prompt = self._prompt
        with drawing_from(self._noise.getrandbits(62), self._upstream.device):
            wave: torch.Tensor = self._upstream.token2wav(
                token=torch.tensor([part.tokens], dtype=torch.int32),
                prompt_token=prompt.flow_speech,
                prompt_feat=prompt.flow_mel,
                embedding=prompt.flow_embedding,
                uuid="",
                finalize=part.is_last,
                speed=self._speed,
            )
        return wave

    def sound(self, mel: torch.Tensor, part: Part) -> torch.Tensor:
        """Return what was made in the flow's place."""
        del part
        return mel
