"""The bare upstream call: `inference_zero_shot(stream=True)` in one process, a thread a stream.

The voice was added with `add_zero_shot_spk`, so that its features are computed once, as ours are.
It is asked `{"texts": [...]}` and answers with a turn's streams.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.peers import cosyvoice_code, turns
from benchmarks.streams import at_once
from services.speech.engines.cosyvoice.download import check
from services.speech.engines.cosyvoice.text import with_mark

if TYPE_CHECKING:
    from collections.abc import Iterator

_VOICE = "bench"


def main(model: str, recording: str, transcript: str) -> None:
    """Load, say so, and answer until standard input ends."""
    replies = turns.replies()
    cosyvoice_code.load()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        speaker = cosyvoice_code.auto_model(cosyvoice_code.speaking_only(model, Path(folder)))
        _register(speaker, recording, transcript)
        hop = speaker.model.token_hop_len

        def speak(text: str) -> Iterator[float]:
            made = speaker.inference_zero_shot(text, "", "", zero_shot_spk_id=_VOICE, stream=True)
            for piece in made:
                yield piece["tts_speech"].shape[1] / speaker.sample_rate

        def turn(asked: dict[str, Any]) -> dict[str, Any]:
            speaker.model.token_hop_len = hop  # upstream lets it grow for good
            return at_once(speak, asked["texts"])

        turns.take(turn, replies)


def _register(speaker: Any, recording: str, transcript: str) -> None:
    from cosyvoice.utils.file_utils import load_wav  # noqa: PLC0415

    transcript = with_mark(check(Path(speaker.model_dir)), transcript)
    wave = load_wav(recording, 16_000)  # what older copies take; newer ones get it through load
    speaker.add_zero_shot_spk(transcript, wave, _VOICE)


if __name__ == "__main__":
    main(*sys.argv[1:])
