"""One request on its way through the model: what of it is written, said and sounding."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch

from services.audio.stretch import TimeStretch
from services.speech.engines.cosyvoice.chunks import chunks
from services.speech.engines.cosyvoice.randomness import Sampler, seeded
from services.speech.engines.cosyvoice.schedule import Piece
from services.speech.engines.cosyvoice.tokens import Line

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.audio.pcm import Samples
    from services.speech.engines.cosyvoice.checkpoint import Checkpoint
    from services.speech.engines.cosyvoice.chunks import Part
    from services.speech.engines.cosyvoice.modes import Prompt
    from services.speech.engines.protocol import ConversionRequest, SynthesisRequest

_HELD_S: Final = 30.0  # of audio that waits for the listener
_PATIENCE_S: Final = 5.0  # an answer that is not streamed has no listener yet: streams go first
_IN_TIME: Final = 0.7  # a part may take that share of the time until its listener runs dry
_SILENT_IN_A_ROW: Final = 5  # upstream's


@dataclass(eq=False)
class Segment:
    """Speech tokens as they come.

    Attributes:
        parts: how its sound is made.
        made: all of them.
        tokens: those that sound: all but silent ones after five in a row (family 3).
        complete: whether there will be no more.
    """

    parts: Any
    made: list[int]
    tokens: list[int] = field(default_factory=list)
    complete: bool = False
    _taken: int = 0
    _silent: int = 0

    def catch_up(self, silent: frozenset[int]) -> None:
        """Take what was made meanwhile."""
        for token in self.made[self._taken :]:
            self._silent = self._silent + 1 if token in silent else 0
            if self._silent <= _SILENT_IN_A_ROW:
                self.tokens.append(token)
        self._taken = len(self.made)


@dataclass(eq=False)
class Work:
    """A part that the flow makes, then the vocoder; `mel` is what the one gives to the other."""

    utterance: Utterance
    segment: Segment
    part: Part
    mel: Any = None


class Utterance:
    """The state of one request, which `Stages` changes under its lock.

    Attributes:
        texts: segments of text, in tokens, that nobody says yet.
        is_written: whether there will be no more of them.
        segments: those that are said, until the last part of them is being made.
        in_work: how many parts are being made.
        is_stopped: whether nobody wants it any more.
        in_one: whether each segment is made in one pass.
        stretch: what changes the speed of a stream.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        prompt: Prompt,
        request: SynthesisRequest | ConversionRequest,
        on_frame: Callable[[Samples], object],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        """Begin a request.

        `on_frame` is called in the vocoder's thread with each piece of audio, float32 [N], and
        `on_end` once, last, with the error that ended it or None.
        """
        self._on_frame = on_frame
        self.on_end = on_end
        self.texts: deque[list[int]] = deque()
        self.is_written = False
        self.segments: deque[Segment] = deque()
        self.in_work = 0
        self.is_stopped = False
        self._checkpoint = checkpoint
        self._prompt = prompt
        drawn = seeded(request.seed, torch.device("cpu"))
        self._sampler = Sampler(checkpoint.lm, drawn)
        self._noise = seeded(drawn.initial_seed() ^ 0x5EED, checkpoint.device)
        self.in_one = request.one_pass
        self._speed = request.speed
        # In one pass the model itself changes the speed.
        speed = 1.0 if self.in_one else self._speed
        self.stretch = TimeStretch(checkpoint.sample_rate_hz, speed)
        self._is_first = not request.one_pass
        self._dry_s = time.monotonic() + (_PATIENCE_S if request.one_pass else 0.0)
        self._waiting_s = 0.0
        self._in_work_s = 0.0

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
            self._on_frame(frame)

    def heard(self, frame: Samples) -> None:
        """Note that a piece of audio was taken."""
        self._waiting_s -= frame.size / self._checkpoint.sample_rate_hz

    def has_next(self) -> bool:
        """Return whether the next segment may be said: after the last, one ahead of the sound.

        Two at once would draw from one generator in an order that is up to chance.
        """
        while self.texts and not self.texts[0]:
            self.texts.popleft()
        said = all(segment.complete for segment in self.segments)
        return bool(self.texts) and said and len(self.segments) < 2  # noqa: PLR2004

    def say_next(self) -> tuple[Line, Segment]:
        """Begin the next segment."""
        line = Line(self._prompt, self.texts.popleft(), self._sampler)
        segment = Segment(self._parts(), line.made)
        self.segments.append(segment)
        return line, segment

    def convert(self, tokens: list[int]) -> None:
        """Let speech tokens sound, and nothing else."""
        self.segments.append(Segment(self._parts(), tokens, tokens, complete=True))
        self.is_written = True

    def _parts(self) -> Any:
        speed = self._speed if self.in_one else None
        return chunks(self._checkpoint, self._prompt, self._noise, speed)

    def piece(self, token_s: float) -> Piece | None:
        """Return what the flow can make next, where a token takes `token_s`; 0: unknown."""
        while self.segments and self.segments[0].complete and not self.segments[0].tokens:
            self.segments.popleft()
        if not self.segments or self.in_work > 1 or self._waiting_s > _HELD_S:
            return None
        segment, due_s, most = self.segments[0], self._dry_s + self._in_work_s, 0.0
        if token_s and not self._is_first:
            in_time = _IN_TIME * (due_s - time.monotonic()) / token_s
            most = in_time - segment.parts.before
        part = segment.parts.next(segment.tokens, complete=segment.complete, most=most)
        return part and Piece(
            Work(self, segment, part),
            is_first=self._is_first,
            due_s=due_s,
            size=part.said.size,
            kind=self.in_one,
        )

    def take(self, work: Work) -> None:
        """Let a piece be made."""
        work.segment.parts.take(work.part)
        if work.part.said.is_last:
            self.segments.popleft()
        self._is_first = False
        self.in_work += 1
        self._in_work_s += self._seconds(work.part)

    def finish(self, work: Work) -> None:
        """Note that a piece was made."""
        self.in_work -= 1
        self._in_work_s -= self._seconds(work.part)

    def _seconds(self, part: Part) -> float:
        """Return how long a part sounds, about."""
        return (part.until - part.since) / self._checkpoint.tokens_a_second / self._speed
