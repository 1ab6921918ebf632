"""Batches of whatever waits for one model; nobody waits for a batch to fill up.

Each requester has a lane. The lane that has waited longest decides what kind of work comes next,
and lanes take turns, so hours of work in one hold up another for no longer than its turn. What is
urgent, for live speech, gets every other batch while there is some, and the batches between are
kept short.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable, Iterator, Sequence
from typing import Final, Generic, TypeAlias, TypeVar

from services.audio.pcm import Samples
from services.errors import EngineError, ServiceError, UnavailableError
from services.loading import Loading
from services.tasks import in_daemon
from services.transcription.engines.protocol import TranscriptionRequest
from services.transcription.engines.windows import SileroDetector, Timeline, windows

log = logging.getLogger("bentovox.transcription")

Job = TypeVar("Job")
Result = TypeVar("Result")
Model = TypeVar("Model")
Made = TypeVar("Made")

Asked: TypeAlias = tuple[Job, asyncio.Future[Result]]
Lanes: TypeAlias = dict[Hashable, deque[Asked[Job, Result]]]

_RETRY_S: Final = 10.0

_LIVE_S: Final = 5.0  # after urgent work, more of it is expected for so long
_TURN_S: Final = 0.5  # for which such work may have to wait, if a job is that short


class Batches(Generic[Job, Result]):
    """Has jobs done in batches of one kind, a batch at a time, in a thread; for one event loop."""

    def __init__(
        self,
        name: str,
        work: Callable[[list[Job]], Sequence[Result]],
        kind: Callable[[Job], Hashable],
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`work` returns the results of at most `most` jobs of one `kind`; `name` is who works."""
        self._name = name
        self._work = work
        self._kind = kind
        self._most = most
        self._clock = clock
        self._changed = asyncio.Event()
        self._usual: Lanes[Job, Result] = {}
        self._urgent: Lanes[Job, Result] = {}
        self._answers: set[asyncio.Future[Result]] = set()
        self._was_urgent = False
        self._urgent_until = 0.0
        self._job_s = 0.0  # how long a job that is not urgent took of late
        self._closed = False
        self._running = asyncio.create_task(self._run())

    async def done(
        self, lane: Hashable, job: Job, *, urgent: bool = False, first: bool = False
    ) -> Result:
        """Return the result of a job; those of a lane are begun in order, or this one `first`.

        Cancelling it drops the job. EngineError if the work failed, UnavailableError on `close`.
        """
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if self._closed:
            raise _closed()
        jobs = (self._urgent if urgent else self._usual).setdefault(lane, deque())
        if first:
            jobs.appendleft((job, answer))
        else:
            jobs.append((job, answer))
        self._answers.add(answer)
        self._changed.set()
        try:
            return await answer
        finally:
            self._answers.discard(answer)

    def failed(self, error: Exception) -> EngineError:
        """Log why a job failed; return the error for whoever waits for it."""
        log.error("%s failed", self._name, exc_info=error)
        failed = EngineError(f"{self._name} failed", code="engine_failed")
        failed.__cause__ = error
        return failed

    async def close(self) -> None:
        """Let nobody wait any more, and return once the current batch is finished."""
        self._closed = True
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(_closed())
        self._changed.set()
        await self._running

    async def _run(self) -> None:
        while not self._closed:
            if batch := self._next(self._clock()):
                await self._do(batch)
                del batch  # frees its memory while there is nothing to do
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _do(self, batch: list[Asked[Job, Result]]) -> None:
        began = self._clock()
        try:
            results = await in_daemon(lambda: self._results([job for job, _ in batch]))
        except Exception as error:  # noqa: BLE001  no thread, most likely; later ones may get one
            results = [self.failed(error)] * len(batch)
        if not self._was_urgent:
            job_s = (self._clock() - began) / len(batch)
            self._job_s += (job_s - self._job_s) * (0.5 if self._job_s else 1.0)
        for (_, answer), result in zip(batch, results, strict=True):
            if answer.done():  # nobody waits any more
                continue
            if isinstance(result, ServiceError):
                answer.set_exception(result)
            else:
                answer.set_result(result)

    def _results(self, jobs: list[Job]) -> list[Result | ServiceError]:
        """Return results or errors; raise nothing, since then everybody would wait for ever.

        A batch that fails is halved: it may be too large for the memory, or one job's fault.
        """
        try:
            return [result for _, result in zip(jobs, self._work(jobs), strict=True)]
        except ServiceError as error:
            return [error] * len(jobs)
        except Exception as error:
            if len(jobs) == 1:
                return [self.failed(error)]
            log.warning("a batch of %d failed and is halved", len(jobs), exc_info=error)
            middle = len(jobs) // 2
            return [*self._results(jobs[:middle]), *self._results(jobs[middle:])]

    def _next(self, now: float) -> list[Asked[Job, Result]]:
        """Take jobs from the lanes in turn, of the same kind as the first lane's."""
        self._usual, self._urgent = _wanted(self._usual), _wanted(self._urgent)
        if not (self._usual or self._urgent):
            return []
        self._was_urgent = bool(self._urgent) and not (self._was_urgent and self._usual)
        waiting = self._urgent if self._was_urgent else self._usual
        most = self._most
        if self._was_urgent:
            self._urgent_until = now + _LIVE_S
        elif now < self._urgent_until and self._job_s:
            most = min(most, max(1, int(_TURN_S / self._job_s)))
        kind = self._kind(next(iter(waiting.values()))[0][0])
        batch: list[Asked[Job, Result]] = []
        given: dict[Hashable, None] = {}
        took = True
        while took:
            took = False
            for lane, jobs in waiting.items():
                if len(batch) < most and jobs and self._kind(jobs[0][0]) == kind:
                    batch.append(jobs.popleft())
                    given[lane] = None
                    took = True
        for lane in given:
            if jobs := waiting.pop(lane):
                waiting[lane] = jobs
        return batch


