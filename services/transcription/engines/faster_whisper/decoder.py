"""How a batch of windows is decoded and becomes segments, as in faster-whisper.

A window whose text repeats itself or is unlikely is decoded again in another batch, at a higher
temperature.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from services.errors import EngineError, ServiceError
from services.transcription.engines.batches import Lane
from services.transcription.engines.faster_whisper.checkpoint import (
    FRAMES_PER_S,
    Checkpoint,
    Decoded,
    Features,
)
from services.transcription.engines.protocol import Hints, Segment, Task, Token, Word
from services.transcription.engines.windows import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray


log = logging.getLogger("bentovox.transcription")

FALLBACK: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The temperatures at which a window is decoded until the text is good enough."""

_LEAST_REST: Final = 10  # frames, a tenth of a second: less is not decoded again
_MOST_ROUNDS: Final = 8


@dataclass(frozen=True)
class DecodingOptions:
    """How a request wants its windows to be decoded."""

    task: Task
    before: tuple[int, ...]  # tokens of what came before
    languages: frozenset[str]  # those to choose from
    temperatures: tuple[float, ...] = FALLBACK  # to try one after the other
    times: bool = True  # with tokens of times and a beam; otherwise greedily


@dataclass(frozen=True)
class Job:
    """A window to decode."""

    requester: Requester  # whose window it is
    features: Features  # its spectrogram
    timeline: Timeline = Timeline(((0, 0),), 0)  # noqa: RUF009  frozen
    index: int = 0  # which of its requester's windows it is
    offset: int = 0  # the frames of the window that were decoded before and are not in `features`
    prefix: tuple[int, ...] = ()  # the tokens that the text is known to begin with
    attempts: tuple[Decoded, ...] = ()  # the results at lower temperatures
    encoded: NDArray[np.float32] | None = None  # the encoder's output, if there were such attempts
    rounds: int = 0  # how many times the end of the window was left for another round
    tells: bool = True  # whether somebody speaks in it, so that its language is the recording's
    language: str | None = None  # its language, if it was decoded before

    @property
    def temperature(self) -> float:
        """The temperature to decode at."""
        return self.requester.options.temperatures[len(self.attempts)]

    @property
    def kind(self) -> Hashable:
        """Equal for jobs that can be decoded together."""
        options = self.requester.options
        return options.times, len(options.before), self.temperature, self.encoded is None


@dataclass(frozen=True)
class DecodedWindow:
    """The result of a job: its text, the encoder's output [1, 1500, width], and its language."""

    job: Job
    decoded: Decoded
    encoded: NDArray[np.float32]
    language: str


class Requester(ABC):
    """Whoever's windows are decoded; its methods are called from the decoding thread."""

    def __init__(self, model: Checkpoint, lane: Lane[Job], request: Hints, **how: Any) -> None:
        self.model = model
        self.lane = lane  # takes its jobs
        self.language = request.language  # what is spoken, once that is known
        self.options = DecodingOptions(
            before=tuple(model.before(request.prompt, request.keywords)),
            languages=frozenset(request.languages) or model.languages,
            **how,
        )

    @abstractmethod
    def heard(self, heard: DecodedWindow) -> None:
        """Take the result of a job."""

    @abstractmethod
    def failed(self, error: ServiceError) -> None:
        """Learn that the model failed."""


class Decoder:
    """Decodes batches with one model."""

    def __init__(self, model: Checkpoint, beam_size: int) -> None:
        self._model = model
        self._beam_size = beam_size

    def hear(self, jobs: Sequence[Job]) -> None:
        """Decode jobs of one kind, and give each requester its own result; raises nothing.

        A batch that fails is halved: it may be too large for the memory, or one window's fault.
        """
        try:
            decoded, encoded, languages = self._decode(jobs)
        except Exception as error:
            if len(jobs) == 1:
                _fail(jobs[0], error)
                return
            log.warning("a batch of %d windows failed and is halved", len(jobs), exc_info=error)
            middle = len(jobs) // 2
            self.hear(jobs[:middle])
            self.hear(jobs[middle:])
            return
        for index, (job, one) in enumerate(zip(jobs, decoded, strict=True)):
            try:
                self._settle(job, one, encoded[index : index + 1], languages[index])
            except Exception as error:  # noqa: BLE001  raised where the segments are awaited
                _fail(job, error)

    def _decode(self, jobs: Sequence[Job]) -> tuple[list[Decoded], NDArray[np.float32], list[str]]:
        known = [job.encoded for job in jobs if job.encoded is not None]
        if len(known) == len(jobs):
            encoded = np.concatenate(known)
        else:
            encoded = self._model.encode([job.features for job in jobs])
        languages = self._languages(jobs, encoded)
        prompts = []
        for job, language in zip(jobs, languages, strict=True):
            options = job.requester.options
            begin = self._model.prompt(options.before, language, options.task, times=options.times)
            prompts.append([*begin, *job.prefix])
        beam_size = self._beam_size if jobs[0].requester.options.times else 1
        decoded = self._model.generate(
            encoded, prompts, temperature=jobs[0].temperature, beam_size=beam_size
        )
        return decoded, encoded, languages

    def _languages(self, jobs: Sequence[Job], encoded: NDArray[np.float32]) -> list[str]:
        """Return each window's language: its requester's, or else what it sounds like itself."""
        languages = [job.language or job.requester.language for job in jobs]
        if None not in languages:
            return [language or "" for language in languages]
        found = []
        every = self._model.language_chances(encoded)
        for job, language, chances in zip(jobs, languages, every, strict=True):
            # In a fixed order: where chances are equal, the first one wins.
            among = sorted(job.requester.options.languages)
            found.append(language or max(among, key=lambda code: chances.get(code, 0.0)))
            if job.tells:
                job.requester.language = found[-1]
        return found

    def _settle(
        self, job: Job, decoded: Decoded, encoded: NDArray[np.float32], language: str
    ) -> None:
        attempts = (*job.attempts, decoded)
        if (decoded.repeats or decoded.is_unlikely) and not decoded.is_silence:
            if len(attempts) < len(job.requester.options.temperatures):
                again = replace(job, attempts=attempts, encoded=encoded.copy(), language=language)
                job.requester.lane.put(again, first=True)
                return
            good = [one for one in attempts if not one.repeats] or attempts
            decoded = max(good, key=lambda one: one.avg_logprob)
        job.requester.heard(DecodedWindow(job, decoded, encoded, language))


