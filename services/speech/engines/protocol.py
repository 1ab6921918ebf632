"""What the routes know of a speech engine: voices, a check, and frames as they are made."""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from services.audio.pcm import Samples
from services.errors import InvalidRequestError, NotFoundError, shown


class Capability(StrEnum):
    """What a request may ask for and not every engine can do."""

    CONVERSION = "conversion"
    INSTRUCTIONS = "instructions"
    LANGUAGE = "language"
    REFERENCE = "reference"
    SEED = "seed"


@dataclass(frozen=True)
class Voice:
    """A voice that an engine speaks with."""

    id: str  # what a request names
    name: str  # what a person reads
    languages: tuple[str, ...]  # tags of those it speaks, the native one first
    gender: Literal["female", "male"] | None = None  # if the engine knows
    alias_of: str | None = None  # the id of the voice behind a name such as `alloy`


@dataclass(frozen=True)
class VoiceReference:
    """A recording to speak like, for engines with `Capability.REFERENCE`."""

    samples: Samples  # mono float32 [N], full scale -1.0..1.0; 1 to 30 s
    sample_rate_hz: int  # 16 to 48 kHz
    text: str | None = None  # its transcript; None if unknown (cross-lingual cloning)
    id: str | None = None  # of the registered voice; None if it came with a request
    features: Path | None = None  # that voice's folder for what an engine computes of it


@dataclass(frozen=True)
class SynthesisRequest:
    """One utterance to make."""

    text: str | AsyncIterator[str]  # all of it, or pieces as they come
    voice: str | None  # the id of one of the engine's voices, or an alias; None with `reference`
    speed: float = 1.0  # the duration is about 1/speed; within `SPEED_RANGE`
    instructions: str | None = None  # how to say it, in words
    seed: int | None = None  # the same seed on the same request gives the same samples
    language: str | None = None  # a tag; None leaves it to the voice
    reference: VoiceReference | None = None
    one_pass: bool = False  # each segment in one pass, not in pieces that come sooner, if it can


@dataclass(frozen=True)
class ConversionRequest:
    """A recording to say again with another voice; the rest as for `SynthesisRequest`."""

    samples: Samples  # mono float32 [N], N > 0, full scale -1.0..1.0
    sample_rate_hz: int
    reference: VoiceReference
    speed: float = 1.0
    seed: int | None = None
    one_pass: bool = False


