"""The tags of an image: pure functions, and facts about a commit from git."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from ci import bento, git, tags
from ci.__main__ import main
from ci.errors import CiError

if TYPE_CHECKING:
    from pathlib import Path

ON_MAIN = tags.Context(
    platform="cuda13",
    version="1f2e3d4c5b6a",
    commit="0123456789abcdef0123456789abcdef01234567",
    release="",
    day="2026-11-24",
    is_default=True,
)


def test_main_gets_the_moving_tag_the_content_the_commit_and_the_day() -> None:
    assert tags.tags(ON_MAIN) == [
        "cuda13",
        "cuda13-1f2e3d4c5b6a",
        "cuda13-0123456789ab",
        "cuda13-2026-11-24",
    ]


def test_another_branch_moves_nothing() -> None:
    context = dataclasses.replace(ON_MAIN, is_default=False)
    assert tags.tags(context) == ["cuda13-1f2e3d4c5b6a", "cuda13-0123456789ab"]


def test_a_release_gets_its_number_and_its_series() -> None:
    context = dataclasses.replace(ON_MAIN, is_default=False, release="v1.2.3")
    assert tags.tags(context)[-2:] == ["1.2.3-cuda13", "1.2-cuda13"]


@pytest.mark.parametrize("candidate", ["v1.2.3-rc1", "v1.2.3rc1"])
def test_a_candidate_gets_its_number_but_is_in_no_series(candidate: str) -> None:
    context = dataclasses.replace(ON_MAIN, release=candidate)
    assert tags.tags(context) == [*tags.tags(ON_MAIN), f"{candidate[1:]}-cuda13"]


@pytest.mark.parametrize("tag", ["", "nightly", "v1", "v1.2"])
def test_what_is_no_release_gets_no_release_tag(tag: str) -> None:
    context = dataclasses.replace(ON_MAIN, release=tag)
    assert tags.tags(context) == tags.tags(ON_MAIN)


def test_every_tag_names_its_platform_so_that_none_is_latest() -> None:
    for release in ("", "v1.2.3"):
        for tag in tags.tags(dataclasses.replace(ON_MAIN, release=release)):
            assert "cuda13" in tag
            assert "latest" not in tag


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(git, "ROOT", tmp_path)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@localhost")
        monkeypatch.setenv(f"GIT_{name}_DATE", "2026-11-24T12:00:00Z")
    run(tmp_path, "init", "--quiet", "--initial-branch=main")
    run(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "one")
    return tmp_path


def run(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True)


def test_git_says_branch_day_and_release(repository: Path) -> None:
    found = tags.context_of("cpu", "abc")
    assert (found.day, found.is_default, found.release) == ("2026-11-24", True, "")
    assert len(found.commit) == 40
    run(repository, "tag", "v1.2.3")
    run(repository, "checkout", "--quiet", "--detach")
    found = tags.context_of("cpu", "abc")
    assert (found.is_default, found.release) == (False, "v1.2.3")


def test_a_tag_on_an_older_commit_is_not_this_ones_release(repository: Path) -> None:
    run(repository, "tag", "v1.2.3")
    run(repository, "commit", "--quiet", "--allow-empty", "--message", "two")
    assert tags.context_of("cpu", "abc").release == ""


def test_code_that_is_not_committed_gets_the_tag_of_its_content_only(repository: Path) -> None:
    run(repository, "tag", "v1.2.3")
    (repository / "services").mkdir()
    (repository / "services" / "new.py").touch()
    assert tags.tags(tags.context_of("cpu", "abc")) == ["cpu-abc"]


def test_a_report_that_lies_beside_the_code_changes_no_tag(repository: Path) -> None:
    before = tags.context_of("cpu", "abc")
    (repository / "trivy.sarif").touch()
    assert tags.context_of("cpu", "abc") == before
    assert before.is_default


def test_tags_are_given_to_what_is_named_by_its_digest_only() -> None:
    with pytest.raises(CiError, match="names no digest"):
        tags.apply("ghcr.io/me/bentovox/chat:cpu", ["ghcr.io/me/bentovox/chat:cpu"])


@pytest.mark.parametrize("repository", ["ghcr.io/me/bentovox/speech", "localhost:5000/chat"])
def test_tags_are_given_within_one_repository_only(repository: str) -> None:
    with pytest.raises(CiError, match="in another repository"):
        tags.apply(f"{repository}@sha256:{'0' * 64}", ["ghcr.io/me/bentovox/chat:cpu"])


def test_tags_are_found_while_no_other_build_of_the_bento_is_at_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def make(*_given: object) -> tuple[Path, str]:
        folder = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)
        return tmp_path, "0123"

    monkeypatch.setattr(bento, "folder_of", lambda *_: tmp_path)
    monkeypatch.setattr(bento, "make", make)
    assert main(["tags", "gateway"]) == 0
    assert "-0123" in capsys.readouterr().out
