"""Pocketsphinx as a transcription engine: it needs no download, and misses many words.

US English in small letters, without punctuation. One thread decodes; requests take turns by the
window, and live speech goes first. Prompts, keywords and the temperature change nothing.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from services.audio.pcm import Samples
from services.errors import InvalidRequestError
from services.loading import Loading
from services.transcription.engines import protocol
from services.transcription.engines.batches import BatchingEngine, cut
from services.transcription.engines.windows import SileroDetector, Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray


log = logging.getLogger("bentovox.transcription")

_LANGUAGE: Final = "en"
_PAUSE_S: Final = 0.5  # ends a segment
# The library holds Python's lock while it works, so sound is fed in short pieces, between which
# others get their turn.
_PIECE: Final = protocol.SAMPLE_RATE_HZ // 25  # takes it some 10 ms
_LEVEL: Final = 0.7  # of the loudest sample
# The model knows recorded speech, which is never as quiet as a synthetic voice's pauses.
_NOISE: Final = 0.002
_MEASURED: Final = 5 * protocol.SAMPLE_RATE_HZ
_MEASURINGS: Final = 3  # each brings the mean half of the way or more
_WORD: Final = re.compile(r"[a-z'.-]+")  # fillers are <sil> and [NOISE]
_FRAMES_PER_S: Final = 100
_LEAST_CHANCE: Final = 1e-10


@dataclass(frozen=True)
class Said:
    """A word, its times in seconds of what was decoded, and the logarithm of its probability."""

    text: str
    start_s: float
    end_s: float
    logprob: float


class Decoder:
    """Decodes one stretch of speech at a time."""

    def __init__(self) -> None:
        """Load the model, which takes a second."""
        import pocketsphinx  # noqa: PLC0415  heavy

        # Without the second pass at the end of an utterance, which cannot be cut short.
        self._decoder: Any = pocketsphinx.Decoder(loglevel="FATAL", fwdflat=False)
        self._words = self._decoder.current_search()
        # Any phrase does: looking for one is a cheap way to have the sound measured.
        self._decoder.add_keyphrase("measure", "hello")

    def words(self, samples: Samples, is_wanted: Callable[[], bool]) -> list[Said]:
        """Return the words that are said in float32 [N] at `SAMPLE_RATE_HZ`.

        Once `is_wanted` returns False, it stops.
        """
        sound = _prepared(samples)
        if not sound.size:
            return []
        # The mean of the spectrum, which depends on voice and microphone, is to be known before the
        # first word: it is measured, beginning at the usual one and not at that of another voice.
        self._decoder.reinit_feat()
        self._decoder.activate_search("measure")
        for _ in range(_MEASURINGS):
            self._feed(sound[:_MEASURED], is_wanted)
        self._decoder.activate_search(self._words)
        self._feed(sound, is_wanted)
        return [*self._found()] if is_wanted() else []

    def _feed(self, sound: NDArray[np.int16], is_wanted: Callable[[], bool]) -> None:
        self._decoder.start_utt()
        try:
            for begin in range(0, sound.size, _PIECE):
                if not is_wanted():
                    break
                self._decoder.process_raw(sound[begin : begin + _PIECE].tobytes())
        finally:
            self._decoder.end_utt()

    def _found(self) -> Iterator[Said]:
        for one in self._decoder.seg() or ():
            word = one.word.partition("(")[0]  # the number of the pronunciation follows
            if _WORD.fullmatch(word):
                start, end = one.start_frame, one.end_frame + 1
                logprob = math.log(max(min(one.prob, 1.0), _LEAST_CHANCE))
                yield Said(word, start / _FRAMES_PER_S, end / _FRAMES_PER_S, logprob)


def _prepared(samples: Samples) -> NDArray[np.int16]:
    """Return sound at the usual level, with a little noise, always the same."""
    loudest = float(np.abs(samples).max(initial=0.0))
    if not loudest:
        return np.zeros(0, dtype=np.int16)
    noise = np.random.default_rng(0).standard_normal(samples.size, dtype=np.float32)
    sound = samples * (_LEVEL / loudest) + _NOISE * noise
    return (np.clip(sound, -1, 1) * 32767).astype("<i2")


class _Loader(Loading[Decoder]):
    def _load(self) -> Decoder:
        self._tell("loading pocketsphinx")
        SileroDetector()  # live speech needs its model at once
        return Decoder()


@dataclass
class _Job:
    samples: Samples
    wanted: bool = True


class PocketsphinxEngine(BatchingEngine[Decoder, _Job, list[Said]]):
    """Hears US English without a download; see `TranscriptionEngine` for what is promised."""

    name = "pocketsphinx"
    models: Sequence[str] = ("pocketsphinx",)
    languages = frozenset({_LANGUAGE})
    translates = False

    def __init__(self) -> None:
        """Make it; nothing is loaded before `start`."""
        super().__init__("pocketsphinx", _Loader(log), lambda _: None, 1)

    def check(self, request: protocol.TranscriptionRequest | protocol.GuessRequest) -> None:
        """Raise unless it can do this; see `TranscriptionEngine.check`."""
        self._loaded()
        protocol.check_request(self, request)
        if isinstance(request, protocol.TranscriptionRequest) and request.logprobs:
            raise InvalidRequestError(
                "include logprobs: pocketsphinx has no tokens; leave it out",
                param="include",
                code="unsupported_value",
            )

    async def transcribe(
        self, request: protocol.TranscriptionRequest
    ) -> AsyncGenerator[protocol.Segment, None]:
        """Yield what was said, segment by segment; see `TranscriptionEngine.transcribe`."""
        self.check(request)
        lane = object()
        async with aclosing(cut(request, lambda *window: window)) as found:
            async for samples, timeline in found:
                said = await self._said(samples, lane)
                for segment in _segments(said, timeline, words=request.words):
                    yield segment

    async def guess(self, request: protocol.GuessRequest) -> protocol.Hypothesis:
        """Return what an unfinished turn seems to say; see `TranscriptionEngine.guess`.

        It cannot be told how the text begins: as many words as the prefix has are left out.
        """
        self.check(request)
        said = await self._said(request.samples, object(), urgent=True)
        known = request.prefix.rstrip()
        more = [one.text for one in said[len(known.split()) :]]
        return protocol.Hypothesis(" ".join([known, *more]) if known else " ".join(more), _LANGUAGE)

    async def _said(self, samples: Samples, lane: object, *, urgent: bool = False) -> list[Said]:
        job = _Job(samples)
        try:
            return await self._loaded()[1].done(lane, job, urgent=urgent)
        finally:
            job.wanted = False

    def _hear(self, model: Decoder, jobs: list[_Job]) -> list[list[Said]]:
        return [model.words(job.samples, lambda: job.wanted) for job in jobs]  # noqa: B023


def _segments(said: list[Said], timeline: Timeline, *, words: bool) -> Iterator[protocol.Segment]:
    """Yield a window's segments, cut at pauses, at their times in the recording."""
    placed = [(one, *timeline.inside_s(one.start_s, one.end_s)) for one in said]
    begin = 0
    for index in range(1, len(placed) + 1):
        if index < len(placed) and placed[index][1] - placed[index - 1][2] < _PAUSE_S:
            continue
        part, begin = placed[begin:index], index
        found = [protocol.Word(start, end, f" {one.text}") for one, start, end in part]
        yield protocol.Segment(
            start_s=found[0].start_s,
            end_s=found[-1].end_s,
            text="".join(word.text for word in found),
            language=_LANGUAGE,
            avg_logprob=sum(one.logprob for one, _, _ in part) / len(part),
            seek=round(100 * timeline.start_s(0)),
            words=found if words else (),
        )
