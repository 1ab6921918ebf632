"""A segment's speech tokens to audio, in chunks that grow, as upstream makes them, or in one pass.

Each family has its own way: overlapping chunks (1), chunks made from all tokens so far, with a
vocoder that is fed piece by piece (2) or upstream's causal one (3).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from services.speech.engines.cosyvoice.randomness import seed_from
from services.speech.engines.cosyvoice.vocoder import Vocoder

if TYPE_CHECKING:
    from services.audio.pcm import Samples
    from services.speech.engines.cosyvoice.checkpoint import Checkpoint
    from services.speech.engines.cosyvoice.modes import Prompt


def chunks(
    checkpoint: Checkpoint, prompt: Prompt, generator: torch.Generator
) -> _Overlapping | _Growing:
    """Return the audio of a segment to come, made in the way of the checkpoint's family.

    `next` is for as long as there are `needed` tokens, `rest` once, for the end. Both are given
    all tokens so far. `rest` takes another speed than 1 only without any chunk before.

    Args:
        checkpoint: the model.
        prompt: what the flow is given beside the tokens.
        generator: of the audio's randomness, used in one thread only.
    """
    if checkpoint.family == 1:
        return _Overlapping(checkpoint, prompt)
    if checkpoint.family == 2:  # noqa: PLR2004  upstream numbers its families
        return _Joined(checkpoint, prompt, generator)
    return _Growing(checkpoint, prompt)


class _Overlapping:
    """Family 1's: its flow is not causal, so chunks overlap and are cross-faded."""

    def __init__(self, checkpoint: Checkpoint, prompt: Prompt) -> None:
        self._vocoder = checkpoint.session_vocoder()
        self._prompt = prompt
        self._hop: int = self._vocoder.token_min_hop_len
        self._done = 0

    @property
    def needed(self) -> int:
        overlap: int = self._vocoder.token_overlap_len
        return self._done + self._hop + overlap

    def next(self, tokens: list[int]) -> Samples:
        wave = self._wave(tokens[self._done : self.needed], finalize=False)
        self._done += self._hop
        longest, growth = self._vocoder.token_max_hop_len, self._vocoder.stream_scale_factor
        self._hop = min(longest, int(self._hop * growth))
        return wave

    def rest(self, tokens: list[int], speed: float = 1.0) -> Samples:
        return self._wave(tokens[self._done :], finalize=True, speed=speed)

    def _wave(self, tokens: list[int], **options: Any) -> Samples:
        return _token2wav(self._vocoder, self._prompt, tokens, **options)


class _Growing:
    """Family 3's: each chunk is made from all tokens before it and a few after it."""

    def __init__(self, checkpoint: Checkpoint, prompt: Prompt) -> None:
        self._vocoder = checkpoint.session_vocoder()
        self._prompt = prompt
        self._hop: int = self._vocoder.token_hop_len
        prompted = prompt.flow_speech.shape[1]
        # The first chunk is longer, so that the prompt and it fill whole chunks.
        self._step: int = self._hop + math.ceil(prompted / self._hop) * self._hop - prompted
        self._done = 0

    @property
    def needed(self) -> int:
        ahead: int = self._vocoder.flow.pre_lookahead_len
        return ahead + self._done + self._step

    def next(self, tokens: list[int]) -> Samples:
        wave = self._wave(tokens[: self.needed], last=False)
        self._done += self._step
        longest = getattr(self._vocoder, "token_max_hop_len", 4 * self._vocoder.token_hop_len)
        growth = getattr(self._vocoder, "stream_scale_factor", 2)
        self._step = self._hop = min(longest, self._hop * growth)
        return wave

    def rest(self, tokens: list[int], speed: float = 1.0) -> Samples:
        return self._wave(tokens, last=True, speed=speed)

    def _wave(self, tokens: list[int], *, last: bool, speed: float = 1.0) -> Samples:
        return _token2wav(
            self._vocoder,
            self._prompt,
            tokens,
            token_offset=self._done,
            stream=not last,
            finalize=last,
            speed=speed,
        )


class _Joined(_Growing):
    """Family 2's: the same, with a vocoder that looks ahead, too: `Vocoder` waits for that."""

    def __init__(self, checkpoint: Checkpoint, prompt: Prompt, generator: torch.Generator) -> None:
        super().__init__(checkpoint, prompt)
        self._device = checkpoint.device
        self._half = checkpoint.accelerated.fp16
        self._sound = Vocoder(self._vocoder.hift, seed_from(generator))

    def _wave(self, tokens: list[int], *, last: bool, speed: float = 1.0) -> Samples:
        flow = self._vocoder.flow
        mel = self._mel(flow, tokens, last=last)[:, :, self._done * flow.token_mel_ratio :]
        if speed != 1.0:
            size = int(mel.shape[2] / speed)
            mel = torch.nn.functional.interpolate(mel, size=size, mode="linear")
        return _samples(self._sound.feed(mel, last=last))

    def _mel(self, flow: Any, tokens: list[int], *, last: bool) -> torch.Tensor:
        prompt, device = self._prompt, self._device
        speech, mel = prompt.flow_speech.to(device, torch.int32), prompt.flow_mel.to(device)
        with torch.autocast(device.type, enabled=self._half):
            made: torch.Tensor = flow.inference(
                token=torch.tensor([tokens], dtype=torch.int32, device=device),
                token_len=length(len(tokens), device),
                prompt_token=speech,
                prompt_token_len=length(speech.shape[1], device),
                prompt_feat=mel,
                prompt_feat_len=length(mel.shape[1], device),
                embedding=prompt.flow_embedding.to(device),
                streaming=not last,
                finalize=last,
            )[0]
        return made


def _token2wav(vocoder: Any, prompt: Prompt, tokens: list[int], **options: Any) -> Samples:
    """Return the audio that upstream's model object makes, with a request's own state."""
    wave: torch.Tensor = vocoder.token2wav(
        token=torch.tensor([tokens], dtype=torch.int32),
        prompt_token=prompt.flow_speech,
        prompt_feat=prompt.flow_mel,
        embedding=prompt.flow_embedding,
        uuid="",
        **options,
    )
    return _samples(wave)


def _samples(wave: torch.Tensor) -> Samples:
    made: Samples = wave.squeeze(0).float().cpu().numpy()
    return made


def length(count: int, device: torch.device) -> torch.Tensor:
    """Return a length as upstream's models take one: int32 [1]."""
    return torch.tensor([count], dtype=torch.int32, device=device)
