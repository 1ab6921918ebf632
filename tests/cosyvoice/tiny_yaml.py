"""The YAML of tiny models, with every key of the real checkpoints' YAML.

It includes what speech does not need (a GAN's discriminators at full size, the training data's
pipeline, seeds for the global random state), to test that the loader really leaves it out.
"""

from __future__ import annotations

from io import StringIO
from typing import Any, Final

WIDTH: Final = 16
"""Of the text encoder, the language model and most of the flow: the least that the classes take."""

FULL: Final[dict[str, Any]] = {
    "llm_input_size": 896,
    "llm_output_size": 896,
    "flow": {
        "pre_lookahead_layer": {"channels": 1024},
        "decoder": {"estimator": {"dim": 1024, "depth": 22, "heads": 16, "dim_head": 64}},
    },
    "hift": {
        "base_channels": 512,
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5]] * 3,
        "source_resblock_kernel_sizes": [7, 7, 11],
        "source_resblock_dilation_sizes": [[1, 3, 5]] * 3,
        "f0_predictor": {"cond_channels": 512},
    },
}
"""What to change for family 3 at its real size: examples/libritts/cosyvoice3/conf of upstream's."""

_SEEDS = """\
__set_seed1: !apply:random.seed [1986]
__set_seed2: !apply:numpy.random.seed [1986]
__set_seed3: !apply:torch.manual_seed [1986]
__set_seed4: !apply:torch.cuda.manual_seed_all [1986]

"""
_SAMPLING = """\
    sampling: !name:cosyvoice.utils.common.ras_sampling
        top_p: 0.8
        top_k: 25
        win_size: 10
        tau_r: 0.1
"""
_CFM = """\
        in_channels: 240
        n_spks: 1
        spk_emb_dim: 80
        cfm_params: !new:omegaconf.DictConfig
            content:
                sigma_min: 1e-06
                solver: 'euler'
                t_scheduler: 'cosine'
                training_cfg_rate: 0.2
                inference_cfg_rate: 0.7
                reg_loss_type: 'l1'
"""

_QWEN_PARAMETERS = f"""\
sample_rate: 24000
llm_input_size: {WIDTH}
llm_output_size: {WIDTH}
spk_embed_dim: 192
qwen_pretrain_path: ''
token_frame_rate: 25
token_mel_ratio: 2

chunk_size: 25
num_decoding_left_chunks: -1

"""
_QWEN_LM = f"""\
    llm_input_size: !ref <llm_input_size>
    llm_output_size: !ref <llm_output_size>
    speech_token_size: 6561
    length_normalized_loss: True
    lsm_weight: 0
    mix_ratio: [5, 15]
    llm: !new:cosyvoice.llm.llm.Qwen2Encoder
        pretrain_path: !ref <qwen_pretrain_path>
{_SAMPLING}
"""
_CAUSAL_FLOW = """\
    output_size: 80
    spk_embed_dim: !ref <spk_embed_dim>
    output_type: 'mel'
    vocab_size: 6561
    input_frame_rate: !ref <token_frame_rate>
    only_mask_loss: True
    token_mel_ratio: !ref <token_mel_ratio>
    pre_lookahead_len: 3
"""
_CHUNKS = """\
            static_chunk_size: !ref <chunk_size> * <token_mel_ratio>
            num_decoding_left_chunks: !ref <num_decoding_left_chunks>

"""
# UpsampleConformerEncoder is 512 wide whatever it is told.
_FAMILY_2 = f"""\
{_QWEN_PARAMETERS}\
llm: !new:cosyvoice.llm.llm.Qwen2LM
{_QWEN_LM}\
flow: !new:cosyvoice.flow.flow.CausalMaskedDiffWithXvec
    input_size: 512
{_CAUSAL_FLOW}\
    encoder: !new:cosyvoice.transformer.upsample_encoder.UpsampleConformerEncoder
        output_size: 512
        attention_heads: 2
        linear_units: 32
        num_blocks: 1
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0.1
        normalize_before: True
        input_layer: 'linear'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        input_size: 512
        use_cnn_module: False
        macaron_style: False
        static_chunk_size: !ref <chunk_size>
    decoder: !new:cosyvoice.flow.flow_matching.CausalConditionalCFM
{_CFM}\
        estimator: !new:cosyvoice.flow.decoder.CausalConditionalDecoder
            in_channels: 320
            out_channels: 80
            channels: [{WIDTH}]
            dropout: 0.0
            attention_head_dim: 8
            n_blocks: 1
            num_mid_blocks: 1
            num_heads: 2
            act_fn: 'gelu'
{_CHUNKS}\
"""
_FAMILY_3 = f"""\
{_QWEN_PARAMETERS}\
llm: !new:cosyvoice.llm.llm.CosyVoice3LM
{_QWEN_LM}\
flow: !new:cosyvoice.flow.flow.CausalMaskedDiffWithDiT
    input_size: 80
{_CAUSAL_FLOW}\
    pre_lookahead_layer: !new:cosyvoice.transformer.upsample_encoder.PreLookaheadLayer
        in_channels: 80
        channels: {WIDTH}
        pre_lookahead_len: 3
    decoder: !new:cosyvoice.flow.flow_matching.CausalConditionalCFM
{_CFM}\
        estimator: !new:cosyvoice.flow.DiT.dit.DiT
            dim: 64
            depth: 1
            heads: 2
            dim_head: 32
            ff_mult: 2
            mel_dim: 80
            mu_dim: 80
            spk_dim: 80
            out_channels: 80
{_CHUNKS}\
"""


