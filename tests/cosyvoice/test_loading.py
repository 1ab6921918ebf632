"""A model directory is data: loading it runs no code, and errors in it are reported at start."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

from services.errors import ConfigurationError
from services.speech.engines.cosyvoice import checkpoint, download, prompt, upstream_code
from services.speech.engines.cosyvoice.engine import CosyVoiceEngine
from tests.cosyvoice import tiny_onnx
from tests.cosyvoice.conftest import CODE, forget_filters
from tests.cosyvoice.kaldi import fbank
from tests.cosyvoice.speaking import ANNA, BEN, asked, frames, sound

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.speech.engines.cosyvoice.checkpoint import Checkpoint
    from tests.cosyvoice.tiny import Family

    EngineOf = Callable[..., CosyVoiceEngine]

FAMILIES = pytest.mark.parametrize("family", [2, 3])


@pytest.fixture
def copied(tiny_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Return `copied(family)`: a directory of links, whose files a test may replace."""

    def copy(family: Family) -> Path:
        model = tiny_model(family)
        made = tmp_path / model.name
        for path in model.rglob("*"):
            there = made / path.relative_to(model)
            if path.is_file():
                there.parent.mkdir(parents=True, exist_ok=True)
                there.symlink_to(path)
        return made

    return copy


def loaded(model: Path, **switched: Any) -> Checkpoint:
    return checkpoint.load(model, code_root=None, device="cpu", **switched)


def replaced(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def rewritten(model: Path, old: str, new: str) -> int:
    """Replace a line of the model's YAML; return its number."""
    (path,) = model.glob("cosyvoice*.yaml")
    text = path.read_text(encoding="utf-8")
    assert old in text
    text = text.replace(old, new, 1)
    replaced(path, text.encode())
    return text[: text.index(new)].count("\n") + 1


@pytest.mark.parametrize(
    "value",
    [
        "!apply:os.system ['touch {ran}']",
        "!new:subprocess.Popen [['touch', '{ran}']]",
        "!name:os.system ['touch {ran}']",
        "!!python/object/apply:os.system ['touch {ran}']",
        "!!python/object/new:subprocess.Popen [['touch', '{ran}']]",
        "!!python/name:os.system ''",
        "!include:{ran}",
        "!copy <llm_input_size>",
        "!tuple (1, 2)",
        "[1, {{a: !apply:os.system ['touch {ran}']}}]",
    ],
)
def test_a_yaml_that_names_foreign_code_is_refused_with_the_line_and_runs_nothing(
    copied: Callable[..., Path], tmp_path: Path, value: str
) -> None:
    model, ran = copied(2), tmp_path / "ran"
    line = rewritten(model, "sample_rate: 24000", f"sample_rate: {value.format(ran=ran)}")
    with pytest.raises(ConfigurationError) as error:
        loaded(model)
    assert f"cosyvoice2.yaml, line {line}: " in str(error.value)
    assert not ran.exists()


def test_foreign_code_under_a_key_that_nobody_reads_is_not_run(
    copied: Callable[..., Path], tmp_path: Path
) -> None:
    model, ran = copied(2), tmp_path / "ran"
    call = f"!apply:os.system ['touch {ran}']"
    rewritten(model, "sample_rate: 24000", f"evil: {call}\nsample_rate: 24000")
    assert loaded(model).sample_rate_hz == 24_000
    assert not ran.exists()


@pytest.mark.parametrize(
    "value", ["!ref <evil>", "!ref <__import__('os').system('touch {ran}')>", "!ref <{ran}>"]
)
def test_a_reference_reaches_nothing_but_what_was_read(
    copied: Callable[..., Path], tmp_path: Path, value: str
) -> None:
    model, ran = copied(2), tmp_path / "ran"
    call = f"!apply:os.system ['touch {ran}']"
    rewritten(model, "sample_rate: 24000", f"evil: {call}\nsample_rate: {value.format(ran=ran)}")
    with pytest.raises(ConfigurationError):
        loaded(model)
    assert not ran.exists()


@pytest.mark.parametrize("content", [b"", b"- 1", b"a: [", b"\xff\xfe\x00", b"llm: 1"])
def test_a_yaml_that_is_none_is_refused(copied: Callable[..., Path], content: bytes) -> None:
    model = copied(2)
    replaced(model / "cosyvoice2.yaml", content)
    with pytest.raises(ConfigurationError, match=r"cosyvoice2\.yaml"):
        loaded(model)


def test_a_yaml_that_holds_itself_is_refused(copied: Callable[..., Path]) -> None:
    model = copied(2)
    rewritten(model, "sample_rate: 24000", "sample_rate: &a [*a, *a]")
    with pytest.raises(ConfigurationError, match=r"cosyvoice2\.yaml"):
        loaded(model)


@FAMILIES
def test_loading_leaves_every_random_state_of_the_process_as_it_was(
    tiny_model: Callable[..., Path], family: Family
) -> None:
    import torch  # noqa: PLC0415  heavy

    model = tiny_model(family)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    loaded(model)
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002

    assert before[0] == after[0]
    np.testing.assert_equal(before[1], after[1])
    assert torch.equal(before[2], after[2])


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in (2, 3) for name in (download.LLM, *download.NEEDED[family])],
)
def test_a_file_that_is_missing_is_named(
    copied: Callable[..., Path], family: Family, name: str
) -> None:
    model = copied(family)
    (model / name).unlink()
    with pytest.raises(ConfigurationError) as error:
        CosyVoiceEngine(model=str(model), code=CODE)
    assert str(model) in str(error.value)
    assert name in str(error.value)


