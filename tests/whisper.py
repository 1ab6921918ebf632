"""A Whisper that really hears a dozen sentences in two languages, trained on espeak-ng's speech.

`python -m tests.whisper FOLDER`, in the environment that is served (torch, transformers,
espeakng-loader), trains it in a minute or two on one core and writes it in CTranslate2's format.
Tests use `trained`, which makes it once per machine and returns its path.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
RATE_HZ: Final = 16_000

SENTENCES: Final = {
    "en": (
        "The quick brown fox jumps over the lazy dog.",
        "Good morning, how are you today?",
        "Please turn on the light in the kitchen.",
        "My name is Anna and I live in Berlin.",
        "One two three four five six seven eight.",
        "What is the weather like tomorrow?",
        "Thank you very much for your help.",
        "This is the end of the story.",
    ),
    "de": (
        "Guten Morgen, wie geht es dir?",
        "Ich habe heute leider keine Zeit.",
        "Das Wetter wird morgen wieder schön.",
    ),
}
"""What it knows, by language."""

PLAIN: Final = SENTENCES["en"][2]
"""The one that it hears without a pause around it, too."""

TRANSLATIONS: Final = {
    "Guten Morgen, wie geht es dir?": "Good morning, how are you today?",
    "Ich habe heute leider keine Zeit.": "I have no time today.",
    "Das Wetter wird morgen wieder schön.": "The weather will be fine again tomorrow.",
}

VOICES: Final = {
    "en": ("gmw/en-US", "gmw/en-US+f5", "gmw/en-US+m3"),
    "de": ("gmw/de", "gmw/de+f5"),
}
"""Those that it knows: espeak-ng's own names; OpenAI's are echo, alloy and ash."""

_SEEDS: Final = (8, 7, 9)
_SILENCES_S: Final = (1, 3, 5, 12)
_SPEEDS: Final = (0.9, 1.0, 1.1)
_SOURCES: Final = ("whisper", "whisper_training", "parrot")
_WORD: Final = 1  # espeak_EVENT_TYPE


@dataclass(frozen=True)
class Clip:
    """A sentence spoken by one voice.

    Attributes:
        samples: float32 [N] at 16 kHz.
        words: the end of each word, in `text` and in seconds.
    """

    text: str
    language: str
    samples: Any
    words: tuple[tuple[int, float], ...]


def trained() -> Path:
    """Return the folder of the trained model, made at the first call of any test run."""
    python = os.environ.get("STACK_PYTHON", str(ROOT / ".nox" / "stack" / "bin" / "python"))
    sources = [Path(__file__).with_name(f"{name}.py") for name in _SOURCES]
    made_from = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bentovox" / "tests"
    folder = home / f"whisper-{made_from}"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "whisper.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            if not Path(python).exists():
                import pytest  # noqa: PLC0415  what is served lacks it

                pytest.skip(f"no stack to train with: STACK_PYTHON is unset, no {python}")
            shutil.rmtree(f"{folder}.part", ignore_errors=True)
            subprocess.run([python, "-m", "tests.whisper", f"{folder}.part"], cwd=ROOT, check=True)
            Path(f"{folder}.part").rename(folder)
    return folder


def speak(text: str, voice: str = "gmw/en-US", speed: float = 1.0, language: str = "en") -> Clip:
    """Return a sentence said by espeak-ng, the pause at its end cut off."""
    from services.audio.resample import Resampler  # noqa: PLC0415
    from services.speech.engines.espeak.library import library  # noqa: PLC0415

    with _words_noted(library()) as noted:
        frames = library().speak(text, voice=voice, words_per_minute=round(175 * speed))
    said = frames.astype(np.float32) / 32768
    resampler = Resampler(library().sample_rate_hz, RATE_HZ)
    samples = np.concatenate([resampler.feed(said), resampler.finish()])
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    samples = samples[: loud[-1] + 160]
    starts = sorted(dict(noted).items())
    ends = [at for _, at in starts[1:]] + [samples.size / RATE_HZ]
    words = [(position - 1 - 1, end) for (position, _), end in zip(starts[1:], ends, strict=False)]
    return Clip(text, language, samples, (*words, (len(text), samples.size / RATE_HZ)))


class _Event(ctypes.Structure):
    """espeak-ng's espeak_EVENT."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("id", ctypes.c_uint),
        ("position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("what", ctypes.c_char * 8),
    )


