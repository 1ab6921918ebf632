"""Whisper on CTranslate2 as a transcription engine: requests share one model, in batches."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Collection, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from services.audio.pcm import Samples
from services.errors import ServiceError
from services.tasks import Handover, in_daemon
from services.transcription.engines.batches import Batches, BatchingEngine
from services.transcription.engines.faster_whisper.checkpoint import Checkpoint, Features
from services.transcription.engines.faster_whisper.decoder import (
    FALLBACK,
    DecodedWindow,
    Decoder,
    Job,
    Requester,
    segments,
)
from services.transcription.engines.faster_whisper.loader import Loader
from services.transcription.engines.protocol import (
    GuessRequest,
    Hypothesis,
    Segment,
    TranscriptionRequest,
    check_request,
)
from services.transcription.engines.windows import SileroDetector, windows

_SPEECH: Final = 0.5  # Silero's own threshold
_ONLY_TRANSCRIBE: Final = ("turbo", "distil", ".en")
"""In the names of models that were trained to transcribe only."""


class Recording(Requester):
    """A recording at work; one thread reads it, one decodes it, the event loop takes its segments.

    At most `held` windows exist at a time, from their reading until their segments are taken. The
    first window is decoded before those after it, so that its text comes soon. If no language was
    named, that goes for all windows up to the first in which somebody speaks: those after it are
    decoded in its language, whatever else is decoded at the same time.
    """

    def __init__(
        self,
        model: Checkpoint,
        batches: Batches[Job],
        request: TranscriptionRequest,
        handover: Handover[tuple[list[Segment], bool]],
        held: int,
    ) -> None:
        temperatures = (request.temperature,) if request.temperature > 0 else FALLBACK
        how = {"task": request.task, "temperatures": temperatures}
        super().__init__(model, batches.lane(), request, **how)
        self._request = request
        self._handover = handover
        self._room = threading.Semaphore(held)
        self._lock = threading.Lock()
        self._waiting: list[Job] = []  # for the first window
        self._telling = False  # whether that window is being decoded
        self._told = False  # whether it was
        self._found: dict[int, list[Segment]] = {}  # by window, and not handed over
        self._whole: set[int] = set()  # windows of which no more will be found
        self._given = 0  # windows that were handed over whole
        self._read: int | None = None  # how many windows there are, once that is known
        self._error: BaseException | None = None
        self._closed = False

    def read(self) -> None:
        """Cut the recording into windows and queue them, until it ends or is closed."""
        index = 0
        try:
            cut = windows(self._request.audio, SileroDetector(), self._request.cutting)
            with closing(cut):  # type: ignore[type-var]
                while True:
                    self._room.acquire()
                    window = None if self._closed else next(cut, None)
                    if window is None:
                        break
                    samples, timeline = window
                    features = self.model.features(samples)
                    if not features.shape[1]:  # less than a hundredth of a second
                        self._room.release()
                        continue
                    job = Job(self, features, timeline, index, tells=self._tells(samples))
                    with self._lock:
                        self._waiting.append(job)
                        self._put_waiting()
                    index += 1
        except BaseException as error:  # noqa: BLE001  raised where the segments are awaited
            self._error = error
        with self._lock:
            self._read = index
            self._hand_over()

    def taken(self) -> None:
        """Let another window be read, since one's segments were taken."""
        self._room.release()

    def close(self) -> None:
        """Drop its windows, and let the reading thread go."""
        self._closed = True
        self.lane.close()
        self._room.release()

    def heard(self, heard: DecodedWindow) -> None:
        """Make segments, and queue the rest of a window that was not decoded to its end."""
        job = heard.job
        asked = self._request
        found, seek = segments(self.model, heard, words=asked.words, logprobs=asked.logprobs)
        with self._lock:
            if job.tells and self._telling:
                self._telling = False
                self._told = True
                if heard.decoded.is_silence and self._request.language is None:
                    self.language = None  # silence does not tell the language
                    self._told = False
            self._found.setdefault(job.index, []).extend(found)
            if seek < job.features.shape[1]:
                rest = replace(
                    job,
                    features=job.features[:, seek:],
                    offset=job.offset + seek,
                    attempts=(),
                    encoded=None,
                    rounds=job.rounds + 1,
                    language=heard.language,
                )
                self.lane.put(rest, first=True)
            else:
                self._whole.add(job.index)
            self._put_waiting()
            self._hand_over()

    def failed(self, error: ServiceError) -> None:
        """End with an error."""
        self._handover.end(error)
        self.close()

    def _tells(self, samples: Samples) -> bool:
        """Return whether somebody speaks in a window, if its language depends on that."""
        if self.language is not None or self._request.cutting is not None:
            return True  # with cutting, windows are speech
        return max(SileroDetector().feed(samples), default=0.0) >= _SPEECH

    def _put_waiting(self) -> None:
        """Queue windows that need not wait for the first one."""
        while self._waiting and not self._telling:
            job = self._waiting.pop(0)
            self._telling = job.tells and not self._told
            self.lane.put(job)

    def _hand_over(self) -> None:
        """Hand over what is next in order, and the end after the last window."""
        if self._closed:  # it ended with an error, or nobody takes any more
            return
        while self._given in self._found:
            whole = self._given in self._whole
            self._handover.put((self._found.pop(self._given), whole))
            if not whole:
                break
            self._whole.remove(self._given)
            self._given += 1
        if self._given == self._read:
            self._handover.end(self._error)


