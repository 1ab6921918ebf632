"""The three stages of the model, each with one thread, for all requests together.

Speech tokens, flow (tokens to mel) and vocoder (mel to audio) are each made in batches over
requests, which join and leave between steps. A request that is stopped or fails leaves at the next
step, and the others do not notice.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import torch

from services.speech.engines.cosyvoice import flow
from services.speech.engines.cosyvoice.checkpoint import CancelledError, cancellable
from services.speech.engines.cosyvoice.meter import Meter
from services.speech.engines.cosyvoice.schedule import streams_held, together
from services.speech.engines.cosyvoice.tokens import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from services.speech.engines.cosyvoice.checkpoint import Checkpoint
    from services.speech.engines.cosyvoice.schedule import Piece
    from services.speech.engines.cosyvoice.tokens import Line
    from services.speech.engines.cosyvoice.utterance import Segment, Utterance, Work


class Stages:
    """Makes the audio of utterances, from `begin` until their end or `close`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Start the threads."""
        self._checkpoint = checkpoint
        self._decoder = Decoder(checkpoint)
        self._silent = frozenset(getattr(checkpoint.vocoder, "silent_tokens", ()))
        self._saying: dict[Line, tuple[Utterance, Segment]] = {}
        self._sounding: list[Piece] = []
        self._meter = Meter()
        self._utterances: list[Utterance] = []
        self._is_closed = False
        self._changed = threading.Condition()
        work = {"tokens": self._say, "flow": self._make, "vocoder": self._sound}
        self._threads = [
            threading.Thread(
                target=self._run, args=(name, step), name=f"cosyvoice-{name}", daemon=True
            )
            for name, step in work.items()
        ]
        for thread in self._threads:
            thread.start()

    @property
    def active(self) -> int:
        """Return how many utterances there are."""
        return len(self._utterances)

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
            if utterance in self._utterances:
                self._utterances.remove(utterance)
            self._sounding = [
                piece for piece in self._sounding if piece.owner.utterance is not utterance
            ]
        utterance.on_end(error)

    def forget(self) -> None:
        """Forget what the model took so far: it was cold."""
        self._meter = Meter()

    def held(self) -> int:
        """Return how many streams at once would have no gap, by what the model took lately."""
        checkpoint = self._checkpoint
        return streams_held(self._meter.costs(), checkpoint.tokens_a_second, checkpoint.rows)

    def close(self) -> None:
        """End every utterance, and the threads."""
        with self.change():
            self._is_closed = True
        for utterance in tuple(self._utterances):
            self.end(utterance)
        for thread in self._threads:
            thread.join()

    def _run(self, name: str, step: Callable[[], None]) -> None:
        apart = name == "tokens" and self._checkpoint.device.type == "cuda"
        stream = torch.cuda.Stream(self._checkpoint.device) if apart else None
        # A GPU makes tokens and audio at the same time, as with upstream.
        with torch.cuda.stream(stream) if apart else contextlib.nullcontext():
            while not self._is_closed:
                try:
                    step()
                except Exception as error:  # noqa: BLE001  nobody knows whose it is
                    for utterance in tuple(self._utterances):
                        self.end(utterance, error)

    def _wait_for(self, there: Callable[[], bool]) -> bool:
        """Wait, with the lock held; return False once closed."""
        self._changed.wait_for(lambda: self._is_closed or there())
        return not self._is_closed

    # Tokens.

    def _say(self) -> None:
        """Let segments that may begin join, and add a token to each that is being said."""
        with self._changed:
            if not self._wait_for(lambda: bool(self._saying) or any(self._to_begin())):
                return
            gone = [line for line, (owner, _) in self._saying.items() if owner.is_stopped]
            begun = [(owner, owner.say_next()) for owner in self._to_begin()]
        self._leave(gone)
        for owner, (line, segment) in begun:
            try:
                self._decoder.join(line)
                self._saying[line] = owner, segment
            except Exception as error:  # noqa: BLE001  it is this request's
                self.end(owner, error)
        if self._saying:
            self._add(self._ended())

    def _to_begin(self) -> Iterator[Utterance]:
        return (utterance for utterance in self._utterances if utterance.has_next())

    def _ended(self) -> dict[Line, BaseException | None]:
        """Decode a step; return the lines that end with it."""
        try:
            with self._meter.step():
                return self._decoder.step()
        except Exception as error:  # noqa: BLE001  of a batch nobody knows whose it is
            ended: dict[Line, BaseException | None] = dict.fromkeys(self._decoder.lines, error)
            self._decoder.leave(ended)
            return ended

    def _leave(self, lines: Sequence[Line]) -> None:
        self._decoder.leave(lines)
        for line in lines:
            del self._saying[line]

    def _add(self, ended: dict[Line, BaseException | None]) -> None:
        """Add what was decoded to the segments."""
        failed = []
        with self.change():
            for line, (owner, segment) in self._saying.items():
                segment.catch_up(self._silent)
                segment.complete = line in ended
                if ended.get(line):
                    failed.append((owner, ended[line]))
        for line in ended:
            del self._saying[line]
        for owner, error in failed:
            self.end(owner, error)

    # Flow: a piece's owner is its work.

    def _make(self) -> None:
        """Make the mels of the most urgent pieces."""
        pieces: list[Piece] = []

        def there() -> bool:
            token_s = self._meter.token_s * len(self._utterances)  # all may be made together
            found = (utterance.piece(token_s) for utterance in self._utterances)
            pieces[:] = [piece for piece in found if piece is not None]
            return bool(pieces)

        with self.change():
            if not self._wait_for(there):
                return
            batch = together(pieces, self._checkpoint.rows)
            for piece in batch:
                piece.owner.utterance.take(piece.owner)
        with self._meter.flow(len(batch) * max(piece.size for piece in batch)):
            parts = list(self._mels(batch))
        for made in parts:
            with self.change():
                self._sounding += [one for one in made if not one.owner.utterance.is_stopped]

    def _mels(self, batch: list[Piece]) -> Iterator[list[Piece]]:
        """Make the mels of a batch; yield pieces that have theirs, after an error one by one."""
        works = [piece.owner for piece in batch]
        try:
            with cancellable(lambda: all(work.utterance.is_stopped for work in works)):
                made = self._together(works)
        except CancelledError:
            return
        except Exception as error:  # noqa: BLE001  it is the request's, once it is alone
            if len(batch) > 1:
                for piece in batch:
                    yield from self._mels([piece])
                return
            made = [error]
        for work, mel in zip(works, made, strict=True):
            work.mel = mel
        yield batch

    def _together(self, works: Sequence[Work]) -> Sequence[torch.Tensor]:
        said = [work.part.said for work in works]
        checkpoint = self._checkpoint
        if checkpoint.family == 1:
            return [work.segment.parts.wave(work.part) for work in works]
        with torch.autocast(checkpoint.device.type, enabled=checkpoint.accelerated.fp16):
            made: list[torch.Tensor] = flow.mels(
                checkpoint.vocoder.flow, said, streaming=not works[0].utterance.in_one
            )
        return made

    # Vocoder.

    def _sound(self) -> None:
        """Make the audio of the most urgent mel, or end an utterance that has sounded."""
        done: list[Utterance] = []

        def there() -> bool:
            done[:] = [utterance for utterance in self._utterances if utterance.is_done]
            return bool(self._sounding or done)

        with self._changed:
            if not self._wait_for(there):
                return
            piece = min(self._sounding, key=lambda piece: piece.order, default=None)
            if piece is not None:
                self._sounding.remove(piece)
        for utterance in done:
            self._finish(utterance)
        if piece is not None:
            self._give(piece.owner)

    def _give(self, work: Work) -> None:
        utterance = work.utterance
        if isinstance(work.mel, Exception):
            self.end(utterance, work.mel)
            return
        tokens = work.part.until - work.part.since
        try:
            with self._meter.sound(tokens / self._checkpoint.tokens_a_second):
                wave = work.segment.parts.sound(work.mel, work.part)
            frame = utterance.stretch.feed(wave.squeeze(0).float().cpu().numpy())
        except Exception as error:  # noqa: BLE001  it is this request's
            self.end(utterance, error)
            return
        with self.change():
            utterance.finish(work)
            if not utterance.is_stopped:
                utterance.give(frame)

    def _finish(self, utterance: Utterance) -> None:
        with self.change():
            if not utterance.is_stopped:
                utterance.give(utterance.stretch.finish())
        self.end(utterance)