class SpeechEngine(Protocol):
    """Makes speech; nothing heavy is imported before its constructor runs.

    Attributes:
        name: the engine's name in `services.engines`.
        models: the model names that it answers to, its own first.
        sample_rate_hz: of every frame; known once it has started.
        capabilities: what it can do beyond speaking a text with a voice; likewise.
        ready: True from the end of `start` until `close` or a crash.
        streams: how many syntheses it makes faster than they play, if it knows.
        lack: what it lacks, and what speaks in its stead; empty if it is whole.
        loading: whether what it lacks is on its way.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def models(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def sample_rate_hz(self) -> int: ...  # noqa: D102
    @property
    def capabilities(self) -> frozenset[Capability]: ...  # noqa: D102
    @property
    def ready(self) -> bool: ...  # noqa: D102
    @property
    def streams(self) -> int | None: ...  # noqa: D102
    @property
    def lack(self) -> str: ...  # noqa: D102
    @property
    def loading(self) -> bool: ...  # noqa: D102

    def voices(self) -> Sequence[Voice]:
        """Return every voice to list, in a stable order."""

    def voice(self, voice_id: str) -> Voice:
        """Return one voice, which need not be among `voices`; else NotFoundError."""

    def check(self, request: SynthesisRequest) -> None:
        """Raise unless `synthesise` can do this; takes microseconds and runs no model.

        Raises:
            NotFoundError: no such voice.
            InvalidRequestError: blank text, an unknown language, or a field that this engine lacks
                (`unsupported_parameter`). `param` is the field's name in POST /v1/audio/speech.
        """

    async def prepare(self, reference: VoiceReference) -> None:
        """Compute and keep what `synthesise` needs of a recording, so that its first use is quick.

        Raises:
            InvalidRequestError: the recording cannot be cloned, or the engine clones none.
            EngineError: the engine failed.
        """

    def forget(self, voice_id: str) -> None:
        """Drop what is in memory of a registered voice; its folder is already deleted."""

    def convert(self, request: ConversionRequest) -> AsyncGenerator[Samples, None]:
        """Yield the recording in the other voice, as `synthesise` yields speech.

        InvalidRequestError without `Capability.CONVERSION` (`unsupported_parameter`).
        """

    async def start(self) -> None:
        """Load and warm up; ConfigurationError if it cannot work with these settings."""

    async def close(self) -> None:
        """Stop all work and free what was loaded."""

    def synthesise(self, request: SynthesisRequest) -> AsyncGenerator[Samples, None]:
        """Yield mono float32 frames [N], N > 0, at `sample_rate_hz`, as they are made.

        Closing the generator, or cancelling the task in it, stops the engine's work at once, even
        while frames wait to be taken. How many may wait is bounded.

        Raises:
            ServiceError: what `check` raises, before the first frame.
            EngineError: the engine failed.
            UnavailableError: it has not started, or was closed.
        """


def check_capabilities(engine: SpeechEngine, request: SynthesisRequest) -> None:
    """Refuse what `engine` lacks (`unsupported_parameter`): nothing is ignored silently."""
    asked = (
        (Capability.INSTRUCTIONS, "instructions", request.instructions),
        (Capability.LANGUAGE, "language", request.language),
        (Capability.REFERENCE, "ref_audio", request.reference),
        (Capability.SEED, "seed", request.seed),
    )
    for capability, param, given in asked:
        if given is not None and capability not in engine.capabilities:
            raise unsupported(engine, param)


def unsupported(engine: SpeechEngine, param: str) -> InvalidRequestError:
    """Return the error for a field that `engine` does not support."""
    return InvalidRequestError(
        f"{param} is not supported by the {engine.name} engine; leave it out",
        param=param,
        code="unsupported_parameter",
    )


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return a hint at the name that is most like one that is not `known`, or `otherwise`."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"the nearest is {near[0]!r}" if near else otherwise


def no_voice(voice_id: str, known: Iterable[str], otherwise: str) -> NotFoundError:
    """Return the error for a voice that an engine lacks, with a hint as from `nearest`."""
    return NotFoundError(
        f"voice {shown(voice_id)} does not exist; {nearest(voice_id.lower(), known, otherwise)}. "
        "GET /v1/audio/voices lists them",
        param="voice",
        code="voice_not_found",
    )


class SpeaksOnly:
    """The part of `SpeechEngine` that is refused by an engine that only speaks."""

    async def prepare(self: SpeechEngine, reference: VoiceReference) -> None:
        """Refuse; see `SpeechEngine.prepare`."""
        del reference
        raise unsupported(self, "audio_sample")

    def forget(self, voice_id: str) -> None:
        """Do nothing: nothing is kept."""

    def convert(self: SpeechEngine, request: ConversionRequest) -> AsyncGenerator[Samples, None]:
        """Refuse; see `SpeechEngine.convert`."""
        del request
        raise unsupported(self, "file")


def murmur(sample_rate_hz: int) -> VoiceReference:
    """Return two seconds of a buzz at 120 Hz, to warm a model up or to try a server with."""
    time_s = np.arange(2 * sample_rate_hz) / sample_rate_hz
    harmonics = np.arange(1, 12)[:, np.newaxis]
    tones = (np.sin(2 * np.pi * 120 * harmonics * time_s) / harmonics).sum(axis=0)
    return VoiceReference((0.1 * tones).astype(np.float32), sample_rate_hz, text="Hm.")