def _wanted(lanes: Lanes[Job, Result]) -> Lanes[Job, Result]:
    """Return the lanes without jobs for which nobody waits any more."""
    left = {lane: deque(one for one in jobs if not one[1].done()) for lane, jobs in lanes.items()}
    return {lane: jobs for lane, jobs in left.items() if jobs}


def _closed() -> UnavailableError:
    return UnavailableError("the transcription engine was closed")


class BatchingEngine(ABC, Generic[Model, Job, Result]):
    """What engines share that have one model, loaded in the background, and batches for it.

    See `TranscriptionEngine` for what is promised.
    """

    def __init__(
        self, name: str, loader: Loading[Model], kind: Callable[[Job], Hashable], most: int
    ) -> None:
        """`name` is the model's, for errors."""
        self._loader = loader
        self._batches: Batches[Job, Result] | None = None
        self._manner = name, self._work, kind, most

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
            self._batches = Batches(*self._manner)
            self._loader.start()

    async def close(self) -> None:
        """End all work, and free the model."""
        batches, self._batches = self._batches, None
        if batches is not None:
            self._loader.close()
            await batches.close()

    def detector(self) -> SileroDetector:
        """Return a new detector."""
        return SileroDetector()

    def _loaded(self) -> tuple[Model, Batches[Job, Result]]:
        model, batches = self._loader.model, self._batches
        if model is None or batches is None:
            raise UnavailableError(self.status, retry_after_s=_RETRY_S)
        return model, batches

    def _work(self, jobs: list[Job]) -> Sequence[Result]:
        if (model := self._loader.model) is None:
            raise _closed()
        return self._hear(model, jobs)

    @abstractmethod
    def _hear(self, model: Model, jobs: list[Job]) -> Sequence[Result]:
        """Return the results of a batch; called in a thread."""


async def cut(
    request: TranscriptionRequest, made: Callable[[Samples, Timeline], Made]
) -> AsyncGenerator[Made, None]:
    """Yield what is `made` in a thread of each window of a recording; closing it ends the thread.

    Raises what reading the recording raises.
    """
    closed = False

    def audio() -> Iterator[Samples]:
        for piece in request.audio:
            if closed:
                return
            yield piece

    found = windows(audio(), SileroDetector(), request.cutting)

    def read() -> Made | None:
        window = next(found, None)
        return None if window is None else made(*window)

    reading: asyncio.Future[Made | None] | None = None
    try:
        while True:
            reading = asyncio.ensure_future(in_daemon(read))
            if (one := await asyncio.shield(reading)) is None:
                return
            yield one
    finally:
        closed = True
        if reading is not None:  # nobody is to read the recording any more
            await asyncio.gather(reading, return_exceptions=True)
