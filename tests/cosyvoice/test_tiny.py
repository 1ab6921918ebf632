"""What the engine's tests assume of the tiny directories and upstream's code does not check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cosyvoice.tiny import Family


def _run(path: Path, *inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    out: np.ndarray = session.run(None, dict(zip(names, inputs, strict=True)))[0]
    return out


def _heard(frames: int, seed: int) -> np.ndarray:
    """Log mel of a steady sound [1, 128, T]."""
    rng = np.random.default_rng(seed)
    sound = rng.normal(size=(1, 128, 1)) + 0.1 * rng.normal(size=(1, 128, frames))
    return sound.astype(np.float32)


def test_speech_tokens_are_in_range_at_the_right_rate_and_tell_recordings_apart(
    tiny_model: Callable[[Family], Path],
) -> None:
    path = tiny_model(2) / "speech_tokenizer_v2.onnx"
    one, other = (_run(path, _heard(301, seed), np.array([301], dtype=np.int32)) for seed in (0, 1))

    assert one.dtype == np.int32
    assert one.shape == (1, -(-301 // 4))
    assert 0 <= min(one.min(), other.min()) <= max(one.max(), other.max()) < 6561
    assert (one != other).mean() > 0.5


def test_embeddings_tell_recordings_apart(tiny_model: Callable[[Family], Path]) -> None:
    path = tiny_model(2) / "campplus.onnx"
    one, other = (_run(path, _heard(80, seed)) for seed in (0, 1))

    assert one.shape == (1, 192)
    assert np.corrcoef(one, other)[0, 1] < 0.9


def test_special_tokens_get_the_ids_that_upstream_counts_on(
    tiny_model: Callable[[Family], Path],
) -> None:
    folder = tiny_model(2) / "CosyVoice-BlankEN"
    from cosyvoice.tokenizer.tokenizer import get_qwen_tokenizer  # noqa: PLC0415  once it is built

    tokenizer = get_qwen_tokenizer(str(folder), skip_special_tokens=True)
    assert tokenizer.encode("Hi<|endofprompt|>")[-1] == 151646
    assert len(tokenizer.encode("你好世界")) == 4


def test_a_directory_takes_little_disk(tiny_model: Callable[[Family], Path]) -> None:
    size = sum(path.stat().st_size for path in tiny_model(2).rglob("*") if path.is_file())
    assert size < 40_000_000