def test_a_directory_without_a_recipe_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cosyvoice2\.yaml"):
        CosyVoiceEngine(model=str(tmp_path), code=CODE)


@pytest.mark.parametrize("name", ["llm.pt", "flow.pt", "hift.pt"])
@pytest.mark.parametrize("broken", ["empty", "cut", "text", "other"])
def test_weights_that_do_not_fit_are_refused_with_their_directory(
    copied: Callable[..., Path], name: str, broken: str
) -> None:
    model = copied(2)
    whole = (model / name).read_bytes()
    contents = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "text": b"version 1\n",
        "other": (model / ("flow.pt" if name != "flow.pt" else "hift.pt")).read_bytes(),
    }
    replaced(model / name, contents[broken])
    with pytest.raises(ConfigurationError) as error:
        loaded(model)
    assert str(model) in str(error.value)


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(
    copied: Callable[..., Path], tmp_path: Path
) -> None:
    import torch  # noqa: PLC0415  heavy

    class Evil:
        def __reduce__(self) -> Any:
            import os  # noqa: PLC0415

            return os.system, (f"touch {tmp_path / 'ran'}",)

    model = copied(2)
    (model / "llm.pt").unlink()
    torch.save({"a": Evil()}, model / "llm.pt")
    with pytest.raises(ConfigurationError, match=model.name):
        loaded(model)
    assert not (tmp_path / "ran").exists()


def test_the_language_model_is_the_file_that_is_chosen(copied: Callable[..., Path]) -> None:
    import torch  # noqa: PLC0415  heavy

    model = copied(2)
    weights = torch.load(model / "llm.pt")
    changed = {name: one + 1 for name, one in weights.items()}
    torch.save(changed, model / "llm.rl.pt")
    name, bias = next((name, one) for name, one in changed.items() if name.endswith("bias"))
    assert torch.equal(loaded(model, llm="llm.rl.pt").lm.state_dict()[name], bias)


@pytest.mark.parametrize("name", ["campplus.onnx", "speech_tokenizer_v2.onnx"])
def test_an_encoder_that_is_none_is_named(copied: Callable[..., Path], name: str) -> None:
    model = copied(2)
    replaced(model / name, b"nothing")
    with pytest.raises(ConfigurationError, match=name):
        loaded(model)


def test_a_module_of_other_width_is_refused(copied: Callable[..., Path]) -> None:
    model = copied(2)
    rewritten(model, "vocab_size: 6561", "vocab_size: 6000")
    with pytest.raises(ConfigurationError, match="weights"):
        loaded(model)


def test_a_block_with_an_argument_it_does_not_know_is_refused(copied: Callable[..., Path]) -> None:
    model = copied(2)
    rewritten(model, "vocab_size: 6561", "vocab_size: 6561\n    colour: red")
    with pytest.raises(ConfigurationError, match=r"cosyvoice2\.yaml"):
        loaded(model)


def test_a_family_that_the_code_lacks_is_refused_and_the_message_says_what_to_run(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, upstream: upstream_code.Code
) -> None:
    monkeypatch.setattr(upstream_code, "load", lambda _: replace(upstream, families=(1,)))
    with pytest.raises(ConfigurationError, match="python -m ci cosyvoice --from github"):
        loaded(tiny_model(2))


@pytest.mark.parametrize("flag", ["fp16", "tensorrt"])
def test_what_needs_a_gpu_is_refused_on_a_cpu(tiny_model: Callable[..., Path], flag: str) -> None:
    with pytest.raises(ConfigurationError, match="GPU"):
        loaded(tiny_model(2), **{flag: True})


