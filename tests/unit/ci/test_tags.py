"""The tags of an image: what git says of the commit that is checked out."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from ci import git, tags
from ci.__main__ import main
from ci.errors import CiError

if TYPE_CHECKING:
    from pathlib import Path


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


def commit(folder: Path) -> str:
    """Return the tag of the commit that is checked out."""
    said = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=folder, text=True)
    return f"cpu-{said[:12]}"


def test_main_gets_the_moving_tag_the_commit_and_the_day(repository: Path) -> None:
    assert tags.tags("cpu") == ["cpu", commit(repository), "cpu-2026-11-24"]


def test_another_branch_moves_nothing(repository: Path) -> None:
    run(repository, "checkout", "--quiet", "-b", "other")
    assert tags.tags("cpu") == [commit(repository)]


def test_a_release_gets_its_number_and_its_series(repository: Path) -> None:
    run(repository, "tag", "v1.2.3")
    run(repository, "checkout", "--quiet", "--detach")
    assert tags.tags("cpu") == [commit(repository), "1.2.3-cpu", "1.2-cpu"]


@pytest.mark.parametrize("candidate", ["v1.2.3-rc1", "v1.2.3rc1"])
def test_a_candidate_gets_its_number_but_is_in_no_series(repository: Path, candidate: str) -> None:
    before = tags.tags("cpu")
    run(repository, "tag", candidate)
    assert tags.tags("cpu") == [*before, f"{candidate[1:]}-cpu"]


@pytest.mark.parametrize("tag", ["nightly", "v1", "v1.2"])
def test_what_is_no_release_gets_no_release_tag(repository: Path, tag: str) -> None:
    before = tags.tags("cpu")
    run(repository, "tag", tag)
    assert tags.tags("cpu") == before


def test_every_tag_names_its_platform_so_that_none_is_latest(repository: Path) -> None:
    run(repository, "tag", "v1.2.3")
    assert [tag for tag in tags.tags("cuda13") if "cuda13" not in tag or "latest" in tag] == []


def test_a_tag_on_an_older_commit_is_not_this_ones_release(repository: Path) -> None:
    run(repository, "tag", "v1.2.3")
    run(repository, "commit", "--quiet", "--allow-empty", "--message", "two")
    assert "1.2.3-cpu" not in tags.tags("cpu")


def test_code_that_is_not_committed_gets_no_tag_of_a_commit(repository: Path) -> None:
    (repository / "services").mkdir()
    (repository / "services" / "new.py").touch()
    with pytest.raises(CiError, match="commit what differs, so that a tag can name it: services/"):
        tags.tags("cpu")


def test_a_report_that_lies_beside_the_code_changes_no_tag(repository: Path) -> None:
    before = tags.tags("cpu")
    (repository / "trivy.sarif").touch()
    assert tags.tags("cpu") == before


@pytest.mark.usefixtures("repository")
def test_the_verb_prints_whole_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tags", "gateway", "--registry", "ghcr.io/Me"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "ghcr.io/me/bentovox/gateway:cpu"


def test_tags_are_given_to_what_is_named_by_its_digest_only() -> None:
    with pytest.raises(CiError, match="names no digest"):
        tags.apply("ghcr.io/me/bentovox/chat:cpu", ["ghcr.io/me/bentovox/chat:cpu"])


@pytest.mark.parametrize("repository", ["ghcr.io/me/bentovox/speech", "localhost:5000/chat"])
def test_tags_are_given_within_one_repository_only(repository: str) -> None:
    with pytest.raises(CiError, match="in another repository"):
        tags.apply(f"{repository}@sha256:{'0' * 64}", ["ghcr.io/me/bentovox/chat:cpu"])
