"""Pocketsphinx as a transcription engine: it needs no download, and misses many words.

US English in small letters, without punctuation. One thread decodes; requests take turns by the
window, and live speech goes first. Prompts, keywords and the temperature change nothing.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future, InvalidStateError
from contextlib import aclosing, closing, suppress
from typing import TYPE_CHECKING, Final

from services.errors import EngineError, InvalidRequestError, ServiceError, UnavailableError
from services.loading import Loading
from services.tasks import Handover, in_daemon
from services.transcription.engines.batches import Batches
from services.transcription.engines.detector import SileroDetector
from services.transcription.engines.pocketsphinx.decoder import Decoder, Said
from services.transcription.engines.protocol import (
    Hypothesis,
    Segment,
    TranscriptionRequest,
    Word,
    check_request,
)
from services.transcription.engines.windows import windows

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from services.audio.pcm import Samples
    from services.transcription.engines.protocol import GuessRequest, SpeechDetector
    from services.transcription.engines.windows import Timeline

log = logging.getLogger("bentovox.transcription")

_RETRY_S: Final = 10.0
_PAUSE_S: Final = 0.5  # ends a segment
_LANGUAGE: Final = "en"


class _Loader(Loading[Decoder]):
    def _load(self) -> Decoder:
        self._tell("loading pocketsphinx")
        SileroDetector()  # live speech needs its model at once
        return Decoder()


class PocketsphinxEngine:
    """Hears US English without a download; see `TranscriptionEngine` for what is promised."""

    name = "pocketsphinx"
    models: Sequence[str] = ("pocketsphinx",)
    languages = frozenset({_LANGUAGE})
    translates = False

    def __init__(self) -> None:
        """Make it; nothing is loaded before `start`."""
        self._loader = _Loader(log)
        self._batches: Batches[_Job] | None = None
        self._active: set[_Requester] = set()

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._loader.model is not None

    @property
    def status(self) -> str:
        """What it is doing."""
        return self._loader.status

    @property
    def settled(self) -> bool:
        """Whether the model could not be loaded."""
        return self._loader.settled

    async def start(self) -> None:
        """Load the model in the background; returns at once."""
        if self._batches is None:
            self._batches = Batches(self._hear, lambda _: None, 1)
            self._loader.start()

    async def close(self) -> None:
        """End all work, and free the model."""
        batches, self._batches = self._batches, None
        if batches is None:
            return
        self._loader.close()
        batches.close()
        for requester in tuple(self._active):
            requester.close()
        await in_daemon(batches.join)

    def check(self, request: TranscriptionRequest | GuessRequest) -> None:
        """Raise unless it can do this; see `TranscriptionEngine.check`."""
        self._running()
        check_request(self, request)
        if isinstance(request, TranscriptionRequest) and request.logprobs:
            raise InvalidRequestError(
                "include logprobs: pocketsphinx has no tokens; leave it out",
                param="include",
                code="unsupported_value",
            )

    async def transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[Segment, None]:
        """Yield what was said, segment by segment; see `TranscriptionEngine.transcribe`."""
        self.check(request)
        requester = _Requester(self._running())
        handover: Handover[Segment] = Handover()

        def read() -> None:
            try:
                cut = windows(request.audio, SileroDetector(), request.cutting)
                with closing(cut):  # type: ignore[type-var]
                    for window in cut:
                        said = requester.heard(window.samples).result()
                        for segment in _segments(said, window.timeline, words=request.words):
                            handover.put(segment)
            except BaseException as error:  # noqa: BLE001  raised where the segments are awaited
                handover.end(error)
            else:
                handover.end()

        self._active.add(requester)
        reading = asyncio.ensure_future(in_daemon(read))
        try:
            async with aclosing(handover.items()) as found:
                async for segment in found:
                    yield segment
        finally:
            self._active.discard(requester)
            requester.close()
            await reading

    async def guess(self, request: GuessRequest) -> Hypothesis:
        """Return what an unfinished turn seems to say; see `TranscriptionEngine.guess`.

        It cannot be told how the text begins: as many words as the prefix has are left out.
        """
        self.check(request)
        requester = _Requester(self._running(), urgent=True)
        self._active.add(requester)
        try:
            said = await asyncio.wrap_future(requester.heard(request.samples))
        finally:
            self._active.discard(requester)
            requester.close()
        known = request.prefix.rstrip()
        more = [one.text for one in said[len(known.split()) :]]
        return Hypothesis(" ".join([known, *more]) if known else " ".join(more), _LANGUAGE)

    def detector(self) -> SpeechDetector:
        """Return a new detector."""
        return SileroDetector()

    def _running(self) -> Batches[_Job]:
        if self._loader.model is None or self._batches is None:
            raise UnavailableError(self.status, retry_after_s=_RETRY_S)
        return self._batches

    def _hear(self, jobs: list[_Job]) -> None:
        model = self._loader.model
        for job in jobs:
            if model is None:  # then `close` tells the requesters
                continue
            try:
                said = model.words(job.samples, lambda: not job.answer.done())  # noqa: B023
            except Exception as error:
                log.exception("pocketsphinx failed")
                failed = EngineError("pocketsphinx failed", code="engine_failed")
                failed.__cause__ = error
                job.fail(failed)
            else:
                with suppress(InvalidStateError):  # nobody waits any more
                    job.answer.set_result(said)


class _Job:
    """Sound to decode, and its words once they are known."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.answer: Future[list[Said]] = Future()

    def fail(self, error: ServiceError) -> None:
        with suppress(InvalidStateError):
            self.answer.set_exception(error)


class _Requester:
    """Whoever waits for the decoder, with one job at a time."""

    def __init__(self, batches: Batches[_Job], *, urgent: bool = False) -> None:
        self._lane = batches.lane(urgent=urgent)
        self._job: _Job | None = None
        self._closed = False

    def heard(self, samples: Samples) -> Future[list[Said]]:
        """Return the words, once they are known; UnavailableError after `close`."""
        self._job = job = _Job(samples)
        self._lane.put(job)
        if self._closed:
            self.close()
        return job.answer

    def close(self) -> None:
        """Drop its job, also one that is being decoded."""
        self._closed = True
        self._lane.close()
        if self._job is not None:
            self._job.fail(UnavailableError("the transcription engine was closed"))


def _segments(said: list[Said], timeline: Timeline, *, words: bool) -> Iterator[Segment]:
    """Yield a window's segments, cut at pauses, at their times in the recording."""
    placed = [(one, *timeline.inside_s(one.start_s, one.end_s)) for one in said]
    begin = 0
    for index in range(1, len(placed) + 1):
        if index < len(placed) and placed[index][1] - placed[index - 1][2] < _PAUSE_S:
            continue
        part, begin = placed[begin:index], index
        found = [Word(round(start, 3), round(end, 3), f" {one.text}") for one, start, end in part]
        yield Segment(
            start_s=found[0].start_s,
            end_s=found[-1].end_s,
            text="".join(word.text for word in found),
            language=_LANGUAGE,
            avg_logprob=sum(one.logprob for one, _, _ in part) / len(part),
            seek=round(100 * timeline.start_s(0)),
            words=found if words else (),
        )
