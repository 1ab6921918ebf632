"""CosyVoice model directories of a few megabytes, or of full size, laid out like the real ones.

The modules are upstream's own classes, as narrow as these allow. The weights are random, but
utterances end after a plausible length, streamed text is answered with fill tokens, and the
vocoder's audio is loud enough to compare.

`python -m tests.cosyvoice.tiny FAMILY FOLDER [CODE]` makes one and prints its path.
"""

from __future__ import annotations

import json
import sys
import warnings
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from services.speech.engines.cosyvoice import upstream_code
from tests.cosyvoice import tiny_onnx, tiny_tokenizer, tiny_yaml

Family = Literal[2, 3]

_NAMES = {2: "CosyVoice2-0.5B", 3: "Fun-CosyVoice3-0.5B"}
_SMALL = 1 << 14  # elements; larger tensors are saved as windows on little noise
_NEVER = -30.0  # as a logit
_QWEN = {  # Qwen2.5-0.5B
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
}


def build(family: Family, root: Path, *, seed: int = 0, full: bool = False) -> Path:
    """Make a directory in `root`, named as its checkpoint is, and return its path.

    It holds what inference reads of a real one, with `full` (family 3 only) in the real size. The
    same seed makes the same weights. Upstream's code is where
    `services.speech.engines.cosyvoice.upstream_code` finds it.
    """
    import torch  # noqa: PLC0415
    from hyperpyyaml import load_hyperpyyaml  # noqa: PLC0415

    upstream_code.load()
    folder = root / _NAMES[family]
    folder.mkdir(parents=True)
    sizes = tiny_yaml.FULL if full else {}
    (folder / f"cosyvoice{family}.yaml").write_text(
        tiny_yaml.whole(family, sizes), encoding="utf-8"
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what upstream's code is made with
        torch.manual_seed(seed)
        text_model = _blank_qwen(folder / "CosyVoice-BlankEN", _QWEN if full else {})
        overrides = {**sizes, "qwen_pretrain_path": str(text_model)}
        modules = load_hyperpyyaml(StringIO(tiny_yaml.speaking(family)), overrides=overrides)
        torch.manual_seed(seed)  # upstream's flow seeds everything with 0
        _steer(modules["llm"].float())
        _sound(modules["flow"], modules["hift"])
        for name in ("llm", "flow", "hift"):
            state = modules[name].state_dict()
            torch.save(_thinned(state) if name == "flow" else state, folder / f"{name}.pt")
    tiny_onnx.write_campplus(folder / "campplus.onnx", seed)
    tiny_onnx.write_speech_tokenizer(folder / f"speech_tokenizer_v{family}.onnx", seed)
    return folder


def _blank_qwen(folder: Path, sizes: dict[str, int]) -> Path:
    """Write the language model that both families start from, in bf16 as the real one is."""
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415
    from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: PLC0415

    tiny_tokenizer.write(folder)
    # Written out, not by transformers: its own file would be that of its version.
    config: dict[str, Any] = {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "hidden_act": "silu",
        "hidden_size": tiny_yaml.WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": 32,
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "model_type": "qwen2",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
        **sizes,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    weights = Qwen2ForCausalLM(Qwen2Config(**config)).to(torch.bfloat16).state_dict()
    del weights["lm_head.weight"]  # tied
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _steer(lm: Any) -> None:
    """Make a language model end an utterance soon after it may, and fill when text is short.

    Three of the hidden channels are reserved: a constant (family 3's decoder has no bias), a mark
    on the token that ends the text, and whether attention has found that mark. Before the end of
    the text the fill token is likely, after it impossible, as in a trained model.
    """
    constant, mark, seen = 0, 1, 2
    _randomise(lm)
    causal = lm.llm.model
    tables = [causal.model.embed_tokens.weight, lm.speech_embedding.weight]
    size = lm.speech_token_size
    if hasattr(lm, "llm_embedding"):  # family 2
        tables.append(lm.llm_embedding.weight)
        end, fill, task = size, size + 2, lm.llm_embedding.weight[1]
    else:
        end, fill, task = size + 1, size + 3, lm.speech_embedding.weight[size + 2]
    for table in tables:
        table.normal_()
        table[:, [constant, mark, seen]] = table.new_tensor([4.0, 0.0, 0.0])
    task[mark] = 8.0

    layers = causal.model.layers
    attention = layers[0].self_attn
    head = attention.head_dim
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.bias.zero_()
        projection.weight[:head] = 0.0
    slowest = head // 2 - 1  # of the rotary frequencies: this pair hardly turns
    attention.q_proj.weight[slowest, constant] = 5.0
    attention.k_proj.weight[slowest, mark] = 5.0
    attention.v_proj.weight[0, mark] = 1.0
    for layer in layers:
        for output in (layer.self_attn.o_proj, layer.mlp.down_proj):
            output.weight.mul_(len(layers) ** -0.5)  # together they add what one would
            output.weight[[constant, mark, seen]] = 0.0
    attention.o_proj.weight[seen, 0] = 3.0

    decoder = lm.llm_decoder
    if decoder.bias is not None:
        decoder.bias.zero_()
    decoder.weight.normal_(0, 0.6 * (tiny_yaml.WIDTH / decoder.weight.shape[1]) ** 0.5)
    decoder.weight[:, [constant, mark, seen]] = 0.0
    decoder.weight[size:] = 0.0
    decoder.weight[size:, constant] = _NEVER
    decoder.weight[end, [constant, seen]] = decoder.weight.new_tensor([1.6, 0.65])
    decoder.weight[fill, [constant, seen]] = decoder.weight.new_tensor([2.7, -10.0])


def _randomise(module: Any) -> None:
    """Give every matrix weights that let what goes in come out: libraries start much smaller."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)


def _sound(flow: Any, hift: Any) -> None:
    """Make the audio loud, and other audio for another voice or other tokens.

    Trained models make nearly the same of a whole utterance and of its parts. So do these: little
    comes of attention in the flow and of the vocoder's source, whose phases begin anew each time.
    """
    import torch  # noqa: PLC0415

    flow.spk_embed_affine_layer.weight.normal_()
    for name, parameter in flow.named_parameters():
        if "linear_out" in name or "to_out" in name:
            parameter.mul_(0.003)
    hift.m_source.l_linear.weight.mul_(0.001)
    hift.f0_predictor.classifier.bias.fill_(120.0)
    # What all mels have in common is by far the most of what random layers make: it goes.
    last, made = hift.conv_post, []
    hook = last.register_forward_hook(lambda *call: made.append(call[2]))
    hift.eval().inference(speech_feat=torch.randn(1, 80, 100))
    hook.remove()
    hift.float()  # family 3's turned its pitch predictor to float64
    spread, mean = torch.std_mean(made[0], dim=(0, 2))
    gain = 0.5 / spread
    last.parametrizations.weight.original0.mul_(gain[:, None, None])
    last.bias.sub_(mean).mul_(gain)
    last.bias[: len(last.bias) // 2] -= 1.0  # the log of the magnitudes: not so loud as to clip


def _thinned(state: dict[str, Any]) -> dict[str, Any]:
    """Return `state` with large tensors as overlapping windows on noise, which take little disk.

    Loading makes whole tensors of them.
    """
    import torch  # noqa: PLC0415

    thin = {}
    for name, tensor in state.items():
        if tensor.numel() <= _SMALL:
            thin[name] = tensor
            continue
        row = tensor[0].numel()
        noise = torch.randn(row + len(tensor)) * tensor.std()
        strides = (1, *torch.empty(tensor.shape[1:]).stride())
        thin[name] = noise.as_strided(tensor.shape, strides)
    return thin


if __name__ == "__main__":
    wanted, where, *source = sys.argv[1:]
    upstream_code.load(*map(Path, source))
    sys.stdout.write(f"{build(int(wanted), Path(where))}\n")  # type: ignore[arg-type]