def _fail(job: Job, error: Exception) -> None:
    log.error("Whisper failed", exc_info=error)
    told = EngineError("Whisper failed", code="engine_failed")
    told.__cause__ = error
    job.requester.failed(told)


def segments(
    model: Checkpoint, heard: DecodedWindow, *, words: bool, logprobs: bool
) -> tuple[list[Segment], int]:
    """Return a window's segments, and the frame from which it has to be decoded again.

    That is its last frame, unless the window ended in words without their last time.
    """
    job, decoded, encoded, language = heard.job, heard.decoded, heard.encoded, heard.language
    task, timeline = job.requester.options.task, job.timeline
    frames = job.features.shape[1]
    if decoded.is_silence:
        return [], frames
    found, seek = model.split(decoded.tokens, language, task, frames)
    if not 0 < seek <= frames - _LEAST_REST or job.rounds >= _MOST_ROUNDS:
        count = sum(len(one["tokens"]) for one in found)
        if 0 <= seek < frames and count < len(decoded.tokens):
            # What follows the last time is a segment that ends with the window.
            start = found[-1]["end"] if found else 0.0
            end = max(frames / FRAMES_PER_S, start)
            rest = {"seek": 0, "start": start, "end": end, "tokens": list(decoded.tokens[count:])}
            found = [*found, rest]
        seek = frames
    # Judged by the model's own times: those of words may coincide where there is text.
    found = [
        one for one in found if one["start"] != one["end"] and model.text(one["tokens"]).strip()
    ]
    if words and found:
        model.add_words(found, encoded, language, task, frames)
        _keep_apart(found)
    chances: Iterator[float] = iter(())
    if logprobs:
        spoken = [token for one in found for token in one["tokens"] if model.is_text(token)]
        chances = iter(model.logprobs(spoken, encoded, language, task, frames))
    offset_s = job.offset / FRAMES_PER_S
    made = []
    for one in found:
        spoken = [token for token in one["tokens"] if model.is_text(token)]
        placed = [
            Word(*timeline.inside_s(offset_s + word["start"], offset_s + word["end"]), word["word"])
            for word in one.get("words", ())
        ]
        if placed:
            start_s, end_s = placed[0].start_s, placed[-1].end_s
        else:
            begin_s, stop_s = offset_s + one["start"], offset_s + one["end"]
            if begin_s < timeline.duration_s:  # no segment ends after the audio
                stop_s = min(stop_s, timeline.duration_s)
            start_s, end_s = timeline.start_s(begin_s), timeline.end_s(stop_s)
        made.append(
            Segment(
                start_s=start_s,
                end_s=end_s,
                text=model.text(spoken),
                language=language,
                tokens=tuple(one["tokens"]),
                avg_logprob=decoded.avg_logprob,
                compression_ratio=decoded.compression_ratio,
                no_speech_prob=decoded.no_speech_prob,
                temperature=decoded.temperature,
                seek=round(timeline.start_s(offset_s) * FRAMES_PER_S),
                words=placed,
                logprobs=[
                    Token(model.text([token]), model.data(token), chance)
                    for token, chance in zip(spoken, chances, strict=False)
                ],
            )
        )
    return made, seek


def _keep_apart(found: list[dict[str, Any]]) -> None:
    """Let no word begin before the one before it ends, as the library's corrections may do."""
    end = 0.0
    for word in (word for one in found for word in one["words"]):
        word["start"] = max(word["start"], end)
        word["end"] = end = max(word["end"], word["start"])
