"""Writes small ONNX files: the part of the format that the tests need, without a package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Field numbers and enum values are those of onnx.proto; the version of the format and of its
# operators are what onnxruntime has known for years.
_IR_VERSION = 8
_OPSET = 17
_ELEMENT = {"float32": 1, "int32": 6, "int64": 7}
_INT, _INTS = 2, 7  # AttributeProto.type


@dataclass(frozen=True)
class Node:
    """One operator; `ints` are its attributes, a number or a list of them."""

    op: str
    inputs: Sequence[str]
    output: str
    ints: tuple[tuple[str, int | Sequence[int]], ...] = ()

    def encoded(self) -> bytes:
        attributes = b""
        for name, value in self.ints:
            values = [value] if isinstance(value, int) else value
            number, kind = (3, _INT) if isinstance(value, int) else (8, _INTS)
            body = _field(1, name) + b"".join(_field(number, each) for each in values)
            attributes += _field(5, body + _field(20, kind))
        names = b"".join(_field(1, name) for name in self.inputs)
        return names + _field(2, self.output) + _field(4, self.op) + attributes


@dataclass(frozen=True)
class Port:
    """An input or output of the graph; a named dimension may have any size."""

    name: str
    element: str
    shape: Sequence[int | str]

    def encoded(self) -> bytes:
        sizes = (_field(1 if isinstance(size, int) else 2, size) for size in self.shape)
        shape = b"".join(_field(1, size) for size in sizes)
        tensor = _field(1, _ELEMENT[self.element]) + _field(2, shape)
        return _field(1, self.name) + _field(2, _field(1, tensor))


def write(
    path: Path,
    *,
    inputs: Sequence[Port],
    nodes: Sequence[Node],
    constants: dict[str, np.ndarray],
    output: Port,
) -> None:
    """Write a graph that onnxruntime loads."""
    graph = b"".join(
        (
            *(_field(1, node.encoded()) for node in nodes),
            _field(2, "tiny"),
            *(_field(5, _tensor(name, value)) for name, value in constants.items()),
            *(_field(11, port.encoded()) for port in inputs),
            _field(12, output.encoded()),
        )
    )
    opset = _field(1, "") + _field(2, _OPSET)
    path.write_bytes(_field(1, _IR_VERSION) + _field(7, graph) + _field(8, opset))


def _tensor(name: str, value: np.ndarray) -> bytes:
    dims = b"".join(_field(1, size) for size in value.shape)
    kind = _field(2, _ELEMENT[value.dtype.name])
    return dims + kind + _field(8, name) + _field(9, np.ascontiguousarray(value).tobytes())


def _field(number: int, value: int | str | bytes) -> bytes:
    """One protobuf field: a varint, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
