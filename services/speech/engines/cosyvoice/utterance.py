"""One request on its way through the model: what of it is written, said and sounding."""

from __future__ import annotations

import random
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from services.audio.resample import TimeStretch
from services.speech.engines.cosyvoice.chunks import chunks
from services.speech.engines.cosyvoice.randomness import Sampler
from services.speech.engines.cosyvoice.schedule import IN_TIME, PATIENCE_S, Piece
from services.speech.engines.cosyvoice.tokens import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.audio.pcm import Samples
    from services.speech.engines.cosyvoice.checkpoint import Checkpoint
    from services.speech.engines.cosyvoice.flow import Part
    from services.speech.engines.cosyvoice.modes import Prompt
    from services.speech.engines.protocol import ConversionRequest, SynthesisRequest

_HELD_S: Final = 30.0  # of audio that waits for the listener
_ONE_PASS_S: Final = 5.0  # an answer that is not streamed has no listener yet: streams go first
_SILENT_IN_A_ROW: Final = 5  # upstream's


@dataclass(kw_only=True, eq=False)
class Segment(Line):
    """A segment that is being said, and sounds meanwhile.

    Attributes:
        parts: how its sound is made.
        tokens: those that sound: all but silent ones after five in a row (family 3).
        complete: whether there will be no more.
    """

    parts: Any
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


@dataclass(kw_only=True, eq=False)
class Work(Piece):
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
        self.texts: deque[Sequence[int]] = deque()
        self.is_written = False
        self.segments: deque[Segment] = deque()
        self.in_work = 0
        self.is_stopped = False
        self._checkpoint = checkpoint
        self._prompt = prompt
        seed = secrets.randbits(62) if request.seed is None else request.seed
        self._sampler = Sampler(checkpoint.lm, seed)
        self._noise = random.Random(seed)  # noqa: S311  it is to be repeatable
        self.in_one = request.one_pass
        self._speed = request.speed
        # In one pass the model itself changes the speed.
        speed = 1.0 if self.in_one else self._speed
        self.stretch = TimeStretch(checkpoint.sample_rate_hz, speed)
        self._is_first = not request.one_pass
        self._dry_s = time.monotonic() + (_ONE_PASS_S if request.one_pass else PATIENCE_S)
        self._waiting_s = 0.0
        self._in_work_s = 0.0
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
        parts = chunks(self._checkpoint, self._prompt, self._noise, speed)
        segment = Segment(prompt=self._prompt, text=text, sampler=self._sampler, parts=parts)
        self.segments.append(segment)
        return segment

    def work(self, token_s: float) -> Work | None:
        """Return what the flow can make next, where a token takes `token_s`; 0: unknown."""
        while self.segments and self.segments[0].complete and not self.segments[0].tokens:
            self.segments.popleft()
        if not self.segments or self.in_work > 1 or self._waiting_s > _HELD_S:
            return None
        segment, due_s, most = self.segments[0], self._dry_s + self._in_work_s, 0.0
        if token_s and not self._is_first:
            in_time = IN_TIME * (due_s - time.monotonic()) / token_s
            most = in_time - segment.parts.before
        part = segment.parts.next(segment.tokens, complete=segment.complete, most=most)
        return part and Work(
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
        work.segment.parts.take(work.part)
        if work.part.is_last:
            self.segments.popleft()
        if self._is_first:  # its listener begins with it, not before
            self._is_first, self._dry_s = False, time.monotonic()
        self.in_work += 1
        self._in_work_s += self._seconds(work.part)

    def finish(self, work: Work) -> None:
        """Note that a piece was made."""
        self.in_work -= 1
        self._in_work_s -= self._seconds(work.part)

    def _seconds(self, part: Part) -> float:
        """Return how long a part sounds, about."""
        return (part.until - part.since) / self._checkpoint.tokens_a_second / self._speed