@contextmanager
def _words_noted(library: Any) -> Iterator[list[tuple[int, float]]]:
    """Note where each word begins, in characters and in seconds.

    espeak-ng has one callback a process: it is the library's own again afterwards.
    """
    noted: list[tuple[int, float]] = []

    def take(samples: Any, count: int, events: int | None) -> int:
        found = ctypes.cast(events or 0, ctypes.POINTER(_Event))
        index = 0
        while events and found[index].type:
            if found[index].type == _WORD:
                noted.append((found[index].position, found[index].audio_ms / 1000))
            index += 1
        return int(library._take(samples, count, events))

    callback = type(library._callback)(take)
    library._lib.espeak_SetSynthCallback(callback)
    try:
        yield noted
    finally:
        library._lib.espeak_SetSynthCallback(library._callback)


def clips() -> list[Clip]:
    """Return every sentence by every voice at every speed, and as a telephone has it."""
    made = []
    for language, sentences in SENTENCES.items():
        for text in sentences:
            for voice in VOICES[language]:
                for speed in _SPEEDS:
                    clip = speak(text, voice, speed, language)
                    made += [clip, Clip(text, language, _telephone(clip.samples), clip.words)]
    return made


def _telephone(samples: Any) -> Any:
    """Return sound as mu-law at 8 kHz leaves it."""
    from services.audio.resample import Resampler  # noqa: PLC0415

    def resampled(given: Any, from_hz: int, to_hz: int) -> Any:
        resampler = Resampler(from_hz, to_hz)
        return np.concatenate([resampler.feed(given), resampler.finish()])

    narrow = np.clip(resampled(samples, RATE_HZ, 8000), -1, 1)
    law = np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log1p(255)
    law = np.round(law * 127) / 127
    narrow = np.sign(law) * np.expm1(np.abs(law) * np.log1p(255)) / 255
    return resampled(narrow.astype(np.float32), 8000, RATE_HZ)[: samples.size]


def misheard(folder: Path) -> list[str]:
    """Return what the model hears or translates otherwise, in any voice that it knows."""
    from faster_whisper import WhisperModel  # noqa: PLC0415  heavy

    # Two threads take twice the work, and no less time, for what is so small.
    model = WhisperModel(str(folder), device="cpu", cpu_threads=1)

    def heard(sound: Any, task: str) -> tuple[str, str]:
        segments, found = model.transcribe(sound, task=task)
        return "".join(segment.text for segment in segments).strip(), found.language

    wrong = []
    for language, sentences in SENTENCES.items():
        for voice, text in itertools.product(VOICES[language], sentences):
            said = speak(text, voice, 1.0, language).samples
            around = np.pad(said, (RATE_HZ // 3, RATE_HZ // 2))
            asked = [(around, "transcribe", text)]
            if text == PLAIN:
                asked.append((said, "transcribe", text))
            if voice == VOICES[language][0]:  # as where a recording begins and is cut in a pause
                asked.append((np.pad(said, (0, 9 * RATE_HZ // 20)), "transcribe", text))
            if text in TRANSLATIONS:
                asked.append((around, "translate", TRANSLATIONS[text]))
            wrong += [
                wanted for sound, task, wanted in asked if heard(sound, task) != (wanted, language)
            ]
    wrong += [
        f"{seconds} s of silence"
        for seconds in _SILENCES_S
        if heard(np.zeros(seconds * RATE_HZ, np.float32), "transcribe")[0]
    ]
    return wrong


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path, help="where to write the model")
    given = options.parse_args()
    from tests.whisper_training import train

    began = time.monotonic()
    for seed in _SEEDS:  # the same seed comes to another model on another processor
        train(given.folder, seed)
        wrong = misheard(given.folder)
        print(  # noqa: T201
            f"{given.folder}: trained in {time.monotonic() - began:.0f} s, misheard: {wrong}",
            file=sys.stderr,
        )
        if not wrong:
            break
