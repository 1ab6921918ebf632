"""`nox -s test-image` before it needs an engine; tests/images has the rest."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ci.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("bento", "fault"),
    [
        ("transcription", "--model {folder}/nowhere: is no folder"),
        ("chat", "--model is for --bento transcription"),
        ("gatway", "argument --bento: invalid choice: 'gatway'"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(tmp_path: Path, bento: str, fault: str) -> None:
    command = [sys.executable, "-m", "pytest", "tests/images/test_promises.py"]
    options = [f"--bento={bento}", f"--model={tmp_path / 'nowhere'}"]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert fault.format(folder=tmp_path) in done.stderr
