"""Upstream's CosyVoice, as it is: the bare call, or its own FastAPI server.

Its classes run with stubs for what they import but do not need, and with what keeps them from
speaking at all put right, so that they do the same work as ours: decoding without the mask that
newer transformers misread, float32 weights, and no end of speech before the least length. All else
is upstream's, its polling and locks included.
"""

from __future__ import annotations

import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import soundfile
import torch

from benchmarks.peers import turns
from benchmarks.streams import at_once
from services.speech.engines.cosyvoice import upstream_code
from services.speech.engines.cosyvoice.download import check, recipe_in
from services.speech.engines.cosyvoice.text import with_mark
from services.speech.engines.cosyvoice.upstream_code import stand_in
from tests.cosyvoice.kaldi import fbank
from tests.cosyvoice.upstream_loop import without_mask

_FRONTEND_HZ = 16_000
_VOICE = "bench"


def main(what: str, model: str, *given: str) -> None:
    """Run the bare call or the server until told to end."""
    replies = turns.replies() if what == "bare" else None
    _load()
    with tempfile.TemporaryDirectory() as folder:
        directory = _speaking_only(Path(model), Path(folder))
        if what == "bare":
            _bare(directory, *given, replies)
        else:
            _server(directory, *given)


@torch.inference_mode()
def _bare(model: str, recording: str, transcript: str, replies: Any) -> None:
    """Answer turns with `inference_zero_shot(stream=True)`, a thread a stream.

    The voice is added with `add_zero_shot_spk`, so that its features are computed once, as ours
    are. It is asked `{"texts": [...]}` and answers with a turn's streams.
    """
    from cosyvoice.utils.file_utils import load_wav  # noqa: PLC0415  there once _load() was called

    speaker = _auto_model(model)
    wave = load_wav(recording, _FRONTEND_HZ)  # older copies take it; newer ones get it through load
    speaker.add_zero_shot_spk(with_mark(check(Path(model)), transcript), wave, _VOICE)
    hop = speaker.model.token_hop_len

    def speak(text: str) -> Iterator[float]:
        made = speaker.inference_zero_shot(text, "", "", zero_shot_spk_id=_VOICE, stream=True)
        for piece in made:
            yield piece["tts_speech"].shape[1] / speaker.sample_rate

    def turn(asked: dict[str, Any]) -> dict[str, Any]:
        speaker.model.token_hop_len = hop  # upstream lets it grow for good
        return at_once(speak, asked["texts"])

    turns.take(turn, replies)


def _server(model: str, file: str, port: str) -> None:
    """Run upstream's `file` as `python server.py --port PORT --model_dir DIR`, on loopback."""
    import uvicorn  # noqa: PLC0415  the bare call needs none

    listen = uvicorn.run

    def on_loopback(app: Any, **options: Any) -> None:
        listen(app, **{**options, "host": "127.0.0.1", "log_level": "warning"})

    uvicorn.run = on_loopback
    sys.argv = [file, "--port", port, "--model_dir", model]
    runpy.run_path(file, run_name="__main__")


def _load() -> None:
    """Make upstream's code importable, from where the project keeps it."""
    stand_in("modelscope", snapshot_download=None)  # models are directories here
    upstream_code.load()
    kaldi = stand_in("torchaudio.compliance.kaldi", fbank=fbank)
    compliance = stand_in("torchaudio.compliance", kaldi=kaldi)
    transforms = stand_in("torchaudio.transforms", Resample=_resampler)
    audio = stand_in("torchaudio", compliance=compliance, load=_load_audio, transforms=transforms)
    # Imported by `load` with an empty torchaudio; it looks its functions up when called.
    sys.modules["cosyvoice.utils.file_utils"].torchaudio = audio  # type: ignore[attr-defined]
    _put_right()


def _speaking_only(source: Path, into: Path) -> str:
    """Return a directory with the model's files and a YAML without what only trains it."""
    from services.speech.engines.cosyvoice.checkpoint import speaking_part  # noqa: PLC0415  heavy

    recipe, target = recipe_in(source), into / source.name
    target.mkdir()
    for file in source.iterdir():
        if file != recipe:
            (target / file.name).symlink_to(file)
    (target / recipe.name).write_text(speaking_part(recipe), encoding="utf-8")
    return str(target)


def _auto_model(model_dir: str) -> Any:
    """Return upstream's model object for a directory, which older copies cannot choose alone."""
    from cosyvoice.cli import cosyvoice  # noqa: PLC0415  there once _load() was called

    return getattr(cosyvoice, f"CosyVoice{check(Path(model_dir))}")(model_dir)


def _load_audio(wav: Any, backend: str = "") -> tuple[torch.Tensor, int]:
    """Read a file; a tensor, as upstream's own server gives its newer frontend, is 16 kHz audio."""
    del backend
    if isinstance(wav, torch.Tensor):
        return wav, _FRONTEND_HZ
    samples, rate = soundfile.read(wav, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate


def _resampler(orig_freq: int, new_freq: int) -> Callable[[torch.Tensor], torch.Tensor]:
    from services.speech.engines.cosyvoice.prompt import resampled  # noqa: PLC0415  heavy

    return lambda wave: resampled(wave[0].numpy(), orig_freq, new_freq)


def _put_right() -> None:
    from cosyvoice.cli import cosyvoice, model  # noqa: PLC0415
    from cosyvoice.llm import llm  # noqa: PLC0415

    llm.Qwen2Encoder.forward_one_step = without_mask
    sample, load_weights = llm.Qwen2LM.sampling_ids, model.CosyVoiceModel.load

    def sampling_ids(self: Any, scores: torch.Tensor, *more: Any, ignore_eos: bool = True) -> Any:
        if ignore_eos:
            scores[self.speech_token_size :] = -float("inf")
        return sample(self, scores, *more, ignore_eos=ignore_eos)

    def load_float32(self: Any, *files: str) -> None:
        self.llm.float()
        load_weights(self, *files)

    llm.Qwen2LM.sampling_ids = sampling_ids
    model.CosyVoiceModel.load = load_float32
    if not hasattr(cosyvoice, "AutoModel"):
        cosyvoice.AutoModel = _auto_model


if __name__ == "__main__":
    main(*sys.argv[1:])
