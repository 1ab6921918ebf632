"""A CosyVoice model in memory: upstream's modules with a checkpoint's weights.

Loading follows upstream's constructors, without what else they do: downloads, a text frontend of
their own, and calls that seed every random generator of the process.

A model's `cosyvoice*.yaml` is HyperPyYAML, whose `!new:` and `!apply:` call whatever they name. So
the file is parsed as data first, what inference does not read is dropped (GAN discriminators,
dataset processors, calls that seed), and every remaining name must be one of upstream's own
building blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import onnxruntime
import torch
import transformers
from torch.nn.utils import parametrize

from services.errors import ConfigurationError
from services.speech.engines.cosyvoice import upstream_code
from services.speech.engines.cosyvoice.download import FAMILIES, recipe_in
from services.speech.engines.cosyvoice.vocoder import CausalVocoder, Vocoder

_SEED: Final = 1986  # upstream's; buffers of noise are made at load, not read from the checkpoint

_READ: Final = frozenset(
    {
        "allowed_special",
        "chunk_size",
        "feat_extractor",
        "flow",
        "get_tokenizer",
        "hift",
        "llm",
        "llm_input_size",
        "llm_output_size",
        "num_decoding_left_chunks",
        "qwen_pretrain_path",
        "sample_rate",
        "spk_embed_dim",
        "token_frame_rate",
        "token_mel_ratio",
    }
)
_MADE: Final = ("allowed_special", "feat_extractor", "flow", "get_tokenizer", "hift", "llm")
_CALLABLE: Final = frozenset(
    {
        "cosyvoice.flow.DiT.dit.DiT",
        "cosyvoice.flow.decoder.CausalConditionalDecoder",
        "cosyvoice.flow.flow.CausalMaskedDiffWithDiT",
        "cosyvoice.flow.flow.CausalMaskedDiffWithXvec",
        "cosyvoice.flow.flow_matching.CausalConditionalCFM",
        "cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor",
        "cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor",
        "cosyvoice.hifigan.generator.CausalHiFTGenerator",
        "cosyvoice.hifigan.generator.HiFTGenerator",
        "cosyvoice.llm.llm.CosyVoice3LM",
        "cosyvoice.llm.llm.Qwen2Encoder",
        "cosyvoice.llm.llm.Qwen2LM",
        "cosyvoice.tokenizer.tokenizer.get_qwen_tokenizer",
        "cosyvoice.transformer.upsample_encoder.PreLookaheadLayer",
        "cosyvoice.transformer.upsample_encoder.UpsampleConformerEncoder",
        "cosyvoice.utils.common.ras_sampling",
        "matcha.utils.audio.mel_spectrogram",
        "omegaconf.DictConfig",
    }
)
_PLAIN: Final = "tag:yaml.org,2002:"
_PLAIN_KINDS: Final = frozenset({"bool", "float", "int", "map", "null", "seq", "str"})


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model; its modules are shared by all requests."""

    family: int  # 2 or 3
    sample_rate_hz: int  # of what it makes
    device: torch.device  # where it computes
    lm: Any  # upstream's language model, text to speech tokens
    vocoder: Any  # upstream's model object, speech tokens to audio
    encode: Callable[[str], list[int]]  # text to the ids of text tokens
    mel: Callable[[torch.Tensor], torch.Tensor]  # samples [1, N] at that rate to a mel [1, 80, T]
    speech_tokenizer: onnxruntime.InferenceSession  # log mel of 16 kHz audio to speech tokens
    speaker_encoder: onnxruntime.InferenceSession  # filter bank of 16 kHz audio to an embedding
    fingerprint: str  # differs if features were computed by other encoders
    fp16: bool  # whether it computes in half precision
    rows: int  # how many requests the flow takes at once; TensorRT takes one

    def vocoder_of(self, seed: int) -> Vocoder | CausalVocoder:
        """Return what makes the audio of one segment; `seed` is for its noise."""
        hift = self.vocoder.hift
        return Vocoder(hift, seed) if self.family == 2 else CausalVocoder(hift)  # noqa: PLR2004

    @property
    def tokens_a_second(self) -> int:
        """Return how many speech tokens make a second."""
        rate: int = self.vocoder.flow.input_frame_rate
        return rate


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
    recipe = recipe_in(directory)
    family = FAMILIES[recipe.name]
    if family not in source.families:
        raise ConfigurationError(
            f"{directory.name} is of family {family}, and the code there ({source.version}) runs "
            f"{source.families} only: run `python -m ci cosyvoice --from github`"
        )
    chosen = _device(device, needed=fp16 or tensorrt)
    transformers.logging.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr), _own_seed():
        built = _built(recipe)
    lm = built.llm
    lm.float()  # transformers 5 loads the text model as the file says, bfloat16
    from cosyvoice.cli import model as upstream  # noqa: PLC0415  there after upstream_code.load

    vocoder = getattr(upstream, f"CosyVoice{family}Model")(lm, built.flow, built.hift, fp16)
    vocoder.device = chosen
    try:
        vocoder.load(*(str(directory / file) for file in (llm, "flow.pt", "hift.pt")))
    except (RuntimeError, OSError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigurationError(f"the weights in {directory} cannot be loaded: {why}") from error
    for module in vocoder.hift.modules():  # training's form of the weights costs each call
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
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
        fingerprint=_fingerprint(directory, family),
        fp16=fp16,
        rows=1 if tensorrt else 16,
    )


