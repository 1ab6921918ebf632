"""One request on its way through the model: what of it is written, said and sounding."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from services.audio.resample import TimeStretch
from services.speech.engines.cosyvoice.checkpoint import Checkpoint
from services.speech.engines.cosyvoice.flow import Part
from services.speech.engines.cosyvoice.prompt import Prompt
from services.speech.engines.cosyvoice.schedule import IN_TIME, PATIENCE_S, Piece
from services.speech.engines.cosyvoice.tokens import Line, Sampler
from services.tasks import Handover

if TYPE_CHECKING:
    from services.audio.pcm import Samples
    from services.speech.engines.protocol import ConversionRequest, SynthesisRequest

_HELD_S: Final = 30.0  # of audio that waits for the listener
_ONE_PASS_S: Final = 5.0  # an answer that is not streamed has no listener yet: streams go first
_SILENT_IN_A_ROW: Final = 5  # this and the next two are upstream's
_GROWTH: Final = 2  # of a part, to the next one
_LONGEST_HOP: Final = 4  # chunks


class Segment(Line):
    """A segment that is being said, and sounds meanwhile, in parts that grow as upstream's do.

    Each part is made from all tokens before it and a few after it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        prompt: Prompt,
        text: Sequence[int],
        sampler: Sampler,
        speed: float | None,
    ) -> None:
        """Begin a segment; `speed` is that of one made in one pass, None of a stream."""
        super().__init__(prompt, text, sampler)
        self.tokens: list[int] = []  # that sound: no silent ones after five in a row (family 3)
        self.complete = False  # whether there will be no more
        self._heard = self._silent = 0
        upstream = checkpoint.vocoder
        self._silent_tokens = frozenset(getattr(upstream, "silent_tokens", ()))
        self._vocoder = checkpoint.vocoder_of(sampler.noise())
        self._in_one = speed is not None
        self._speed = speed or 1.0
        self._mel_ratio: int = upstream.flow.token_mel_ratio
        self._ahead: int = upstream.flow.pre_lookahead_len
        self._chunk: int = upstream.token_hop_len
        self._hop = self._chunk
        # The first part is longer, so that the prompt and it fill whole chunks.
        self._step = self._hop + -prompt.heard.tokens.shape[1] % self._hop
        self._done = 0

    def catch_up(self) -> None:
        """Take the tokens that were made meanwhile."""
        for token in self.made[self._heard :]:
            self._silent = self._silent + 1 if token in self._silent_tokens else 0
            if self._silent <= _SILENT_IN_A_ROW:
                self.tokens.append(token)
        self._heard = len(self.made)

    @property
    def before(self) -> int:
        """Return how many tokens the flow is given before those that are new."""
        return int(self.prompt.heard.tokens.shape[1]) + self._done

    def next(self, most: float) -> Part | None:
        """Return the next part, of `most` new tokens if upstream's step is less; None: too few.

        A part of whole chunks ends where it likes: it changes nothing of what is heard. A rest that
        is smaller than a chunk goes with the part before it.
        """
        new = len(self.tokens) - self._done
        ready = 0 if self._in_one else new - self._ahead
        rest = ready < self._step or new < max(self._step, most) + self._chunk
        is_last = self.complete and rest
        if is_last:
            until = len(self.tokens)
        elif ready < self._step:
            return None
        else:
            more = max(0, min(ready, int(most)) - self._step)
            until = self._done + self._step + more // self._chunk * self._chunk
        tokens = self.tokens[: until + self._ahead]
        return Part(self.prompt, tokens, is_last, self._done, until)

    def take(self, part: Part) -> None:
        """Go on to what comes after `part`."""
        self._done = part.until
        self._step = self._hop = min(_LONGEST_HOP * self._chunk, _GROWTH * self._hop)

    def sound(self, mel: torch.Tensor, part: Part) -> torch.Tensor:
        """Return the audio [1, N] of what the flow made of each part [1, 80, T], in order."""
        mel = mel[:, :, part.since * self._mel_ratio :]
        if self._speed != 1.0:
            size = int(mel.shape[2] / self._speed)
            mel = torch.nn.functional.interpolate(mel, size=size, mode="linear")
        return self._vocoder.feed(mel, last=part.is_last)


@dataclass(kw_only=True, eq=False)
class Work(Piece):
    """A part that the flow makes, then the vocoder; `mel` is what the one gives to the other."""

    utterance: Utterance
    segment: Segment
    part: Part
    mel: Any = None

    def fill_up(self, size: int) -> None:
        """Make the part larger, up to a batch's `size`: being filled up to it costs as much."""
        self.part = self.segment.next(size - self.segment.before) or self.part


