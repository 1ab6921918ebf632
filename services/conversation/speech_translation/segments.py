"""What passes between the stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from services.audio.pcm import Samples


@dataclass(frozen=True)
class Segment:
    """A stretch of speech as it was heard; times in seconds of the recording.

    Attributes:
        start_s: where it begins.
        end_s: where it ends.
        text: what was said; segments joined as they are give the whole text.
        language: code of its language; None where the ear does not tell.
        clear: whether the ear is sure of it.
    """

    start_s: float
    end_s: float
    text: str
    language: str | None = None
    clear: bool = True


@dataclass(frozen=True)
class Sentence:
    """What is translated and spoken at once; `number` counts from 0."""

    number: int
    start_s: float
    end_s: float
    text: str
    language: str | None = None


@dataclass(frozen=True)
class Translation:
    """A sentence in the other language."""

    sentence: Sentence
    text: str


@dataclass(frozen=True)
class Sound:
    """A piece of the sentence's translation, spoken: float32 [N] at `OUTPUT_RATE_HZ`."""

    sentence: Sentence
    samples: Samples


Item: TypeAlias = Sentence | Translation | Sound
"""What reaches the end, in order: each sentence, then its translation, then its sound."""


@dataclass
class Tally:
    """What one interpretation has come to, for its `usage`."""

    input_tokens: int = 0
    samples: int = 0
