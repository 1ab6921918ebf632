"""How a batch of windows is decoded: language, temperature, silence; as faster-whisper does by one.

A window whose text repeats itself or is unlikely is heard again, hotter, in another batch.
"""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from services.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from services.transcription.engines.faster_whisper.checkpoint import (
        Checkpoint,
        Decoded,
        Features,
    )
    from services.transcription.engines.protocol import Segment, Task

log = logging.getLogger("bentovox.transcription")

FALLBACK: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The temperatures that a window is decoded at, until one is good enough."""

_MOST_COMPRESSION: Final = 2.4
_LEAST_LOGPROB: Final = -1.0
_MOST_NO_SPEECH: Final = 0.6


@dataclass(frozen=True)
class DecodingOptions:
    """What a request wants of each of its windows.

    Attributes:
        task: as in the request.
        before: tokens of what came before.
        temperatures: those to decode at, one after the other.
        times: with tokens of times and a beam; without, greedily.
        languages: those to choose from.
    """

    task: Task
    before: tuple[int, ...]
    languages: frozenset[str]
    temperatures: tuple[float, ...] = FALLBACK
    times: bool = True


@dataclass(frozen=True)
class Attempt:
    """A window's text at one temperature."""

    temperature: float
    decoded: Decoded
    compression_ratio: float

    @property
    def is_unlikely(self) -> bool:
        """Whether its tokens are improbable."""
        return self.decoded.avg_logprob < _LEAST_LOGPROB

    @property
    def is_silence(self) -> bool:
        """Whether nobody spoke."""
        return self.decoded.no_speech_prob > _MOST_NO_SPEECH and self.is_unlikely

    @property
    def repeats(self) -> bool:
        """Whether it says the same again and again."""
        return self.compression_ratio > _MOST_COMPRESSION


@dataclass(frozen=True)
class Job:
    """A window to hear.

    Attributes:
        requester: whose it is.
        features: its spectrogram.
        index: which of its requester's windows it is.
        offset: the frames of the window that were heard before and are not in `features`.
        before: the segments that they were heard as.
        prefix: the tokens that its text is known to begin with.
        attempts: what it was decoded to at lower temperatures.
        encoded: the encoder's output, where it is known from those.
        rounds: how many times its end was left for another round.
        tells: whether somebody speaks in it, so that its language is the recording's.
        language: what it was heard in before, where it is heard again.
    """

    requester: Requester
    features: Features
    index: int = 0
    offset: int = 0
    before: tuple[Segment, ...] = ()
    prefix: tuple[int, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    encoded: NDArray[np.float32] | None = None
    rounds: int = 0
    tells: bool = True
    language: str | None = None

    @property
    def temperature(self) -> float:
        """What it is decoded at."""
        return self.requester.options.temperatures[len(self.attempts)]

    @property
    def kind(self) -> Hashable:
        """What jobs share that are decoded together."""
        options = self.requester.options
        return options.times, len(options.before), self.temperature, self.encoded is None


@dataclass(frozen=True)
class DecodedWindow:
    """What became of a job: its text, the encoder's output [1, 1500, width], and its language."""

    job: Job
    text: Attempt
    encoded: NDArray[np.float32]
    language: str


class Requester(Protocol):
    """Whose windows are heard; its methods are called from the thread that hears.

    Attributes:
        options: how they are decoded.
        language: what is spoken, once it is known.
    """

    options: DecodingOptions
    language: str | None

    def again(self, job: Job) -> None:
        """Have a job of its own done, before its others."""
        ...

    def heard(self, heard: DecodedWindow) -> None:
        """Take what a window was decoded to."""
        ...

    def failed(self, error: EngineError) -> None:
        """Take that the model failed."""
        ...


class Decoder:
    """Hears batches with one model."""

    def __init__(self, model: Checkpoint, beam_size: int) -> None:
        """Keep the model."""
        self._model = model
        self._beam_size = beam_size

    def hear(self, jobs: Sequence[Job]) -> None:
        """Hear windows of one kind, and give each requester its own; raises nothing.

        A batch that fails is halved: it may be too large for the memory, or one window's fault.
        """
        try:
            decoded, encoded, languages = self._decode(jobs)
        except Exception as error:
            if len(jobs) > 1:
                log.warning("a batch of %d windows failed and is halved", len(jobs), exc_info=error)
                middle = len(jobs) // 2
                self.hear(jobs[:middle])
                self.hear(jobs[middle:])
                return
            _fail(jobs[0], error)
            return
        for index, (job, one) in enumerate(zip(jobs, decoded, strict=True)):
            try:
                self._settle(job, one, encoded[index : index + 1], languages[index])
            except Exception as error:  # noqa: BLE001  it is raised where the segments are awaited
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
        """Return each window's language: its requester's, or what it sounds like itself."""
        languages = [job.language or job.requester.language for job in jobs]
        if None not in languages:
            return [language or "" for language in languages]
        found = []
        every = self._model.language_chances(encoded)
        for job, language, chances in zip(jobs, languages, every, strict=True):
            # In an order that hangs on nothing: where chances are the same, the first one wins.
            among = sorted(job.requester.options.languages)
            found.append(language or max(among, key=lambda code: chances.get(code, 0.0)))
            if job.tells:
                job.requester.language = found[-1]
        return found

    def _settle(
        self, job: Job, decoded: Decoded, encoded: NDArray[np.float32], language: str
    ) -> None:
        text = self._model.text(decoded.tokens).strip()
        last = Attempt(job.temperature, decoded, compression_ratio(text))
        attempts = (*job.attempts, last)
        if (last.repeats or last.is_unlikely) and not last.is_silence:
            if len(attempts) < len(job.requester.options.temperatures):
                job.requester.again(
                    replace(job, attempts=attempts, encoded=encoded.copy(), language=language)
                )
                return
            good = [one for one in attempts if not one.repeats] or attempts
            last = max(good, key=lambda one: one.decoded.avg_logprob)
        job.requester.heard(DecodedWindow(job, last, encoded, language))


def compression_ratio(text: str) -> float:
    """Return how much shorter a text is compressed."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _fail(job: Job, error: Exception) -> None:
    log.error("Whisper failed", exc_info=error)
    told = EngineError("Whisper failed", code="engine_failed")
    told.__cause__ = error
    job.requester.failed(told)