class Utterance:
    """The state of one request, which `Stages` changes under its lock."""

    def __init__(
        self, checkpoint: Checkpoint, prompt: Prompt, request: SynthesisRequest | ConversionRequest
    ) -> None:
        """Begin a request, in the event loop that takes its audio."""
        self.handover: Handover[Samples] = Handover()  # takes its audio, float32 [N], and its end
        self.texts: deque[Sequence[int]] = deque()  # in tokens, not empty; nobody says them yet
        self.is_written = False  # whether there will be no more of them
        self.segments: deque[Segment] = deque()  # until their last part is being made
        self.in_work: deque[float] = deque()  # how long each part sounds that is being made
        self.is_stopped = False  # whether nobody wants it any more
        self.in_one = request.one_pass  # whether each segment is made in one pass
        self._checkpoint = checkpoint
        self._prompt = prompt
        seed = secrets.randbits(62) if request.seed is None else request.seed
        self._sampler = Sampler(checkpoint.lm, seed)
        self._speed = request.speed
        # In one pass the model itself changes the speed.
        speed = 1.0 if self.in_one else self._speed
        self.stretch = TimeStretch(checkpoint.sample_rate_hz, speed)
        self._is_first = not self.in_one
        self._dry_s = time.monotonic() + (_ONE_PASS_S if self.in_one else PATIENCE_S)
        self._waiting_s = 0.0
        self._said_again: Sequence[int] = ()

    @property
    def is_done(self) -> bool:
        """Return whether all of it has sounded."""
        return self.is_written and not (self.texts or self.segments or self.in_work)

    def give(self, frame: Samples) -> None:
        """Hand over a piece of audio."""
        if frame.size:
            seconds = frame.size / self._checkpoint.sample_rate_hz
            self._waiting_s += seconds
            self._dry_s = max(self._dry_s, time.monotonic()) + seconds
            self.handover.put(frame)

    def heard(self, frame: Samples) -> None:
        """Note that a piece of audio was taken."""
        self._waiting_s -= frame.size / self._checkpoint.sample_rate_hz

    def has_next(self) -> bool:
        """Return whether the next segment may be said: after the last, one ahead of the sound.

        Two at once would draw from one generator in an order that is up to chance.
        """
        said = all(segment.complete for segment in self.segments)
        return bool(self.texts) and said and len(self.segments) < 2  # noqa: PLR2004

    def say_next(self) -> Segment:
        """Begin the next segment."""
        return self._begun(self.texts.popleft())

    def say_again(self, segment: Segment) -> bool:
        """Put a text back that came out absurdly short or long, once; the draws will be others.

        Not in a stream: some of it may be sounding, and the same seed has to say the same.
        """
        if not (self.in_one and segment.is_absurd) or segment.text is self._said_again:
            return False
        self._said_again = segment.text
        self.segments.remove(segment)
        self.texts.appendleft(segment.text)
        return True

    def convert(self, tokens: list[int]) -> None:
        """Let speech tokens sound, and nothing else."""
        segment = self._begun(())
        segment.tokens, segment.complete = tokens, True
        self.is_written = True

    def _begun(self, text: Sequence[int]) -> Segment:
        speed = self._speed if self.in_one else None
        segment = Segment(self._checkpoint, self._prompt, text, self._sampler, speed)
        self.segments.append(segment)
        return segment

    def work(self, token_s: float) -> Work | None:
        """Return what the flow can make next, where a token takes `token_s`; 0: unknown."""
        while self.segments and self.segments[0].complete and not self.segments[0].tokens:
            self.segments.popleft()
        if not self.segments or len(self.in_work) > 1 or self._waiting_s > _HELD_S:
            return None
        segment, due_s, most = self.segments[0], self._dry_s + sum(self.in_work), 0.0
        if token_s and not self._is_first:
            in_time = IN_TIME * (due_s - time.monotonic()) / token_s
            most = in_time - segment.before
        part = segment.next(most)
        if part is None:
            return None
        return Work(
            utterance=self,
            segment=segment,
            part=part,
            is_first=self._is_first,
            due_s=due_s,
            size=part.size,
            kind=self.in_one,
        )

    def take(self, work: Work) -> None:
        """Let a piece be made."""
        work.segment.take(work.part)
        if work.part.is_last:
            self.segments.popleft()
        if self._is_first:  # its listener begins with it, not before
            self._is_first, self._dry_s = False, time.monotonic()
        tokens = work.part.until - work.part.since
        self.in_work.append(tokens / self._checkpoint.tokens_a_second / self._speed)
