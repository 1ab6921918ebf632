"""A request at work: a recording that is read and heard window by window, or one guess."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Final

from services.errors import EngineError, ServiceError
from services.transcription.engines.faster_whisper.alignment import segments
from services.transcription.engines.faster_whisper.decoder import (
    FALLBACK,
    DecodedWindow,
    DecodingOptions,
    Job,
)
from services.transcription.engines.faster_whisper.detector import SileroDetector
from services.transcription.engines.faster_whisper.windows import windows
from services.transcription.engines.protocol import Hypothesis

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from services.handover import Handover
    from services.transcription.engines.faster_whisper.batches import Batches, Lane
    from services.transcription.engines.faster_whisper.checkpoint import Checkpoint, Features
    from services.transcription.engines.faster_whisper.windows import Timeline, Window
    from services.transcription.engines.protocol import (
        GuessRequest,
        Segment,
        TranscriptionRequest,
    )

_SPEECH: Final = 0.5  # Silero's own threshold


class Transcriber:
    """A recording at work: a `Requester`, read by one thread, heard by another, taken by the loop.

    From its reading until its segments are taken, at most `held` windows exist. Where no language
    was named, the first window in which somebody speaks is heard before those behind it, and they
    are heard in its language, whatever else is heard at the same time.
    """

    def __init__(
        self,
        model: Checkpoint,
        batches: Batches[Job],
        request: TranscriptionRequest,
        handover: Handover[list[Segment]],
        held: int,
    ) -> None:
        """Take a lane."""
        self.options = DecodingOptions(
            request.task,
            tuple(model.before(request.prompt, request.keywords)),
            frozenset(request.languages) or model.languages,
            (request.temperature,) if request.temperature > 0 else FALLBACK,
        )
        self.language = request.language
        self._model = model
        self._request = request
        self._handover = handover
        self._lane: Lane[Job] = batches.lane()
        self._room = threading.Semaphore(held)
        self._lock = threading.Lock()
        self._timelines: dict[int, Timeline] = {}
        self._waiting: list[Job] = []  # for the language that another window tells
        self._telling = False  # whether one is heard for it
        self._done: dict[int, list[Segment]] = {}
        self._given = 0  # windows whose segments were handed over
        self._read: int | None = None  # windows that there are, once it is known
        self._error: BaseException | None = None
        self._closed = False

    def read(self) -> None:
        """Cut the recording into windows and have them heard, until all are or it is closed."""
        index = 0
        try:
            cut = windows(self._request.audio, SileroDetector(), self._request.cutting)
            with closing(cut):  # type: ignore[type-var]
                while True:
                    self._room.acquire()
                    window = None if self._closed else next(cut, None)
                    if window is None:
                        break
                    features = self._features(window.samples)
                    if not features.shape[1]:  # less than a hundredth of a second
                        self._room.release()
                        continue
                    job = Job(self, features, index, tells=self._tells(window))
                    with self._lock:
                        self._timelines[index] = window.timeline
                        self._waiting.append(job)
                        self._put_waiting()
                    index += 1
        except BaseException as error:  # noqa: BLE001  raised where the segments are awaited
            self._error = error
        with self._lock:
            self._read = index
            self._hand_over()

    def taken(self) -> None:
        """Note that a window's segments were taken: another may be read."""
        self._room.release()

    def close(self) -> None:
        """Drop its windows, and let go the thread that reads."""
        self._closed = True
        self._lane.close()
        self._room.release()

    def again(self, job: Job) -> None:
        """Hear a window before the others; see `Requester`."""
        self._lane.put(job, first=True)

    def heard(self, heard: DecodedWindow) -> None:
        """Make segments, and hear the rest of a window that was not heard to its end."""
        job = heard.job
        found, seek = segments(
            self._model,
            heard,
            self._timelines[job.index],
            words=self._request.words,
            logprobs=self._request.logprobs,
        )
        with self._lock:
            if job.tells and self._telling:
                self._telling = False
                if heard.text.is_silence and self._request.language is None:
                    self.language = None  # silence does not tell the language
            self._put_waiting()
        known = (*job.before, *found)
        if seek < job.features.shape[1]:
            rest = Job(
                self,
                job.features[:, seek:],
                job.index,
                job.offset + seek,
                known,
                rounds=job.rounds + 1,
                tells=job.tells,
                language=heard.language,
            )
            self._lane.put(rest, first=True)
            return
        with self._lock:
            del self._timelines[job.index]
            self._done[job.index] = list(known)
            self._hand_over()

    def failed(self, error: ServiceError) -> None:
        """End with an error; see `Requester`."""
        self._closed = True
        self._lane.close()
        self._handover.end(error)
        self._room.release()

    def _tells(self, window: Window) -> bool:
        """Return whether somebody speaks in a window; asked only where the language hangs on it."""
        if self.language is not None or self._request.cutting is not None:
            return True  # what is cut out as speech is speech
        return max(SileroDetector().feed(window.samples), default=0.0) >= _SPEECH

    def _put_waiting(self) -> None:
        """Have windows heard that need not wait for another one's language."""
        while self._waiting and not self._telling:
            job = self._waiting.pop(0)
            self._telling = job.tells and self.language is None
            self._lane.put(job)

    def _hand_over(self) -> None:
        """Hand over what is next in order, and the end after the last."""
        if self._closed:  # an error is the end already, and nobody takes from what was closed
            return
        while self._given in self._done:
            self._handover.put(self._done.pop(self._given))
            self._given += 1
        if self._given == self._read:
            self._handover.end(self._error)

    def _features(self, samples: NDArray[np.float32]) -> Features:
        try:
            return self._model.features(samples)
        except Exception as error:
            raise EngineError("no spectrogram could be made", code="engine_failed") from error


