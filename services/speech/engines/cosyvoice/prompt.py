"""What the two models are given beside a text's tokens: how a recording sounds, and words.

The steps are those of upstream's frontend (`cosyvoice/cli/frontend.py`), but from samples instead
of a file, and each rate is resampled from the recording itself. The request decides which of
upstream's modes it is: zero-shot, cross-lingual, instructions, conversion.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file

from services.audio.resample import Resampler
from services.speech.engines.cosyvoice.checkpoint import Checkpoint
from services.speech.engines.cosyvoice.text import (
    Language,
    cleaned,
    guess_language,
    instruction,
    normalise,
    with_mark,
)

if TYPE_CHECKING:
    import onnxruntime

    from services.audio.pcm import Samples
    from services.speech.engines.protocol import (
        ConversionRequest,
        SynthesisRequest,
        VoiceReference,
    )

log = logging.getLogger("bentovox.speech")

_ENCODER_HZ: Final = 16_000
_MEL_FRAMES_A_TOKEN: Final = 2

TELLING: Final = 8
"""So many tokens of text have a pace."""


@dataclass(frozen=True)
class Features:
    """What a recording is to the model, computed once if its voice is registered."""

    tokens: torch.Tensor  # of speech, int32 [1, T]
    mel: torch.Tensor  # float32 [1, 2T, 80] at the model's own rate
    embedding: torch.Tensor  # of the speaker, float32 [1, 192]


@dataclass(frozen=True)
class Prompt:
    """What goes with a text."""

    heard: Features  # of the recording whose voice speaks
    text: Sequence[int] = ()  # tokens of what is said in it, or of an instruction
    is_continued: bool = False  # whether the language model goes on after the recording, too
    pace: float = 0.0  # speech tokens a text token in the recording; 0: unknown


def prompt_of(
    checkpoint: Checkpoint, request: SynthesisRequest, language: Language | None
) -> Prompt:
    """Return what goes with the text of a request, which has a recording."""
    reference = request.reference
    assert reference is not None  # noqa: S101  the engine has no voices of its own
    heard = features_of(checkpoint, reference)
    if request.instructions:
        told = instruction(checkpoint.family, cleaned(request.instructions).strip())
        return Prompt(heard, checkpoint.encode(told))
    if reference.text is None:
        return Prompt(heard)
    said = normalise(reference.text, language or guess_language(reference.text))
    text = checkpoint.encode(with_mark(checkpoint.family, said))
    count = len(checkpoint.encode(said))
    pace = heard.tokens.shape[1] / count if count >= TELLING else 0.0
    return Prompt(heard, text, is_continued=True, pace=pace)


def conversion_of(checkpoint: Checkpoint, request: ConversionRequest) -> tuple[Prompt, list[int]]:
    """Return what goes with the speech tokens of a recording, and those tokens."""
    samples = resampled(request.samples, request.sample_rate_hz, _ENCODER_HZ)
    said: list[int] = _speech_tokens(checkpoint, samples)[0].tolist()
    return Prompt(features_of(checkpoint, request.reference)), said


def features_of(checkpoint: Checkpoint, reference: VoiceReference) -> Features:
    """Return a recording's features: from the voice's folder, or computed and kept there."""
    if reference.features is None:
        return computed(checkpoint, reference)
    path = reference.features / f"cosyvoice-{checkpoint.fingerprint}.safetensors"
    found = _read(path, checkpoint.device)
    if found is None:
        found = computed(checkpoint, reference)
        _save(found, path)
    return found


def computed(checkpoint: Checkpoint, reference: VoiceReference) -> Features:
    """Compute the features of a recording, in some hundred milliseconds."""
    heard = resampled(reference.samples, reference.sample_rate_hz, _ENCODER_HZ)
    own = resampled(reference.samples, reference.sample_rate_hz, checkpoint.sample_rate_hz)
    tokens = _speech_tokens(checkpoint, heard)
    mel = checkpoint.mel(own).squeeze(0).transpose(0, 1).unsqueeze(0)
    count = min(mel.shape[1] // _MEL_FRAMES_A_TOKEN, tokens.shape[1])
    device = checkpoint.device
    return Features(
        tokens[:, :count].to(device).contiguous(),
        mel[:, : _MEL_FRAMES_A_TOKEN * count].to(device).contiguous(),
        _embedding(checkpoint.speaker_encoder, heard).to(device),
    )


def _speech_tokens(checkpoint: Checkpoint, heard: torch.Tensor) -> torch.Tensor:
    """Return the speech tokens, int32 [1, T], of 16 kHz audio [1, N]."""
    import whisper  # noqa: PLC0415  heavy

    mel = whisper.log_mel_spectrogram(heard, n_mels=128)
    session = checkpoint.speech_tokenizer
    names = [given.name for given in session.get_inputs()]
    fed = {names[0]: mel.cpu().numpy(), names[1]: np.array([mel.shape[2]], dtype=np.int32)}
    made: Any = session.run(None, fed)[0]
    return torch.from_numpy(made.reshape(1, -1).astype(np.int32))


def _embedding(session: onnxruntime.InferenceSession, heard: torch.Tensor) -> torch.Tensor:
    """Return the speaker's embedding, float32 [1, 192], of 16 kHz audio [1, N]."""
    from kaldi_native_fbank import FbankOptions, OnlineFbank  # noqa: PLC0415  heavy

    options = FbankOptions()
    options.frame_opts.samp_freq = _ENCODER_HZ
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    filters = OnlineFbank(options)
    filters.accept_waveform(_ENCODER_HZ, heard[0].tolist())
    filters.input_finished()
    bank = np.stack([filters.get_frame(at) for at in range(filters.num_frames_ready)])
    bank -= bank.mean(axis=0, keepdims=True)
    made: Any = session.run(None, {session.get_inputs()[0].name: bank[np.newaxis]})
    return torch.from_numpy(made[0].reshape(1, -1).astype(np.float32))


def resampled(samples: Samples, from_hz: int, to_hz: int) -> torch.Tensor:
    """Return float32 [N] at `from_hz` as a tensor [1, M] at `to_hz`."""
    resampler = Resampler(from_hz, to_hz)
    wave = np.concatenate([resampler.feed(samples), resampler.finish()])
    return torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32)).unsqueeze(0)


def _save(features: Features, path: Path) -> None:
    """Write the features to a file, whole or not at all.

    The folder may be deleted with the voice meanwhile, or the disk be full: then nothing is kept.
    """
    written = path.with_suffix(f".{threading.get_ident()}.new")
    tensors = {name: getattr(features, name).cpu() for name in ("tokens", "mel", "embedding")}
    try:
        save_file(tensors, written)
        written.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        log.warning("features are not kept: %s", error)
        with contextlib.suppress(OSError):
            written.unlink(missing_ok=True)


def _read(path: Path, device: torch.device) -> Features | None:
    """Return the features in a file; None if it is missing or broken."""
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            return Features(*(file.get_tensor(name) for name in ("tokens", "mel", "embedding")))
    except (OSError, safetensors.SafetensorError):
        return None
