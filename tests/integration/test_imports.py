"""Inspecting or building a service, or its `--help`, imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "vllm",
    "transformers",
    "cosyvoice",
    "faster_whisper",
    "ctranslate2",
    "tokenizers",
)

SEEN = """
import sys
{statement}
print(",".join(name for name in {names!r} if name in sys.modules))
"""


def imported(statement: str, names: tuple[str, ...]) -> list[str]:
    """Return which of `names` a fresh interpreter has loaded after the statement."""
    done = subprocess.run(
        [sys.executable, "-c", SEEN.format(statement=statement, names=names)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in done.stdout.strip().split(",") if name]


@pytest.mark.parametrize(
    "module",
    [
        "services.stack, services.chat.service, services.gateway.service",
        "services.speech.service, services.transcription.service",
        "services.settings",
    ],
)
def test_no_service_imports_an_engine(module: str) -> None:
    assert imported(f"import {module}", HEAVY) == []


def test_the_gateway_needs_no_role_s_inside_no_engine_no_numpy_and_no_codec() -> None:
    roles = ("services.chat", "services.conversation", "services.speech", "services.transcription")
    names = (*roles, "services.audio.encode", "numpy", "av", "onnxruntime")
    assert imported("import services.gateway.service", (*names, *HEAVY)) == []


def test_the_chat_service_needs_neither_audio_nor_speech() -> None:
    assert imported("import services.chat.service", ("av", "services.speech")) == []
