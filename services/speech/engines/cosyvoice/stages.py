"""The three stages of the model, each with one thread, for all requests together.

Speech tokens, flow (tokens to mel) and vocoder (mel to audio) are each made in batches over
requests, which join and leave between steps. A request that is stopped or fails leaves at the next
step, and the others do not notice.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from prometheus_client import Counter

from services.speech.engines.cosyvoice import flow
from services.speech.engines.cosyvoice.checkpoint import Checkpoint
from services.speech.engines.cosyvoice.schedule import Meter, streams_held, together
from services.speech.engines.cosyvoice.tokens import Decoder
from services.speech.engines.cosyvoice.utterance import Segment, Utterance, Work

_MEASURED_FOR_S: Final = 60.0
_SAID_AGAIN: Final = Counter(
    "bentovox_segments_said_again", "Segments that came out absurdly short or long for their text."
)


class _GivenUp(BaseException):  # no code of upstream is to catch it
    """Nobody wants what the flow makes any more."""


class Stages:
    """Makes the audio of utterances, from `begin` until their end or `close`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Start the threads."""
        self.checkpoint = checkpoint
        self.streams = 1  # that would have no gap, by what it took lately; at least one
        self._measured_s = time.monotonic()
        self._decoder: Decoder[Segment] = Decoder(checkpoint)
        self._saying: dict[Segment, Utterance] = {}
        self._making: list[Work] = []
        self._sounding: list[Work] = []
        self._meter = Meter()
        self._utterances: list[Utterance] = []
        self._is_closed = False
        self._changed = threading.Condition()
        estimator = checkpoint.vocoder.flow.decoder.estimator
        if isinstance(estimator, torch.nn.Module):
            estimator.register_forward_pre_hook(self._look_who_listens)
        work = {"tokens": self._say, "flow": self._make, "vocoder": self._sound}
        self._threads = [
            threading.Thread(
                target=self._run, args=(name, step), name=f"cosyvoice-{name}", daemon=True
            )
            for name, step in work.items()
        ]
        for thread in self._threads:
            thread.start()

    def begin(self, utterance: Utterance) -> None:
        """Take an utterance, of which text may be there already."""
        with self.change():
            self._utterances.append(utterance)

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """Hold the lock while the block changes an utterance, then look at what is to do."""
        with self._changed:
            yield
            self._changed.notify_all()

    def end(self, utterance: Utterance, error: BaseException | None = None) -> None:
        """Give an utterance up, or note its end; only the first call counts."""
        with self.change():
            if utterance.is_stopped:
                return
            utterance.is_stopped = True
            self._utterances.remove(utterance)
            self._sounding = [work for work in self._sounding if work.utterance is not utterance]
        utterance.handover.end(error)

    def forget(self) -> None:
        """Forget what the model took so far: it was cold."""
        self._meter = Meter()

    def measure(self) -> None:
        """Find out how many streams there may be at once."""
        rate, rows = self.checkpoint.tokens_a_second, self.checkpoint.rows
        self.streams = max(1, streams_held(self._meter.costs(), rate, rows))

    def close(self) -> None:
        """End every utterance, and the threads."""
        with self.change():
            self._is_closed = True
        for utterance in tuple(self._utterances):
            self.end(utterance)
        for thread in self._threads:
            thread.join()

    def _run(self, name: str, step: Callable[[], None]) -> None:
        apart = name == "tokens" and self.checkpoint.device.type == "cuda"
        stream = torch.cuda.Stream(self.checkpoint.device) if apart else None
        # A GPU makes tokens and audio at the same time, as with upstream.
        with torch.cuda.stream(stream) if apart else contextlib.nullcontext():
            while not self._is_closed:
                try:
                    step()
                except Exception as error:  # noqa: BLE001  nobody knows whose it is
                    for utterance in tuple(self._utterances):
                        self.end(utterance, error)

    def _wait_for(self, find: Callable[[], Any]) -> Any:
        """Wait, with the lock held, for something to be found; return it, or None once closed."""
        found = self._changed.wait_for(lambda: self._is_closed or find())
        return None if self._is_closed else found

    # Tokens.

    def _say(self) -> None:
        """Let segments that may begin join, and add a token to each that is being said."""
        with self._changed:
            if not self._wait_for(lambda: self._saying or any(self._to_begin())):
                return
            gone = [segment for segment, owner in self._saying.items() if owner.is_stopped]
            begun = [(owner.say_next(), owner) for owner in self._to_begin()]
        self._decoder.leave(gone)
        for segment in gone:
            del self._saying[segment]
        for segment, owner in begun:
            try:
                self._decoder.join(segment)
                self._saying[segment] = owner
            except Exception as error:  # noqa: BLE001  it is this request's
                self.end(owner, error)
        if self._saying:
            self._add(self._ended())

    def _to_begin(self) -> Iterator[Utterance]:
        return (utterance for utterance in self._utterances if utterance.has_next())

    def _ended(self) -> dict[Segment, BaseException | None]:
        """Decode a step; return the lines that end with it."""
        try:
            with self._meter.timed("step", len(self._decoder.lines)):
                return self._decoder.step()
        except Exception as error:  # noqa: BLE001  of a batch nobody knows whose it is
            ended: dict[Segment, BaseException | None] = dict.fromkeys(self._decoder.lines, error)
            self._decoder.leave(ended)
            return ended

    def _add(self, ended: dict[Segment, BaseException | None]) -> None:
        """Add what was decoded to the segments."""
        with self.change():
            for segment, owner in self._saying.items():
                segment.catch_up()
                if segment in ended and not ended[segment] and owner.say_again(segment):
                    _SAID_AGAIN.inc()
                else:
                    segment.complete = segment in ended
        for segment, error in ended.items():
            owner = self._saying.pop(segment)
            if error:
                self.end(owner, error)

    # Flow.

    def _make(self) -> None:
        """Make the mels of the most urgent parts."""
        with self.change():
            there = self._wait_for(self._to_make)
            if there is None:
                return
            batch = together(there, self.checkpoint.rows)
            largest = max(work.size for work in batch)
            for work in batch:
                work.fill_up(largest)
                work.utterance.take(work)
        tokens = len(batch) * max(work.part.size for work in batch)
        with contextlib.suppress(_GivenUp), self._meter.timed("flow", tokens):
            self._make_together(batch)
        self._making = []

    def _to_make(self) -> list[Work]:
        token_s = self._meter.token_s(self.checkpoint.tokens_a_second)
        token_s *= len(self._utterances)  # all may be made together
        return list(filter(None, (utterance.work(token_s) for utterance in self._utterances)))

    def _make_together(self, batch: list[Work]) -> None:
        """Make the mels of a batch, after an error one by one."""
        self._making = batch
        try:
            made: Sequence[Any] = self._mels(batch)
        except Exception as error:  # noqa: BLE001  it is the request's, once it is alone
            if len(batch) > 1:
                for work in batch:
                    with contextlib.suppress(_GivenUp):
                        self._make_together([work])
                return
            made = [error]
        with self.change():
            for work, mel in zip(batch, made, strict=True):
                work.mel = mel
                if not work.utterance.is_stopped:
                    self._sounding.append(work)

    def _look_who_listens(self, *_: Any) -> None:
        """Stop the flow, before each of its steps, once nobody wants any of what it makes."""
        if self._making and all(work.utterance.is_stopped for work in self._making):
            raise _GivenUp

    def _mels(self, batch: Sequence[Work]) -> Sequence[torch.Tensor]:
        checkpoint = self.checkpoint
        with torch.autocast(checkpoint.device.type, enabled=checkpoint.fp16):
            made: list[torch.Tensor] = flow.mels(
                checkpoint.vocoder.flow,
                [work.part for work in batch],
                streaming=not batch[0].utterance.in_one,
            )
        if checkpoint.device.type == "cuda":  # what is most urgent by then goes next
            torch.cuda.current_stream(checkpoint.device).synchronize()
        return made

    # Vocoder.

    def _sound(self) -> None:
        """Make the audio of the most urgent mel, or end an utterance that has sounded."""
        with self._changed:
            if not self._wait_for(lambda: self._sounding or any(self._sounded())):
                return
            done = list(self._sounded())
            # Of an utterance the earlier piece, whose deadline may be the later one.
            first = {work.utterance: work for work in reversed(self._sounding)}
            work = min(first.values(), key=lambda work: work.due_s, default=None)
            if work is not None:
                self._sounding.remove(work)
        for utterance in done:
            self._finish(utterance)
        if work is not None:
            self._give(work)

    def _sounded(self) -> Iterator[Utterance]:
        return (utterance for utterance in self._utterances if utterance.is_done)

    def _give(self, work: Work) -> None:
        utterance = work.utterance
        if isinstance(work.mel, Exception):
            self.end(utterance, work.mel)
            return
        tokens = work.part.until - work.part.since
        try:
            with self._meter.timed("sound", tokens / self.checkpoint.tokens_a_second):
                wave = work.segment.sound(work.mel, work.part).squeeze(0).float().cpu()
            frame = utterance.stretch.feed(wave.numpy())
        except Exception as error:  # noqa: BLE001  it is this request's
            self.end(utterance, error)
            return
        with self.change():
            utterance.in_work.popleft()
            if not utterance.is_stopped:
                utterance.give(frame)

    def _finish(self, utterance: Utterance) -> None:
        with self.change():
            if not utterance.is_stopped:
                utterance.give(utterance.stretch.finish())
        self.end(utterance)
        if time.monotonic() - self._measured_s > _MEASURED_FOR_S:
            self._measured_s = time.monotonic()
            # It takes some hundred milliseconds, in which others are to sound.
            threading.Thread(target=self.measure, name="cosyvoice-measure", daemon=True).start()