def test_a_gpu_that_is_not_there_is_refused(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="no GPU"):
        checkpoint.load(tiny_model(2), code_root=None, device="cuda")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with each run of an encoder."""
    runs: list[str] = []
    run = onnxruntime.InferenceSession.run

    def noted(self: Any, *given: Any, **named: Any) -> Any:
        runs.append(self.get_inputs()[0].name)
        return run(self, *given, **named)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", noted)
    return runs


async def test_features_of_a_voice_are_computed_once_and_outlive_the_process(
    engine_of: EngineOf, tiny_model: Callable[..., Path], encoded: list[str], tmp_path: Path
) -> None:
    engine = engine_of(2)
    folder = tmp_path / "features"
    folder.mkdir()
    anna = replace(ANNA, id="voice_anna", features=folder)
    encoded.clear()
    await engine.prepare(anna)
    assert sorted(encoded) == ["feats", "input"]
    (kept,) = list(folder.iterdir())
    first = await frames(engine, asked(engine, reference=anna, one_pass=True))
    assert len(encoded) == 2

    another = CosyVoiceEngine(model=str(tiny_model(2)), code=CODE, device="cpu")
    await another.start()
    encoded.clear()
    again = await frames(another, asked(another, reference=anna, one_pass=True))
    assert encoded == []
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(again))
    await another.close()

    engine.forget("voice_anna")
    kept.unlink()
    await engine.prepare(anna)
    assert len(encoded) == 2
    engine.forget("voice_anna")


async def test_a_broken_file_of_features_is_made_anew(
    engine_of: EngineOf, encoded: list[str], tmp_path: Path
) -> None:
    engine = engine_of(2)
    anna = replace(ANNA, id="voice_anna", features=tmp_path)
    await engine.prepare(anna)
    (kept,) = tmp_path.iterdir()  # noqa: ASYNC240
    whole = kept.read_bytes()
    for content in (b"", whole[:100], whole[:-1], b"\xff" * 64):
        kept.write_bytes(content)
        engine.forget("voice_anna")
        encoded.clear()
        await engine.prepare(anna)
        assert len(encoded) == 2
        assert kept.read_bytes() == whole
    engine.forget("voice_anna")


async def test_a_voice_whose_folder_goes_is_still_spoken_with(
    engine_of: EngineOf, tmp_path: Path
) -> None:
    engine = engine_of(2)
    gone = replace(ANNA, id="voice_gone", features=tmp_path / "gone")
    assert await frames(engine, asked(engine, reference=gone))
    engine.forget("voice_gone")


def test_encoders_of_another_model_make_features_of_their_own(
    tiny_model: Callable[..., Path], copied: Callable[..., Path]
) -> None:
    model = copied(2)
    (model / "campplus.onnx").unlink()
    tiny_onnx.write_campplus(model / "campplus.onnx", seed=5)
    assert loaded(tiny_model(2)).fingerprint != loaded(model).fingerprint


@FAMILIES
def test_features_are_those_of_upstreams_frontend(
    engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch, family: Family
) -> None:
    import torch  # noqa: PLC0415  heavy

    model = engine_of(family)._loaded().checkpoint
    theirs = frontend(model, monkeypatch)
    forget_filters()
    for seed in (BEN, ANNA):
        # At the rates of the models, so that nobody resamples.
        heard = torch.from_numpy(sound(seed.samples.size, 3.01, 16_000))[None]
        own = torch.from_numpy(sound(seed.samples.size, 3.01, model.sample_rate_hz))[None]
        ours = prompt.computed(
            model, replace(ANNA, samples=heard[0].numpy(), sample_rate_hz=16_000)
        )
        mel = prompt.computed(
            model, replace(ANNA, samples=own[0].numpy(), sample_rate_hz=model.sample_rate_hz)
        ).mel
        tokens, mel_theirs = (
            theirs._extract_speech_token(heard)[0],
            theirs._extract_speech_feat(own)[0],
        )
        count = min(mel_theirs.shape[1] // 2, tokens.shape[1])
        mel_theirs = mel_theirs[:, : 2 * count]
        assert torch.equal(ours.tokens, tokens[:, :count])
        assert mel.shape == mel_theirs.shape
        assert (mel - mel_theirs).abs().max() < 1e-3
        assert (ours.embedding - theirs._extract_spk_embedding(heard)).abs().max() < 1e-3


def frontend(model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return upstream's frontend on the encoders of `model`, for samples in place of files."""
    from cosyvoice.cli import frontend as upstream  # noqa: PLC0415

    if not hasattr(upstream.kaldi, "fbank"):  # torchaudio is not installed
        monkeypatch.setattr(upstream.kaldi, "fbank", fbank, raising=False)
    if hasattr(upstream, "load_wav"):
        monkeypatch.setattr(upstream, "load_wav", lambda samples, _: samples)
    made = object.__new__(upstream.CosyVoiceFrontEnd)
    made.device = model.device
    made.feat_extractor = model.mel
    made.speech_tokenizer_session = model.speech_tokenizer
    made.campplus_session = model.speaker_encoder
    return made


@FAMILIES
async def test_an_engine_that_was_closed_starts_again_and_sounds_the_same(
    tiny_model: Callable[..., Path], family: Family
) -> None:
    forget_filters()
    engine = CosyVoiceEngine(model=str(tiny_model(family)), code=CODE, device="cpu")
    assert engine.streams is None
    made = []
    for _ in range(2):
        await engine.start()
        made.append(np.concatenate(await frames(engine, asked(engine, one_pass=True))))
        listed, held = engine.voices(), engine.streams
        await engine.close()
        assert (engine.ready, engine.voices(), engine.streams) == (False, listed, held)
        assert held is not None
        assert held >= 1  # what waits for it to be loaded again is no more than that
    np.testing.assert_array_equal(*made)
    forget_filters()