class Guess:
    """One guess at work: a `Requester` with one window, without times."""

    def __init__(self, model: Checkpoint, batches: Batches[Job], request: GuessRequest) -> None:
        """Take a lane; made in the event loop that awaits."""
        self.options = DecodingOptions(
            "transcribe",
            tuple(model.before(request.prompt, request.keywords)),
            frozenset(request.languages) or model.languages,
            (0.0,),
            times=False,
        )
        self.language = request.language
        self._model = model
        self._request = request
        self._lane: Lane[Job] = batches.lane(urgent=True)
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Hypothesis] = self._loop.create_future()

    async def answer(self, features: Features) -> Hypothesis:
        """Return what the window seems to say."""
        prefix = self._request.prefix
        tokens = tuple(self._model.tokens(" " + prefix.strip())) if prefix.strip() else ()
        self._lane.put(Job(self, features, prefix=tokens))
        try:
            return await self._answer
        finally:
            self._lane.close()

    def again(self, job: Job) -> None:
        """Hear it again; see `Requester`."""
        self._lane.put(job, first=True)

    def heard(self, heard: DecodedWindow) -> None:
        """Give the answer, which begins with the prefix as it was given."""
        prefix = self._request.prefix
        text = heard.text
        more = ""
        if not text.is_silence:
            more = self._model.text(text.decoded.tokens[len(heard.job.prefix) :]).rstrip("\ufffd")
        if not prefix or prefix[-1:].isspace():
            more = more.lstrip()
        self._settle(Hypothesis(prefix + more.rstrip(), heard.language), None)

    def failed(self, error: ServiceError) -> None:
        """Raise the error where the answer is awaited; see `Requester`."""
        self._settle(None, error)

    def _settle(self, answer: Hypothesis | None, error: ServiceError | None) -> None:
        def settle() -> None:
            if self._answer.done():
                return
            if answer is not None:
                self._answer.set_result(answer)
            elif error is not None:
                self._answer.set_exception(error)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(settle)