def _hift(name: str, predictor: str, extra: str = "") -> str:
    return f"""\
hift: !new:cosyvoice.hifigan.generator.{name}
    in_channels: 80
    base_channels: 32
    nb_harmonics: 8
    sampling_rate: !ref <sample_rate>
    nsf_alpha: 0.1
    nsf_sigma: 0.003
    nsf_voiced_threshold: 10
    upsample_rates: [8, 5, 3]
    upsample_kernel_sizes: [16, 11, 7]
    istft_params:
        n_fft: 16
        hop_len: 4
    resblock_kernel_sizes: [3]
    resblock_dilation_sizes: [[1]]
    source_resblock_kernel_sizes: [3, 3, 3]
    source_resblock_dilation_sizes: [[1], [1], [1]]
    lrelu_slope: 0.1
    audio_limit: 0.99
{extra}\
    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.{predictor}
        num_class: 1
        in_channels: 80
        cond_channels: {WIDTH}

"""


_MODULES = {
    2: _FAMILY_2 + _hift("HiFTGenerator", "ConvRNNF0Predictor"),
    3: _FAMILY_3
    + _hift(
        "CausalHiFTGenerator",
        "CausalConvRNNF0Predictor",
        "    conv_pre_look_right: 4\n",
    ),
}


def _mel(name: str, fmax: str, n_fft: int, hop: int) -> str:
    return f"""\
{name}: !name:matcha.utils.audio.mel_spectrogram
    n_fft: {n_fft}
    num_mels: 80
    sampling_rate: !ref <sample_rate>
    hop_size: {hop}
    win_size: {n_fft}
    fmin: 0
    fmax: {fmax}
    center: False
"""


_GAN = """\
hifigan: !new:cosyvoice.hifigan.hifigan.HiFiGan
    generator: !ref <hift>
    discriminator: !new:cosyvoice.hifigan.discriminator.MultipleDiscriminator
        mpd: !new:matcha.hifigan.models.MultiPeriodDiscriminator
        mrd: !new:cosyvoice.hifigan.discriminator.MultiResSpecDiscriminator
    mel_spec_transform: [
        !ref <mel_spec_transform1>
    ]

parquet_opener: !name:cosyvoice.dataset.processor.parquet_opener
"""
_TOKENIZER = {
    2: """\
get_tokenizer: !name:cosyvoice.tokenizer.tokenizer.get_qwen_tokenizer
    token_path: !ref <qwen_pretrain_path>
    skip_special_tokens: True
""",
}
_TOKENIZER[3] = _TOKENIZER[2] + "    version: cosyvoice3\n"


