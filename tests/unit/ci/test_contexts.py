"""Build contexts: one time for all, modes that any user can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci import contexts
from ci.errors import CiError

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


def test_all_below_a_folder_has_one_time_and_any_user_can_read_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    contexts.settle(folder)
    for path in (folder, *folder.rglob("*")):
        assert int(path.stat().st_mtime) == contexts.EPOCH
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
    assert modes == {"context": 0o755, "inner": 0o755, "data.txt": 0o644, "run.sh": 0o755}


def test_the_time_is_the_callers_where_it_gives_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    contexts.settle(folder)
    assert {int(path.stat().st_mtime) for path in (folder, *folder.rglob("*"))} == {1_700_000_000}


def test_another_content_of_the_same_size_has_another_time(folder: Path) -> None:
    data = folder / "inner" / "data.txt"
    contexts.settle(folder)
    first = data.stat().st_mtime_ns
    contexts.settle(folder)
    assert data.stat().st_mtime_ns == first
    data.write_text("y")
    contexts.settle(folder)
    assert data.stat().st_mtime_ns != first


@pytest.mark.parametrize("given", ["now", "", "-1", "1.5"])
def test_a_time_that_is_no_number_is_told(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
    with pytest.raises(CiError, match=rf"SOURCE_DATE_EPOCH is '{given}': give whole seconds"):
        contexts.epoch()
