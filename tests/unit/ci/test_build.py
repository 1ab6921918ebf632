"""Builds: contexts with one time for all files and modes that any user can read, names."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ci import build
from ci.paths import ROOT, alone

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "context"
    (root / "inner").mkdir(parents=True)
    (root / "inner" / "data.txt").write_text("x")
    (root / "inner" / "data.txt").chmod(0o600)
    (root / "run.sh").write_text("x")
    (root / "run.sh").chmod(0o700)
    (root / "inner").chmod(0o700)
    return root


def test_all_below_a_folder_has_one_time_and_any_user_can_read_it(folder: Path) -> None:
    build.settle(folder)
    for path in (folder, *folder.rglob("*")):
        assert int(path.stat().st_mtime) == build.EPOCH
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
    assert modes == {"context": 0o755, "inner": 0o755, "data.txt": 0o644, "run.sh": 0o755}


def test_a_context_is_named_by_all_that_an_image_gets_of_it(folder: Path) -> None:
    def content(path: str, text: str) -> None:
        (folder / path).write_text(text)

    changes = (
        lambda: None,
        lambda: content("inner/data.txt", "y"),
        lambda: content("other.txt", ""),
        (folder / "other.txt").unlink,
        lambda: (folder / "run.sh").chmod(0o600),
        lambda: (folder / "run.sh").rename(folder / "inner" / "run.sh"),
    )
    names = []
    for change in changes:
        change()
        made = build.named(folder)
        assert not folder.exists()
        assert list(folder.parent.iterdir()) == [made], "the one before is gone"
        names.append(made.name)
        made.rename(folder)
        assert build.named(folder).name == made.name
        made.rename(folder)
    assert names[3] == names[1]
    assert len(set(names)) == len(names) - 1


def test_a_folder_is_one_builds_at_a_time(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from ci.paths import alone\n"
        "with alone(pathlib.Path(sys.argv[1])): print('in')"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with alone(tmp_path):
        other = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            other.communicate(timeout=1)
    assert other.communicate(timeout=10) == (b"in\n", None)
    assert list(tmp_path.iterdir()) == [], "it leaves nothing there"


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ("", "bentovox/chat"),
        ("ghcr.io/me", "ghcr.io/me/bentovox/chat"),
        ("ghcr.io/Me/", "ghcr.io/me/bentovox/chat"),
        ("localhost:5000", "localhost:5000/bentovox/chat"),
    ],
)
def test_a_bentos_repository_is_below_its_registry_in_lower_case(
    registry: str, expected: str
) -> None:
    assert build.repository("chat", registry) == expected


def test_each_platform_has_a_cache_of_its_own() -> None:
    found = build.cache("chat", "cuda13", "ghcr.io/me")
    assert found == "ghcr.io/me/bentovox/chat:cache-cuda13"
