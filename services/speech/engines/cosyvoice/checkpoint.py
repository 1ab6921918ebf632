"""A CosyVoice model in memory: upstream's modules with a checkpoint's weights.

Loading follows upstream's constructors, without what else they do: downloads, a text frontend of
their own, and calls that seed every random generator of the process.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import pickle
import random
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime
import torch
import transformers

from services.errors import ConfigurationError
from services.speech.engines.cosyvoice import recipe, upstream_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_SEED: Final = 1986  # upstream's; buffers of noise are made at load, not read from the checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model; its modules are shared by all requests.

    Attributes:
        family: 1, 2 or 3.
        sample_rate_hz: of what it makes: 22050 (family 1) or 24000.
        device: where it computes.
        lm: upstream's language model, text to speech tokens.
        vocoder: upstream's model object, speech tokens to audio; `session` copies it.
        encode: text to the ids of text tokens.
        mel: samples [1, N] at `sample_rate_hz` to a mel spectrogram [1, 80, T].
        speech_tokenizer: ONNX session, log mel of 16 kHz audio to speech tokens.
        speaker_encoder: ONNX session, filter bank of 16 kHz audio to an embedding.
        speakers: what `spk2info.pt` holds, by name.
        fingerprint: differs if features were computed by other encoders.
        fp16: whether it computes in half precision.
        tensorrt: whether the flow's estimator is TensorRT's.
    """

    family: int
    sample_rate_hz: int
    device: torch.device
    lm: Any
    vocoder: Any
    encode: Callable[[str], list[int]]
    mel: Callable[[torch.Tensor], torch.Tensor]
    speech_tokenizer: onnxruntime.InferenceSession
    speaker_encoder: onnxruntime.InferenceSession
    speakers: dict[str, dict[str, torch.Tensor]]
    fingerprint: str
    fp16: bool
    tensorrt: bool

    @property
    def rows(self) -> int:
        """Return how many requests the flow takes at once; family 1 and TensorRT take one."""
        return 1 if self.family == 1 or self.tensorrt else 16

    @property
    def tokens_a_second(self) -> int:
        """Return how many speech tokens make a second."""
        rate: int = self.vocoder.flow.input_frame_rate
        return rate

    def session_vocoder(self) -> Any:
        """Return the vocoder with its own state; it shares every module."""
        vocoder = copy.copy(self.vocoder)
        vocoder.hift_cache_dict = {"": None}
        vocoder.mel_overlap_dict = {"": torch.zeros(1, 80, 0)}
        vocoder.flow_cache_dict = {"": torch.zeros(1, 80, 0, 2)}
        return vocoder


def length(count: int, device: torch.device) -> torch.Tensor:
    """Return a length as upstream's models take one: int32 [1]."""
    return torch.tensor([count], dtype=torch.int32, device=device)


def load(
    directory: Path,
    *,
    code_root: Path | None,
    device: str,
    fp16: bool = False,
    tensorrt: bool = False,
    llm: str = "llm.pt",
) -> Checkpoint:
    """Load a model directory, with the language model's weights in the file `llm`.

    Raises:
        ConfigurationError: a file does not fit, the code cannot run its family, or there is no GPU
            for what needs one.
    """
    source = upstream_code.load(code_root)
    described = recipe.read(directory)
    family = described.family
    if family not in source.families:
        raise ConfigurationError(
            f"{directory.name} is of family {family}, and the code there ({source.version}) runs "
            f"{source.families} only: run `python -m ci cosyvoice --from github`",
            param="model",
        )
    chosen = _device(device, needed=fp16 or tensorrt)
    transformers.logging.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr), _own_seed():
        built = described.build()
    lm = built.llm
    if family > 1:
        lm.float()  # transformers 5 loads the text model as the file says, bfloat16
    from cosyvoice.cli import model as upstream  # noqa: PLC0415  there after upstream_code.load

    name = "CosyVoiceModel" if family == 1 else f"CosyVoice{family}Model"
    vocoder = getattr(upstream, name)(lm, built.flow, built.hift, fp16)
    vocoder.device = chosen
    with _readable(f"the weights in {directory}"):
        vocoder.load(*(str(directory / file) for file in (llm, "flow.pt", "hift.pt")))
    if tensorrt:
        precision = "fp16" if fp16 else "fp32"
        plan = directory / f"flow.decoder.estimator.{precision}.mygpu.plan"
        exported = directory / "flow.decoder.estimator.fp32.onnx"
        vocoder.load_trt(str(plan), str(exported), 1, fp16)  # one thread uses it
    if family == 2:  # noqa: PLR2004  upstream's own numbers; family 3 does this at its first call
        vocoder.hift.f0_predictor.double()  # rounding would become phase
    tokenizer = built.get_tokenizer()
    return Checkpoint(
        family=family,
        sample_rate_hz=built.sample_rate,
        device=chosen,
        lm=lm,
        vocoder=vocoder,
        encode=partial(tokenizer.encode, allowed_special=built.allowed_special),
        mel=built.feat_extractor,
        speech_tokenizer=_onnx(directory / f"speech_tokenizer_v{family}.onnx", chosen),
        speaker_encoder=_onnx(directory / "campplus.onnx", torch.device("cpu")),
        speakers=_speakers(directory, chosen),
        fingerprint=_fingerprint(directory, family),
        fp16=fp16,
        tensorrt=tensorrt,
    )


def _device(name: str, *, needed: bool) -> torch.device:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigurationError("device is cuda, and torch sees no GPU", param="device")
    chosen = torch.device("cuda" if there and name != "cpu" else "cpu")
    if needed and chosen.type == "cpu":
        raise ConfigurationError(
            "fp16 or tensorrt asked for: that needs a GPU, and speech is made on the CPU",
            param="device",
        )
    return chosen


def _onnx(path: Path, device: torch.device) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    gpu = "CUDAExecutionProvider"
    usable = device.type == "cuda" and gpu in onnxruntime.get_available_providers()
    providers = [gpu] if usable else ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(str(path), sess_options=options, providers=providers)
    except Exception as error:  # onnxruntime's own classes are not public
        raise ConfigurationError(f"{path} is no ONNX model: {error}", param="model") from error


def _speakers(directory: Path, device: torch.device) -> dict[str, dict[str, torch.Tensor]]:
    path = directory / "spk2info.pt"
    if not path.is_file():
        return {}
    with _readable(str(path)):
        found: dict[str, dict[str, torch.Tensor]] = torch.load(
            path, map_location=device, weights_only=True
        )
    return found


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    """Name a file of weights that the block fails to read.

    Raises:
        ConfigurationError: it did.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigurationError(f"{what} cannot be loaded: {why}", param="model") from error


def _fingerprint(directory: Path, family: int) -> str:
    """Return a digest of the encoders' sizes and ends, which is cheap for half a gigabyte."""
    digest = hashlib.sha256(str(family).encode())
    for name in ("campplus.onnx", f"speech_tokenizer_v{family}.onnx"):
        with (directory / name).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - (1 << 20)))
            digest.update(f"{name} {size}".encode() + file.read())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _own_seed() -> Iterator[None]:
    """Use upstream's seed within the block, and restore the process's random states after it."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  upstream seeds this one
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
