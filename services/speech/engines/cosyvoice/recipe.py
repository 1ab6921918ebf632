"""The model directory's YAML, read as data: it names code to run, so only known names pass.

A checkpoint's `cosyvoice*.yaml` is HyperPyYAML, whose `!new:` and `!apply:` call whatever they
name. Here the file is parsed first, what inference does not read is dropped (GAN discriminators,
dataset processors, calls that reseed every random generator), and every remaining name must be one
of upstream's own building blocks.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from services.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES: Final = {"cosyvoice.yaml": 1, "cosyvoice2.yaml": 2, "cosyvoice3.yaml": 3}
"""The name of the YAML tells the family."""

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
        "text_encoder_input_size",
        "token_frame_rate",
        "token_mel_ratio",
    }
)
_MADE: Final = ("allowed_special", "feat_extractor", "flow", "get_tokenizer", "hift", "llm")
_CALLABLE: Final = frozenset(
    {
        "cosyvoice.flow.DiT.dit.DiT",
        "cosyvoice.flow.decoder.CausalConditionalDecoder",
        "cosyvoice.flow.decoder.ConditionalDecoder",
        "cosyvoice.flow.flow.CausalMaskedDiffWithDiT",
        "cosyvoice.flow.flow.CausalMaskedDiffWithXvec",
        "cosyvoice.flow.flow.MaskedDiffWithXvec",
        "cosyvoice.flow.flow_matching.CausalConditionalCFM",
        "cosyvoice.flow.flow_matching.ConditionalCFM",
        "cosyvoice.flow.length_regulator.InterpolateRegulator",
        "cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor",
        "cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor",
        "cosyvoice.hifigan.generator.CausalHiFTGenerator",
        "cosyvoice.hifigan.generator.HiFTGenerator",
        "cosyvoice.llm.llm.CosyVoice3LM",
        "cosyvoice.llm.llm.Qwen2Encoder",
        "cosyvoice.llm.llm.Qwen2LM",
        "cosyvoice.llm.llm.TransformerLM",
        "cosyvoice.tokenizer.tokenizer.get_qwen_tokenizer",
        "cosyvoice.tokenizer.tokenizer.get_tokenizer",
        "cosyvoice.transformer.encoder.ConformerEncoder",
        "cosyvoice.transformer.encoder.TransformerEncoder",
        "cosyvoice.transformer.upsample_encoder.PreLookaheadLayer",
        "cosyvoice.transformer.upsample_encoder.UpsampleConformerEncoder",
        "cosyvoice.utils.common.ras_sampling",
        "matcha.utils.audio.mel_spectrogram",
        "omegaconf.DictConfig",
        "whisper.tokenizer.get_tokenizer",
    }
)
_PLAIN: Final = "tag:yaml.org,2002:"
_PLAIN_KINDS: Final = frozenset({"bool", "float", "int", "map", "null", "seq", "str"})


@dataclass(frozen=True)
class Recipe:
    """What a model directory is made of.

    Attributes:
        family: 1, 2 or 3.
        path: of the YAML file.
        text: the part of it that is read, safe to give to HyperPyYAML.
    """

    family: int
    path: Path
    text: str

    def build(self) -> SimpleNamespace:
        """Return the modules and values that it describes, in its own names.

        Raises:
            ConfigurationError: one is missing, or they do not fit together.
        """
        from hyperpyyaml import load_hyperpyyaml  # noqa: PLC0415  heavy

        text_model = {"qwen_pretrain_path": str(self.path.parent / "CosyVoice-BlankEN")}
        try:
            built = load_hyperpyyaml(self.text, text_model, overrides_must_match=False)
            built["sample_rate"] = int(built["sample_rate"])
            return SimpleNamespace(**{name: built[name] for name in (*_MADE, "sample_rate")})
        except Exception as error:  # whatever upstream's classes say to their arguments
            raise ConfigurationError(
                f"{self.path} describes no model that can be built: {type(error).__name__}: "
                f"{error}",
                param="model",
            ) from error


def recipe_in(directory: Path) -> Path:
    """Return the YAML file of a model directory.

    Raises:
        ConfigurationError: it has none.
    """
    for name in FAMILIES:
        if (directory / name).is_file():
            return directory / name
    raise ConfigurationError(
        f"{directory} is no CosyVoice model: it has none of {', '.join(FAMILIES)}", param="model"
    )


def read(model: Path) -> Recipe:
    """Return the recipe of a model directory.

    Raises:
        ConfigurationError: there is none, it is not YAML, or names code that is not upstream's.
    """
    from ruamel.yaml import YAML  # noqa: PLC0415  HyperPyYAML's
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415

    path = recipe_in(model)
    yaml = YAML(typ="safe", pure=True)
    try:
        tree = yaml.compose(io.StringIO(path.read_text(encoding="utf-8")))
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML: {error}", param="model") from error
    if getattr(tree, "id", "") != "mapping":
        raise ConfigurationError(f"{path} is no mapping", param="model")
    tree.value = [pair for pair in tree.value if pair[0].value in _READ]
    _check(tree, path, set())
    text = io.StringIO()
    yaml.serialize(tree, text)
    return Recipe(FAMILIES[path.name], path, text.getvalue())


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
            f"{path}, line {line}: {tag} is not one of the building blocks that may be loaded",
            param="model",
        )
    if node.id == "mapping":
        for key, value in node.value:
            _check(key, path, seen)
            _check(value, path, seen)
    elif node.id == "sequence":
        for item in node.value:
            _check(item, path, seen)