class Guess(Requester):
    """A guess at work: one window, without times."""

    def __init__(self, model: Checkpoint, batches: Batches[Job], request: GuessRequest) -> None:
        how = {"task": "transcribe", "temperatures": (0.0,), "times": False}
        super().__init__(model, batches.lane(urgent=True), request, **how)
        self._request = request
        self._answer: Future[Hypothesis] = Future()

    async def answer(self, features: Features) -> Hypothesis:
        """Return what the window seems to say."""
        prefix = self._request.prefix
        tokens = tuple(self.model.tokens(" " + prefix.strip())) if prefix.strip() else ()
        self.lane.put(Job(self, features, prefix=tokens))
        return await asyncio.wrap_future(self._answer)

    def heard(self, heard: DecodedWindow) -> None:
        """Give the answer, which begins with the prefix letter for letter."""
        prefix = self._request.prefix
        more = ""
        if not heard.decoded.is_silence:
            tokens = heard.decoded.tokens[len(heard.job.prefix) :]
            more = self.model.text(tokens).rstrip("\ufffd")
        if not prefix or prefix[-1:].isspace():
            more = more.lstrip()
        with suppress(InvalidStateError):  # nobody waits any more
            self._answer.set_result(Hypothesis(prefix + more.rstrip(), heard.language))

    def failed(self, error: ServiceError) -> None:
        """Raise the error where the answer is awaited."""
        self.lane.close()
        with suppress(InvalidStateError):
            self._answer.set_exception(error)


class FasterWhisperEngine(BatchingEngine[Checkpoint, Job]):
    """One Whisper model; see `TranscriptionEngine` for what is promised."""

    name = "faster_whisper"

    def __init__(
        self,
        *,
        model: str = "tiny",
        revision: str = "",
        cache: str = "",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        compute_type: str = "default",
        threads: int = 0,
        batch: int = 8,
        beam_size: int = 5,
    ) -> None:
        """Check that it can work; nothing heavy is imported or loaded before `start`.

        Raises:
            ConfigurationError: `model` is not a size, a hub id or a directory.
        """
        how = {"compute_type": compute_type, "threads": threads or len(os.sched_getaffinity(0))}
        folder = Path(cache).expanduser() if cache else None
        loader = Loader(model, revision, folder, device=device, **how)
        self.models: Sequence[str] = loader.names
        self._batch = batch
        self._beam_size = beam_size
        super().__init__(loader, kind=lambda job: job.kind, most=batch)

    @property
    def languages(self) -> Collection[str]:
        """The codes of the model's languages; none before it is loaded."""
        model = self._loader.model
        return model.languages if model else frozenset()

    @property
    def translates(self) -> bool:
        """Whether the model was trained to translate into English."""
        model = self._loader.model
        can = model.is_multilingual if model else True
        return can and not any(
            part in Path(name).name.lower() for name in self.models for part in _ONLY_TRANSCRIBE
        )

    def check(self, request: TranscriptionRequest | GuessRequest) -> None:
        """Raise unless the model can do this; see `TranscriptionEngine.check`."""
        self._loaded()
        check_request(self, request)

    async def transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[Segment, None]:
        """Yield what was said, segment by segment; see `TranscriptionEngine.transcribe`."""
        self.check(request)
        # Twice as many windows as a batch: the next is cut while one is decoded.
        handover: Handover[tuple[list[Segment], bool]] = Handover()
        hearing = Recording(*self._loaded(), request, handover, 2 * self._batch)
        reading = asyncio.ensure_future(in_daemon(hearing.read))
        try:
            with self._at_work(hearing):
                async with aclosing(handover.items()) as found:
                    async for segments, ends_window in found:
                        for segment in segments:
                            yield segment
                        if ends_window:
                            hearing.taken()
        finally:
            await reading

    async def guess(self, request: GuessRequest) -> Hypothesis:
        """Return what an unfinished turn seems to say; see `TranscriptionEngine.guess`."""
        self.check(request)
        model, batches = self._loaded()
        with self._at_work(Guess(model, batches, request)) as guess:
            features = await asyncio.to_thread(model.features, request.samples)
            return await guess.answer(features)

    def _hear(self, jobs: list[Job]) -> None:
        if (model := self._loader.model) is not None:  # else `close` tells the requesters
            Decoder(model, self._beam_size).hear(jobs)
