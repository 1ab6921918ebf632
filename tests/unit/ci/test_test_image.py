"""`test-image` before it needs an engine; tests/images has the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("bento", "fault"),
    [
        ("transcription", "--model {folder}/nowhere: is no folder"),
        ("chat", "--model is for transcription, not for chat"),
    ],
)
def test_a_model_that_cannot_be_mounted_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bento: str, fault: str
) -> None:
    assert main(["test-image", bento, "--model", str(tmp_path / "nowhere")]) == 1
    said = capsys.readouterr()
    assert said.err == f"python -m ci test-image: {fault.format(folder=tmp_path)}\n"
    assert said.out == ""
