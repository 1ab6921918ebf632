"""What a transcription engine does for the role; nothing here is about HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from services.errors import InvalidRequestError

if TYPE_CHECKING:
    from services.audio.pcm import Samples

SAMPLE_RATE_HZ: Final = 16_000
"""The rate of all audio that engines take."""

VAD_FRAME_SAMPLES: Final = 512
"""The frame that a `SpeechDetector` judges: 32 ms."""

WINDOW_S: Final = 30.0
"""The longest audio that a model decodes at once."""

Task: TypeAlias = Literal["transcribe", "translate"]


@dataclass(frozen=True)
class Cutting:
    """How pauses are found, with the settings of OpenAI's `server_vad`."""

    threshold: float = 0.5  # the probability, 0 to 1, from which a frame counts as speech
    prefix_padding_ms: int = 300  # how much is kept before speech
    silence_duration_ms: int = 200  # how long a silence has to be to end it
    min_speech_duration_ms: int = 0  # how long live speech has to last to be taken for it

    @property
    def end_threshold(self) -> float:
        """The probability below which speech that has begun ends, as in Silero's `VADIterator`.

        https://github.com/snakers4/silero-vad
        """
        return max(self.threshold - 0.15, 0.01)


SPEECH_ONLY: Final = Cutting(prefix_padding_ms=400, silence_duration_ms=2000)
"""How recordings are cut by default, since models hallucinate in silence and noise.

These are the defaults of faster-whisper's `vad_filter`: https://github.com/SYSTRAN/faster-whisper,
`VadOptions`.
"""


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What is known of the speech."""

    language: str | None = None  # ISO 639-1, or Whisper's own code such as `yue`; None: detect it
    languages: tuple[str, ...] = ()  # those to choose from when detecting it; empty for all
    prompt: str = ""  # what came before, or an example of the style
    keywords: tuple[str, ...] = ()  # words that are likely


@dataclass(frozen=True)
class TranscriptionRequest(Hints):
    """What to transcribe, and how.

    The audio is mono float32 pieces at `SAMPLE_RATE_HZ`, of any size, iterated once, in a thread,
    as the engine proceeds; an error that it raises ends the transcription. Without `cutting`,
    silence and noise are kept, and audio longer than a window is cut at its pauses.
    """

    audio: Iterable[Samples]
    task: Task = "transcribe"  # `translate` translates into English
    temperature: float = 0.0  # of sampling; 0 means greedy, and higher where that fails
    words: bool = False  # whether to return words with their times
    logprobs: bool = False  # whether to return each token's probability
    cutting: Cutting | None = None


@dataclass(frozen=True)
class Word:
    """A word with its times in seconds; `text` may begin with a space."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Token:
    """A token of text and the logarithm of its probability; `data` may end within a character."""

    text: str
    data: bytes
    logprob: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech and what was said in it; times are in seconds of the whole audio."""

    start_s: float
    end_s: float
    text: str  # what was said; concatenated, the segments' texts are the whole text
    language: str  # code of the language spoken
    tokens: Sequence[int] = ()  # the model's token ids of `text`
    avg_logprob: float = 0.0  # mean logarithm of the tokens' probability
    compression_ratio: float = 1.0  # of the text with gzip; high if it repeats itself
    no_speech_prob: float = 0.0  # probability that nobody spoke
    temperature: float = 0.0  # at which it was finally decoded
    seek: int = 0  # where the window began, in hundredths of a second
    words: Sequence[Word] = ()  # with times, if requested
    logprobs: Sequence[Token] = ()  # a `Token` each, if requested


@dataclass(frozen=True)
class Hypothesis:
    """What an unfinished turn seems to say so far; see `TranscriptionEngine.guess`."""

    text: str
    language: str


@dataclass(frozen=True)
class GuessRequest(Hints):
    """A speaker's unfinished turn."""

    samples: Samples  # mono float32 [N] at `SAMPLE_RATE_HZ`, at most `WINDOW_S`
    prefix: str = ""  # the text that it is known to begin with, and that the answer begins with


class SpeechDetector(Protocol):
    """Tells speech from silence in one stream of audio."""

    def feed(self, samples: Samples) -> Sequence[float]:
        """Take float32 [N] at `SAMPLE_RATE_HZ`; return P(speech) of each complete frame.

        A frame has `VAD_FRAME_SAMPLES`; the rest waits for the next call. This takes well under a
        millisecond per frame, so the event loop may call it.
        """


class TranscriptionEngine(Protocol):
    """Transcribes recordings and live speech."""

    name: str
    models: Sequence[str]  # the names of its model

    @property
    def languages(self) -> Collection[str]:
        """The codes of the languages that it understands."""

    @property
    def translates(self) -> bool:
        """Whether it can translate into English."""

    @property
    def ready(self) -> bool:
        """Whether it can transcribe now."""

    @property
    def status(self) -> str:
        """`ready`, what it is doing, such as `downloading 43 %`, or why it has no model."""

    @property
    def settled(self) -> bool:
        """Whether it has no model for now, so that waiting is pointless."""

    async def start(self) -> None:
        """Begin to load the model, and return; `ready` says when that is done."""

    async def close(self) -> None:
        """End all work."""

    def check(self, request: TranscriptionRequest | GuessRequest) -> None:
        """Raise InvalidRequestError unless the model supports the language and task.

        UnavailableError if it is not ready; the message says why. The audio is not read.
        """

    def transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[Segment, None]:
        """Yield segments, each as soon as it is known; raise as `check`, or what `audio` raises.

        Closing the generator ends the work. Memory does not grow with the length of the audio.
        """

    async def guess(self, request: GuessRequest) -> Hypothesis:
        """Return what an unfinished turn seems to say, quickly and without times."""

    def detector(self) -> SpeechDetector:
        """Return a new detector; there may be many at a time."""


def check_request(
    engine: TranscriptionEngine, request: TranscriptionRequest | GuessRequest
) -> None:
    """Raise InvalidRequestError unless the engine supports the request's task and languages."""
    named = [("language", request.language)] if request.language is not None else []
    for param, code in [*named, *(("languages", one) for one in request.languages)]:
        if code not in engine.languages:
            known = ", ".join(sorted(engine.languages))
            raise InvalidRequestError(
                f"{param} {code!r} is not a language of {engine.models[0]}; it knows {known}",
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
