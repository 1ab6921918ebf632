"""What the routes know of a speech engine: voices, a check, and frames as they are made."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from services.audio.pcm import Samples
from services.errors import InvalidRequestError


class Capability(StrEnum):
    """What a request may ask for and not every engine can do."""

    CONVERSION = "conversion"
    INSTRUCTIONS = "instructions"
    LANGUAGE = "language"
    REFERENCE = "reference"
    SEED = "seed"


@dataclass(frozen=True)
class Voice:
    """A voice that an engine speaks with.

    Attributes:
        id: what a request names.
        name: what a person reads.
        languages: tags of the languages it speaks, the native one first.
        gender: if the engine knows.
        alias_of: the id of the voice behind a name such as `alloy`.
    """

    id: str
    name: str
    languages: tuple[str, ...]
    gender: Literal["female", "male"] | None = None
    alias_of: str | None = None


@dataclass(frozen=True)
class VoiceReference:
    """A recording to speak like, for engines with `Capability.REFERENCE`.

    Attributes:
        samples: mono float32 [N], full scale -1.0..1.0; 1 to 30 s.
        sample_rate_hz: of `samples`, 16 to 48 kHz.
        text: its transcript; None if unknown (cross-lingual cloning).
        id: of the registered voice that it belongs to; None for a recording sent with a request.
        features: that voice's folder for what an engine computes; it is deleted with the voice.
    """

    samples: Samples
    sample_rate_hz: int
    text: str | None = None
    id: str | None = None
    features: Path | None = None


@dataclass(frozen=True)
class SynthesisRequest:
    """One utterance to make.

    Attributes:
        text: all of it, or pieces as they come.
        voice: the id of one of the engine's voices, or an alias; None with `reference`.
        speed: 1.0 is the voice's own; the duration is about 1/speed; within `SPEED_RANGE`.
        instructions: how to say it, in words.
        seed: the same seed on the same request gives the same samples.
        language: a tag; None leaves it to the voice.
        reference: a recording to speak like, instead of one of the engine's voices.
        one_pass: make each segment in one pass over all of it, instead of in pieces that come
            sooner; engines without that distinction ignore it.
    """

    text: str | AsyncIterator[str]
    voice: str | None
    speed: float = 1.0
    instructions: str | None = None
    seed: int | None = None
    language: str | None = None
    reference: VoiceReference | None = None
    one_pass: bool = False


@dataclass(frozen=True)
class ConversionRequest:
    """A recording to say again with another voice.

    Attributes:
        samples: mono float32 [N], N > 0, full scale -1.0..1.0.
        sample_rate_hz: of `samples`.
        reference: the voice to say it with.
        speed: 1.0 is the recording's own; the duration is about 1/speed.
        seed: the same seed on the same request gives the same samples.
        one_pass: as for `SynthesisRequest`.
    """

    samples: Samples
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
        active: how many syntheses are being worked on; 0 soon after a cancel.
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
    def active(self) -> int: ...  # noqa: D102
    @property
    def streams(self) -> int | None: ...  # noqa: D102
    @property
    def lack(self) -> str: ...  # noqa: D102
    @property
    def loading(self) -> bool: ...  # noqa: D102

    def voices(self) -> Sequence[Voice]:
        """Return every voice to list, in a stable order."""

    def voice(self, voice_id: str) -> Voice:
        """Return one voice, which need not be among `voices`.

        Raises:
            NotFoundError: no such voice (`voice_not_found`); the message names the nearest.
        """

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
            InvalidRequestError: the recording cannot be cloned, or the engine lacks
                `Capability.REFERENCE` (`unsupported_parameter`).
            EngineError: the engine failed.
        """

    def forget(self, voice_id: str) -> None:
        """Drop what is in memory of a registered voice; its folder is already deleted."""

    def convert(self, request: ConversionRequest) -> AsyncGenerator[Samples, None]:
        """Yield the recording in the other voice; promises and errors are those of `synthesise`.

        Raises:
            InvalidRequestError: always without `Capability.CONVERSION` (`unsupported_parameter`).
        """

    async def start(self) -> None:
        """Load and warm up; `ready` is True when it returns.

        Raises:
            ConfigurationError: it cannot work with these settings.
        """

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
    """Refuse what `engine` lacks: nothing is ignored silently.

    Raises:
        InvalidRequestError: a field is set and not supported (`unsupported_parameter`).
    """
    asked = (
        (Capability.INSTRUCTIONS, "instructions", request.instructions is not None),
        (Capability.LANGUAGE, "language", request.language is not None),
        (Capability.REFERENCE, "ref_audio", request.reference is not None),
        (Capability.SEED, "seed", request.seed is not None),
    )
    for capability, param, is_asked in asked:
        if is_asked and capability not in engine.capabilities:
            raise unsupported(engine, param)


def unsupported(engine: SpeechEngine, param: str) -> InvalidRequestError:
    """Return the error for a field that `engine` does not support."""
    return InvalidRequestError(
        f"{param} is not supported by the {engine.name} engine; leave it out",
        param=param,
        code="unsupported_parameter",
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
