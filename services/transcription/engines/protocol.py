"""What the transcription role asks of an engine, and nothing about HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from services.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterable, Sequence

    from services.audio.pcm import Samples

SAMPLE_RATE_HZ: Final = 16_000
"""The rate that every engine hears at."""

VAD_FRAME_SAMPLES: Final = 512
"""What a `SpeechDetector` judges at once: 32 ms."""

WINDOW_S: Final = 30.0
"""The longest piece that a model hears at once."""

Task: TypeAlias = Literal["transcribe", "translate"]


@dataclass(frozen=True)
class Cutting:
    """How pauses are found, as OpenAI's `server_vad` has it.

    Attributes:
        threshold: probability of speech from which a frame counts as speech, 0 to 1.
        prefix_padding_ms: how much is kept before speech.
        silence_duration_ms: how long a silence ends it.
    """

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 200


SPEECH_ONLY: Final = Cutting(prefix_padding_ms=400, silence_duration_ms=2000)
"""How recordings are cut unless a request says otherwise: as faster-whisper's `vad_filter` does.

https://github.com/SYSTRAN/faster-whisper, `VadOptions`. A model makes words of silence and noise.
"""


@dataclass(frozen=True)
class TranscriptionRequest:
    """What to hear, and how.

    Attributes:
        audio: mono float32 pieces at `SAMPLE_RATE_HZ`, of any sizes; iterated once, in a thread,
            as far as the engine has come. What it raises ends the transcription.
        task: `translate` puts it into English.
        language: ISO 639-1 (or Whisper's own code, such as `yue`); None to detect it.
        languages: those to choose from when it is detected; empty for all.
        prompt: what came before, or how to write.
        keywords: words that are likely.
        temperature: of sampling; 0 means greedy, and hotter where that fails.
        words: whether words are wanted with their times.
        logprobs: whether each token's probability is wanted.
        cutting: how to leave silence out and where to cut; None hears everything, noise too, and
            cuts what is longer than a window at its pauses.
    """

    audio: Iterable[Samples]
    task: Task = "transcribe"
    language: str | None = None
    languages: tuple[str, ...] = ()
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    temperature: float = 0.0
    words: bool = False
    logprobs: bool = False
    cutting: Cutting | None = None


@dataclass(frozen=True)
class Word:
    """A word with its times in seconds; `text` may begin with a space."""

    start_s: float
    end_s: float
    text: str
    probability: float


@dataclass(frozen=True)
class Token:
    """A token of text and the logarithm of its probability; `data` may be part of a character."""

    text: str
    data: bytes
    logprob: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech and what was said in it; times are seconds of the whole audio.

    Attributes:
        text: what was said; segments joined as they are give the whole text.
        language: code of the language spoken.
        tokens: the model's token ids of `text`.
        avg_logprob: mean logarithm of the tokens' probability.
        compression_ratio: of the text by gzip; high where it repeats itself.
        no_speech_prob: probability that nobody spoke.
        temperature: at which it was decoded in the end.
        seek: where the window began, in hundredths of a second.
        words: with times, where they were asked for.
        logprobs: a `Token` each, where they were asked for.
    """

    start_s: float
    end_s: float
    text: str
    language: str
    tokens: Sequence[int] = ()
    avg_logprob: float = 0.0
    compression_ratio: float = 1.0
    no_speech_prob: float = 0.0
    temperature: float = 0.0
    seek: int = 0
    words: Sequence[Word] = ()
    logprobs: Sequence[Token] = ()


@dataclass(frozen=True)
class Hypothesis:
    """What a speaker who has not finished seems to have said; see `TranscriptionEngine.guess`."""

    text: str
    language: str


@dataclass(frozen=True)
class GuessRequest:
    """A speaker's unfinished turn.

    Attributes:
        samples: mono float32 [N] at `SAMPLE_RATE_HZ`, at most `WINDOW_S`.
        prefix: the text that it is known to begin with; the answer continues it.
        language: as in `TranscriptionRequest`, likewise `languages`, `prompt` and `keywords`.
    """

    samples: Samples
    prefix: str = ""
    language: str | None = None
    languages: tuple[str, ...] = ()
    prompt: str = ""
    keywords: tuple[str, ...] = field(default=())


class SpeechDetector(Protocol):
    """Tells speech from silence in one stream of audio."""

    def feed(self, samples: Samples) -> Sequence[float]:
        """Take float32 [N] at `SAMPLE_RATE_HZ`; return P(speech) of each frame that is whole now.

        A frame is `VAD_FRAME_SAMPLES`; what is left over waits for the next call. Takes well under
        a millisecond a frame, so that the event loop may call it.
        """
        ...


class TranscriptionEngine(Protocol):
    """Hears recordings and live speech.

    Attributes:
        name: of the engine.
        models: the names of the model that it holds.
    """

    name: str
    models: Sequence[str]

    @property
    def languages(self) -> Collection[str]:
        """The codes of the languages that it hears."""
        ...

    @property
    def translates(self) -> bool:
        """Whether it can put speech into English."""
        ...

    @property
    def ready(self) -> bool:
        """Whether it can hear now."""
        ...

    @property
    def status(self) -> str:
        """What it is doing, in a few words: `downloading 43 %`, or how to get a model."""
        ...

    @property
    def settled(self) -> bool:
        """Whether it is left without a model for now, so that nobody needs to wait for it."""
        ...

    async def start(self) -> None:
        """Begin to load the model, and return; `ready` says when it is there."""
        ...

    async def close(self) -> None:
        """End what is under way."""
        ...

    def check(self, request: TranscriptionRequest | GuessRequest) -> None:
        """Raise unless the engine can do this; looks at no audio.

        Raises:
            InvalidRequestError: a language, task or option that the model lacks.
            UnavailableError: not ready; the message says how to get a model.
        """
        ...

    def transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[Segment, None]:
        """Yield what was said, segment by segment, as soon as each is known.

        Closing the generator ends the work. Memory does not grow with the audio's length.

        Raises:
            ServiceError: as for `check`, or what reading `audio` raised.
            EngineError: the model failed.
        """
        ...

    async def guess(self, request: GuessRequest) -> Hypothesis:
        """Return what an unfinished turn seems to say, quickly and without times.

        Raises:
            ServiceError: as for `transcribe`.
        """
        ...

    def detector(self) -> SpeechDetector:
        """Return a fresh detector; there may be many."""
        ...


def check_request(
    engine: TranscriptionEngine, request: TranscriptionRequest | GuessRequest
) -> None:
    """Raise unless the engine supports the request's task and languages.

    Raises:
        InvalidRequestError: it does not (`unsupported_value`, `unsupported_language`).
    """
    named = [("language", request.language)] if request.language is not None else []
    for param, code in [*named, *(("languages", one) for one in request.languages)]:
        if code not in engine.languages:
            known = ", ".join(sorted(engine.languages))
            raise InvalidRequestError(
                f"{param} {code!r} is not a language of this model; it hears {known}",
                param=param,
                code="unsupported_language",
            )
    wants_english = isinstance(request, TranscriptionRequest) and request.task == "translate"
    if wants_english and not engine.translates:
        raise InvalidRequestError(
            f"{engine.models[0]} does not translate; use a multilingual model that does, such as "
            "small or large-v3",
            param="model",
            code="unsupported_value",
        )