def _built(recipe: Path) -> SimpleNamespace:
    """Return the modules and values that a YAML describes, in its own names.

    Raises:
        ConfigurationError: it names what it may not, or does not fit together.
    """
    from hyperpyyaml import load_hyperpyyaml  # noqa: PLC0415  heavy

    text = speaking_part(recipe)
    text_model = {"qwen_pretrain_path": str(recipe.parent / "CosyVoice-BlankEN")}
    try:
        built = load_hyperpyyaml(text, text_model, overrides_must_match=False)
        built["sample_rate"] = int(built["sample_rate"])
        return SimpleNamespace(**{name: built[name] for name in (*_MADE, "sample_rate")})
    except Exception as error:  # whatever upstream's classes say to their arguments
        raise ConfigurationError(
            f"{recipe} describes no model that can be built: {type(error).__name__}: {error}"
        ) from error


def speaking_part(recipe: Path) -> str:
    """Return what inference reads of a YAML, safe to give to HyperPyYAML.

    Raises:
        ConfigurationError: it is not YAML, or names code that is not upstream's.
    """
    from ruamel.yaml import YAML  # noqa: PLC0415  HyperPyYAML's
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415

    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    try:
        tree = yaml.compose(io.StringIO(recipe.read_text(encoding="utf-8")))
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{recipe} is not YAML: {error}") from error
    if getattr(tree, "id", "") != "mapping":
        raise ConfigurationError(f"{recipe} is no mapping")
    tree.value = [pair for pair in tree.value if pair[0].value in _READ]
    _check(tree, recipe, set())
    yaml.serialize(tree, text)
    return text.getvalue()


def _check(node: Any, path: Path, seen: set[int]) -> None:
    if id(node) in seen:  # an alias, perhaps of a node that contains it
        return
    seen.add(id(node))
    tag = str(node.tag)
    kind, _, target = tag.partition(":")
    fine = (
        tag == "!ref"
        or (kind in {"!new", "!name"} and target in _CALLABLE)
        or (tag.startswith(_PLAIN) and tag.removeprefix(_PLAIN) in _PLAIN_KINDS)
    )
    if not fine:
        line = node.start_mark.line + 1
        raise ConfigurationError(
            f"{path}, line {line}: {tag} is not one of the building blocks that may be loaded"
        )
    if node.id == "mapping":
        for key, value in node.value:
            _check(key, path, seen)
            _check(value, path, seen)
    elif node.id == "sequence":
        for item in node.value:
            _check(item, path, seen)


def _device(name: str, *, needed: bool) -> torch.device:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigurationError("device is cuda, and torch sees no GPU")
    chosen = torch.device("cuda" if there and name != "cpu" else "cpu")
    if needed and chosen.type == "cpu":
        raise ConfigurationError(
            "fp16 or tensorrt asked for: that needs a GPU, and speech is made on the CPU"
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
        raise ConfigurationError(f"{path} is no ONNX model: {error}") from error


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