def _training(family: int) -> str:
    """Return all the keys that no inference reads, and the three among them that it does."""
    n_fft, hop, truncate = 1920, 480, {2: 24480, 3: 24960}[family]
    frames = "    num_frames: 960\n"
    whisper = "compute_whisper_fbank: !name:cosyvoice.dataset.processor.compute_whisper_fbank\n"
    whisper = whisper + frames if family == 3 else ""
    steps = ["parquet_opener", "tokenize", "filter", "resample", "compute_fbank", "parse_embedding"]
    gan_steps = [*steps[:4], "truncate", "compute_fbank", "compute_f0", "parse_embedding"]
    if family == 3:
        steps.append("compute_whisper_fbank")
    last = ["shuffle", "sort", "batch", "padding"]
    return (
        _mel("mel_spec_transform1", "null", n_fft, hop)
        + _GAN
        + _TOKENIZER[family]
        + f"""\
allowed_special: 'all'
tokenize: !name:cosyvoice.dataset.processor.tokenize
    get_tokenizer: !ref <get_tokenizer>
    allowed_special: !ref <allowed_special>
filter: !name:cosyvoice.dataset.processor.filter
    max_length: 6000
    min_length: 100
    token_max_length: 200
    token_min_length: 1
resample: !name:cosyvoice.dataset.processor.resample
    resample_rate: !ref <sample_rate>
truncate: !name:cosyvoice.dataset.processor.truncate
    truncate_length: {truncate}
"""
        + _mel("feat_extractor", "null" if family == 3 else "8000", n_fft, hop)
        + f"""\
compute_fbank: !name:cosyvoice.dataset.processor.compute_fbank
    feat_extractor: !ref <feat_extractor>
{frames}{whisper}\
compute_f0: !name:cosyvoice.dataset.processor.compute_f0
    sample_rate: !ref <sample_rate>
    hop_size: {hop}
parse_embedding: !name:cosyvoice.dataset.processor.parse_embedding
    normalize: True
shuffle: !name:cosyvoice.dataset.processor.shuffle
    shuffle_size: 1000
sort: !name:cosyvoice.dataset.processor.sort
    sort_size: 500
batch: !name:cosyvoice.dataset.processor.batch
    batch_type: 'dynamic'
    max_frames_in_batch: 2000
padding: !name:cosyvoice.dataset.processor.padding
    use_spk_embedding: False

data_pipeline: [{", ".join(f"!ref <{step}>" for step in [*steps, *last])}]
data_pipeline_gan: [{", ".join(f"!ref <{step}>" for step in [*gan_steps, *last])}]

train_conf:
    optim: adam
    optim_conf:
        lr: 0.001
    scheduler: warmuplr
    scheduler_conf:
        warmup_steps: 2500
    max_epoch: 200
    grad_clip: 5
    accum_grad: 2
    log_interval: 100
    save_per_step: -1
train_conf_gan:
    optim: adam
    optim_conf:
        lr: 0.0002
    scheduler: constantlr
    optim_d: adam
    optim_conf_d:
        lr: 0.0002
    scheduler_d: constantlr
    max_epoch: 200
    grad_clip: 5
    accum_grad: 1
    log_interval: 100
    save_per_step: -1
"""
    )


def whole(family: int, changed: dict[str, Any] | None = None) -> str:
    """Return what a checkpoint's YAML says, with some sizes changed."""
    text = _SEEDS + _MODULES[family] + _training(family)
    if not changed:
        return text
    from hyperpyyaml.core import recursive_update  # noqa: PLC0415  heavy
    from ruamel.yaml import YAML  # noqa: PLC0415  HyperPyYAML's

    tree, made = YAML().load(text), StringIO()
    recursive_update(tree, changed, must_match=True)
    YAML().dump(tree, made)  # with its tags, which nobody has followed
    return made.getvalue()


def speaking(family: int) -> str:
    """Return the part of it that makes `llm`, `flow` and `hift`."""
    return _MODULES[family]
