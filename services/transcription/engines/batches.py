"""Batches of whatever waits for one model; nobody waits for a batch to fill up.

Each requester has a lane. The lane that has waited longest decides what kind of work comes next,
and lanes take turns, so hours of work in one hold up another for no longer than its turn. Urgent
lanes, for live speech, get every other batch while they need it, and the batches between are kept
short.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, Protocol, TypeVar

from services.errors import ServiceError, UnavailableError
from services.loading import Loading
from services.tasks import in_daemon
from services.transcription.engines.windows import SileroDetector

log = logging.getLogger("bentovox.transcription")

Job = TypeVar("Job")
Model = TypeVar("Model")
Waiter = TypeVar("Waiter", bound="Waiting")

_RETRY_S: Final = 10.0

_LIVE_S: Final = 5.0  # after urgent work, more of it is expected for so long
_TURN_S: Final = 0.5  # for which such work may have to wait, if a job is that short


class Batches(Generic[Job]):
    """One thread that works on batches of jobs of one kind."""

    def __init__(
        self,
        work: Callable[[list[Job]], None],
        kind: Callable[[Job], Hashable],
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread.

        `work` does a batch of at most `most` jobs of one `kind`, with their results and errors.
        """
        self._work = work
        self._kind = kind
        self._most = most
        self._clock = clock
        self._changed = threading.Condition()
        self._usual: deque[Lane[Job]] = deque()
        self._urgent: deque[Lane[Job]] = deque()
        self._was_urgent = False
        self._urgent_until = 0.0
        self._job_s = 0.0  # how long a job that is not urgent took of late
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="transcription-batches", daemon=True)
        self._thread.start()

    def lane(self, *, urgent: bool = False) -> Lane[Job]:
        """Return a lane for one requester."""
        return Lane(self._changed, self._urgent if urgent else self._usual)

    def close(self) -> None:
        """Start no further batch; the current one is finished."""
        with self._changed:
            self._closed = True
            for waiting in (self._usual, self._urgent):
                for lane in waiting:
                    lane.jobs.clear()
                waiting.clear()
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the thread to end, after `close`."""
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._usual or self._urgent)
                if self._closed:
                    return
                batch = self._next(self._clock())
            began = self._clock()
            try:
                self._work(batch)
            except Exception:  # if the thread ended, everybody would wait for ever
                log.exception("a batch of %d failed", len(batch))
            if not self._was_urgent:
                job_s = (self._clock() - began) / len(batch)
                self._job_s += (job_s - self._job_s) * (0.5 if self._job_s else 1.0)
            del batch  # frees its memory while there is nothing to do

    def _next(self, now: float) -> list[Job]:
        """Take jobs from the lanes in turn, of the same kind as the first lane's."""
        self._was_urgent = bool(self._urgent) and not (self._was_urgent and self._usual)
        waiting = self._urgent if self._was_urgent else self._usual
        most = self._most
        if self._was_urgent:
            self._urgent_until = now + _LIVE_S
        elif now < self._urgent_until and self._job_s:
            most = min(most, max(1, int(_TURN_S / self._job_s)))
        kind = self._kind(waiting[0].jobs[0])
        batch: list[Job] = []
        given: list[Lane[Job]] = []
        took = True
        while took:
            took = False
            for lane in waiting:
                if len(batch) < most and lane.jobs and self._kind(lane.jobs[0]) == kind:
                    batch.append(lane.jobs.popleft())
                    took = True
                    if lane not in given:
                        given.append(lane)
        for lane in given:
            waiting.remove(lane)
            if lane.jobs:
                waiting.append(lane)
        return batch


class Lane(Generic[Job]):
    """One requester's jobs, done in order."""

    def __init__(self, changed: threading.Condition, waiting: deque[Lane[Job]]) -> None:
        self.jobs: deque[Job] = deque()
        self._changed = changed
        self._waiting = waiting
        self._closed = False

    def put(self, job: Job, *, first: bool = False) -> None:
        """Queue a job, before the others if `first`; does nothing if the lane is closed."""
        with self._changed:
            if self._closed:
                return
            if first:
                self.jobs.appendleft(job)
            else:
                self.jobs.append(job)
            if self not in self._waiting:
                self._waiting.append(self)
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what waits."""
        with self._changed:
            self._closed = True
            self.jobs.clear()
            if self in self._waiting:
                self._waiting.remove(self)


class Waiting(Protocol):
    """Whoever waits for jobs."""

    def failed(self, error: ServiceError) -> None:
        """Wait no more, and tell why."""


class BatchingEngine(ABC, Generic[Model, Job]):
    """What engines share that have one model, loaded in the background, and batches for it.

    See `TranscriptionEngine` for what is promised.
    """

    def __init__(self, loader: Loading[Model], kind: Callable[[Job], Hashable], most: int) -> None:
        self._loader = loader
        self._batches: Batches[Job] | None = None
        self._kind = kind
        self._most = most
        self._active: set[Waiting] = set()

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._loader.model is not None

    @property
    def status(self) -> str:
        """What it is doing, or why there is no model and how to get one."""
        return self._loader.status

    @property
    def settled(self) -> bool:
        """Whether there is no model, and none is on its way."""
        return self._loader.settled

    async def start(self) -> None:
        """Find, download and load the model in the background; returns at once."""
        if self._batches is None:
            self._batches = Batches(self._hear, self._kind, self._most)
            self._loader.start()

    async def close(self) -> None:
        """End all work, and free the model."""
        batches, self._batches = self._batches, None
        if batches is None:
            return
        self._loader.close()
        batches.close()
        for requester in tuple(self._active):
            requester.failed(UnavailableError("the transcription engine was closed"))
        await in_daemon(batches.join)

    @contextmanager
    def _at_work(self, requester: Waiter) -> Iterator[Waiter]:
        """Let a requester know when the engine is closed, or nobody waits any more."""
        self._active.add(requester)
        try:
            yield requester
        finally:
            self._active.discard(requester)
            requester.failed(UnavailableError("nobody waits any more"))

    def detector(self) -> SileroDetector:
        """Return a new detector."""
        return SileroDetector()

    def _loaded(self) -> tuple[Model, Batches[Job]]:
        model, batches = self._loader.model, self._batches
        if model is None or batches is None:
            raise UnavailableError(self.status, retry_after_s=_RETRY_S)
        return model, batches

    @abstractmethod
    def _hear(self, jobs: list[Job]) -> None:
        """Do a batch; what it raises is logged only."""
