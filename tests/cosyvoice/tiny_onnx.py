"""The two ONNX models of a tiny directory; their output depends on the recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.cosyvoice.onnx_file import Node, Port, write

if TYPE_CHECKING:
    from pathlib import Path

_MELS, _BINS, _EMBEDDING = 128, 80, 192
_GAIN = 8.0  # makes recordings that differ a little differ much
_BASE, _DIGITS = 3, 8  # of a speech token, of which there are 6561
_FRAMES_A_TOKEN = 4


def write_campplus(path: Path, seed: int) -> None:
    """Write the speaker model: input [B, T, 80] of fbank features less their mean to [B, 192].

    The embedding is a random projection of how much each bin moves.
    """
    write(
        path,
        inputs=[Port("input", "float32", ("B", "T", _BINS))],
        nodes=[
            Node("Abs", ["input"], "moves"),
            Node("ReduceMean", ["moves"], "profile", (("axes", [1]), ("keepdims", 0))),
            Node("MatMul", ["profile", "weight"], "projected"),
            Node("Tanh", ["projected"], "output"),
        ],
        constants={"weight": _projection(_BINS, _EMBEDDING, seed)},
        output=Port("output", "float32", ("B", _EMBEDDING)),
    )


def write_speech_tokenizer(path: Path, seed: int) -> None:
    """Write the tokenizer: feats [1, 128, T] of log mel and feats_length [1] to indices [1, T'].

    T' is a quarter of T, rounded up. As in the real one each token is a number whose
    digits are quantised projections of its frames.
    """
    axis = np.array([2], dtype=np.int32)
    write(
        path,
        inputs=[
            Port("feats", "float32", ("B", _MELS, "T")),
            Port("feats_length", "int32", ("B",)),
        ],
        nodes=[
            Node("ReduceMax", ["feats_length"], "end", (("axes", [0]), ("keepdims", 1))),
            Node("Slice", ["feats", "start", "end", "axis"], "heard"),
            Node(
                "AveragePool",
                ["heard"],
                "pooled",
                (
                    ("ceil_mode", 1),
                    ("kernel_shape", [_FRAMES_A_TOKEN]),
                    ("strides", [_FRAMES_A_TOKEN]),
                ),
            ),
            Node("Transpose", ["pooled"], "steps", (("perm", [0, 2, 1]),)),
            Node("MatMul", ["steps", "weight"], "projected"),
            Node("Sigmoid", ["projected"], "bounded"),
            Node("Mul", ["bounded", "base"], "scaled"),
            Node("Floor", ["scaled"], "floored"),
            Node("Min", ["floored", "highest"], "digits"),
            Node("MatMul", ["digits", "powers"], "numbers"),
            Node("Cast", ["numbers"], "indices", (("to", 6),)),
        ],
        constants={
            "start": np.array([0], dtype=np.int32),
            "axis": axis,
            "weight": _projection(_MELS, _DIGITS, seed),
            "base": np.float32([_BASE]),
            "highest": np.float32([_BASE - 1]),
            "powers": np.float32([_BASE**digit for digit in range(_DIGITS)]),
        },
        output=Port("indices", "int32", ("B", "T'")),
    )


def _projection(size: int, to: int, seed: int) -> np.ndarray:
    """A random matrix that makes nothing of what all inputs have in common."""
    weight = np.random.default_rng(seed).standard_normal((size, to))
    weight -= weight.mean(axis=0)
    return (_GAIN / size**0.5 * weight).astype(np.float32)
