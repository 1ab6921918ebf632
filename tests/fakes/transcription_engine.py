"""A transcription engine for tests: it hears the tones that `tests.fakes.speech_engine` plays.

A tenth of a second of 200 + 10 * k Hz is the character 64 + k, or a space if k = 32, so that the
letters a to z and spaces come back as they were spoken.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Final

import numpy as np

from services.errors import EngineError, UnavailableError
from services.tasks import Handover, in_daemon
from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    VAD_FRAME_SAMPLES,
    Hypothesis,
    Segment,
    Token,
    TranscriptionRequest,
    Word,
    check_request,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence

    from services.audio.pcm import Samples
    from services.transcription.engines.protocol import GuessRequest

_CHARACTER: Final = SAMPLE_RATE_HZ // 10
_LOUD: Final = 0.01
_LOWEST_HZ: Final = 200
_STEP_HZ: Final = 10
_KINDS: Final = 64
_SPACE: Final = 32
_PAUSE_CHARACTERS: Final = 3


class FakeEngine:
    """Hears one character per tenth of a second; 0.3 s of silence end a segment.

    Translations are in capitals. It sleeps `delay_s` before each segment and guess, and breaks off
    with an `EngineError` at a segment with the text `fail_at`. With `wavering`, the last letter of
    each guess differs from that of the guess before.
    """

    name = "fake"
    languages = frozenset({"de", "en", "fr"})

    def __init__(
        self,
        *,
        delay_s: float = 0.0,
        fail_at: str | None = None,
        wavering: bool = False,
        translates: bool = True,
        ready: bool = True,
    ) -> None:
        """Make an engine that is not started; `ready` false leaves it without a model for ever."""
        self.models: Sequence[str] = ("fake",)
        self.delay_s = delay_s
        self.fail_at = fail_at
        self.wavering = wavering
        self.translates = translates
        self.ready = False
        self.settled = False
        self.active = 0
        self.requests: list[TranscriptionRequest | GuessRequest] = []
        self._will_be_ready = ready

    @property
    def status(self) -> str:
        """Say what it is doing."""
        return "ready" if self.ready else "no model: this engine was told to have none"

    async def start(self) -> None:
        """Be ready, or settled."""
        self.ready = self._will_be_ready
        self.settled = not self.ready

    async def close(self) -> None:
        """Be ready no more."""
        self.ready = False

    def check(self, request: TranscriptionRequest | GuessRequest) -> None:
        """Return if it is ready and can do it; see `TranscriptionEngine.check`."""
        if not self.ready:
            raise UnavailableError(self.status, retry_after_s=1.0)
        check_request(self, request)

    async def transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[Segment, None]:
        """Yield a segment for each stretch of sound; see `TranscriptionEngine.transcribe`."""
        self.check(request)
        self.requests.append(request)
        self.active += 1
        handover: Handover[Segment] = Handover()

        def hear() -> None:
            try:
                for segment in _segments(request):
                    if not handover.put(segment):
                        break
            except Exception as error:  # noqa: BLE001  raised where it is awaited
                handover.end(error)
            else:
                handover.end()

        hearing = asyncio.ensure_future(in_daemon(hear))
        try:
            async with aclosing(handover.items()) as segments:
                async for segment in segments:
                    await asyncio.sleep(self.delay_s)
                    if self.fail_at is not None and self.fail_at in segment.text:
                        raise EngineError("the fake engine fails on request", code="engine_failed")
                    yield segment
        finally:
            handover.close()
            while not hearing.done():  # also when it is cancelled a second time meanwhile
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(hearing)
            self.active -= 1

    async def guess(self, request: GuessRequest) -> Hypothesis:
        """Return what was heard up to now; see `TranscriptionEngine.guess`."""
        self.check(request)
        self.requests.append(request)
        self.active += 1
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.active -= 1
        text = " ".join(_text(_characters([request.samples])).split())
        if self.wavering and text:
            text = text[:-1] + "xyz"[len(self.requests) % 3]
        return Hypothesis(request.prefix + text[len(request.prefix) :], request.language or "en")

    def detector(self) -> FakeDetector:
        """Return a fresh detector."""
        return FakeDetector()


class FakeDetector:
    """Takes any loud sound for speech."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, dtype=np.float32)

    def feed(self, samples: Samples) -> list[float]:
        """Return 1.0 for each loud frame and 0.0 for the others."""
        self._rest = np.concatenate([self._rest, samples])
        count = self._rest.size // VAD_FRAME_SAMPLES
        frames, self._rest = np.split(self._rest, [count * VAD_FRAME_SAMPLES])
        return [
            float(np.abs(frame).max() > _LOUD) for frame in frames.reshape(-1, VAD_FRAME_SAMPLES)
        ]


def _segments(request: TranscriptionRequest) -> Iterator[Segment]:
    heard: list[str] = []
    begin = silent = index = 0
    for index, character in enumerate(_characters(request.audio)):
        silent = 0 if character else silent + 1
        if character and not heard:
            begin = index
        if character or heard:
            heard.append(character)
        if heard and silent >= _PAUSE_CHARACTERS:
            yield _segment(begin, heard[:-silent], request)
            heard = []
    if heard:
        yield _segment(begin, heard[: len(heard) - silent], request)


def _segment(begin: int, heard: list[str], request: TranscriptionRequest) -> Segment:
    text = " " + _text(heard).strip()
    if request.task == "translate":
        text = text.upper()
    return Segment(
        start_s=begin / 10,
        end_s=(begin + len(heard)) / 10,
        text=text,
        language=request.language or (request.languages or ("en",))[0],
        tokens=[ord(character) for character in text],
        avg_logprob=-0.1,
        temperature=request.temperature,
        seek=begin * 10,
        words=_words(begin, text) if request.words else (),
        logprobs=[Token(one, one.encode(), -0.1) for one in text] if request.logprobs else (),
    )


def _words(begin: int, text: str) -> list[Word]:
    words = []
    place = begin - 1  # the text begins with a space that is not heard
    for word in text.removeprefix(" ").split(" "):
        place += 1
        words.append(Word(place / 10, (place + len(word)) / 10, f" {word}"))
        place += len(word)
    return words


def _text(characters: Iterable[str]) -> str:
    return "".join(character or " " for character in characters)


def _characters(audio: Iterable[Samples]) -> Iterator[str]:
    """Yield the character of each tenth of a second, empty for silence."""
    rest = np.zeros(0, dtype=np.float32)
    for piece in audio:
        rest = np.concatenate([rest, piece])
        while rest.size >= _CHARACTER:
            frame, rest = rest[:_CHARACTER], rest[_CHARACTER:]
            yield _character(frame)


def _character(frame: Samples) -> str:
    if np.abs(frame).max() < _LOUD:
        return ""
    # A tenth of a second: bins are 10 Hz apart, as the tones are.
    loudest = int(np.abs(np.fft.rfft(frame)).argmax())
    kind = (loudest - _LOWEST_HZ // _STEP_HZ) % _KINDS
    return " " if kind == _SPACE else chr(_KINDS + kind)
