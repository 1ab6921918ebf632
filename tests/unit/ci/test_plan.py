"""Which images a change affects: the repository's bentos, with changes made for the test."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from ci import git, plan
from ci.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

ALL = {
    ("chat", "cuda13"),
    ("chat", "cpu"),
    ("conversation", "cpu"),
    ("gateway", "cpu"),
    ("ray", "cpu"),
    ("ray", "cuda13"),
    ("speech", "cuda13"),
    ("speech", "cpu"),
    ("stack", "cpu"),
    ("stack", "cuda13"),
    ("transcription", "cuda13"),
    ("transcription", "cpu"),
}


def touched(*paths: str) -> set[tuple[str, str]]:
    return {(one.bento, one.platform) for one in plan.plan(paths)}


def test_no_change_is_no_image() -> None:
    assert touched() == set()


def test_a_file_that_no_image_holds_touches_none() -> None:
    assert (
        touched("README.md", "docs/architecture/00-overview.md", "tests/unit/test_role.py") == set()
    )


def test_code_of_one_role_touches_the_images_that_hold_it() -> None:
    expected = {entry for entry in ALL if entry[0] in {"ray", "speech", "stack"}}
    assert touched("services/speech/routes.py") == expected


def test_shared_code_touches_every_image() -> None:
    assert touched("services/errors.py") == ALL


def test_a_bentofile_touches_its_own_images() -> None:
    assert touched("bentos/gateway/bentofile.yaml") == {("gateway", "cpu")}
    assert touched("bentofile.yaml") == {("stack", "cpu"), ("stack", "cuda13")}


def test_a_lock_touches_its_own_platform_only() -> None:
    assert touched("bentos/speech/requirements.cuda13.txt") == {("speech", "cuda13")}


def test_what_all_images_are_built_with_touches_all() -> None:
    for path in ("bentos/Dockerfile", "bentos/bases/Dockerfile", "bentos/platforms.toml"):
        assert touched(path) == ALL, path
    assert touched("ci/image.py") == ALL


def test_what_builds_no_image_touches_none() -> None:
    assert touched("ci/demo_model/corpus.toml", "ci/locks/bench.txt", "ci/layers/gates.py") == set()


def test_what_a_platform_holds_touches_that_platform() -> None:
    expected = {entry for entry in ALL if entry[1] == "cuda13"}
    assert touched("bentos/bases/held.cuda13.txt") == expected


def test_cosyvoices_installer_touches_the_images_that_speak_with_it() -> None:
    found = touched("ci/cosyvoice/pins.py")
    assert ("speech", "cuda13") in found
    assert not found & {("chat", "cpu"), ("chat", "cuda13"), ("gateway", "cpu"), ("speech", "cpu")}


def test_each_base_comes_once_with_its_cache_and_images_read_both() -> None:
    wanted = plan.plan(None)
    below = plan.bases(wanted, "ghcr.io/Me")
    found = [(one["stage"], one["platform"]) for one in below]
    assert sorted(found) == sorted({(one.base, one.platform) for one in wanted})
    slim = next(one for one in below if one["stage"] == "slim")
    assert slim["cache"] == "ghcr.io/me/bentovox/base-slim:cache-cpu"
    rows = {(one["bento"], one["platform"]): one for one in plan.images(wanted, "ghcr.io/Me")}
    assert rows.keys() == ALL
    assert rows["gateway", "cpu"]["cache"] == "ghcr.io/me/bentovox/gateway:cache-cpu"
    assert rows["gateway", "cpu"]["base-cache"] == slim["cache"]


def test_an_unknown_revision_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--base", "no-such-branch"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "'no-such-branch' is no revision" in said


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository of git with three commits: start, a change of speech, a rename."""
    monkeypatch.setattr(git, "ROOT", tmp_path)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@localhost")
    path = tmp_path / "services" / "speech" / "routes.py"
    path.parent.mkdir(parents=True)
    run(tmp_path, "init", "--quiet", "--initial-branch=main")
    for text in ("one = 1\n", "one = 2\n"):
        path.write_text(text)
        run(tmp_path, "add", ".")
        run(tmp_path, "commit", "--quiet", "--message", text)
    run(tmp_path, "mv", "services/speech/routes.py", "elsewhere.py")
    run(tmp_path, "commit", "--quiet", "--message", "away")
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], cwd=folder, text=True).strip()


@pytest.mark.usefixtures("repository")
def test_a_change_is_read_from_git_and_said_with_its_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "--base", "HEAD~2", "--head", "HEAD~1"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["bento", "platform", "base", "because", "of"]
    assert [row.split() for row in rows[1:]] == [
        ["ray", "cpu", "ray", "services/speech/routes.py"],
        ["ray", "cuda13", "ray", "services/speech/routes.py"],
        ["speech", "cuda13", "cosyvoice", "services/speech/routes.py"],
        ["speech", "cpu", "slim", "services/speech/routes.py"],
        ["stack", "cpu", "stack", "services/speech/routes.py"],
        ["stack", "cuda13", "stack", "services/speech/routes.py"],
    ]


@pytest.mark.parametrize(("name", "count"), [("uv", len(ALL)), ("ruff", 0)])
def test_of_the_tests_lock_only_uv_touches_images(
    repository: Path, capsys: pytest.CaptureFixture[str], name: str, count: int
) -> None:
    lock = repository / "ci" / "locks" / "dev.txt"
    lock.parent.mkdir(parents=True)
    for version in ("1.0", "1.1"):
        lock.write_text("ruff==1.0\nuv==1.0\n".replace(f"{name}==1.0", f"{name}=={version}"))
        run(repository, "add", ".")
        run(repository, "commit", "--quiet", "--message", version)
    assert main(["plan", "--base", "HEAD~1"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows[1:]) == count


@pytest.mark.usefixtures("repository")
def test_a_file_that_was_moved_away_touches_what_held_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "--base", "HEAD~1"]) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert {row.split()[0] for row in rows} == {"ray", "speech", "stack"}


def outputs(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, event: dict[str, object]
) -> dict[str, str]:
    (folder / "event.json").write_text(json.dumps(event))
    (folder / "output").unlink(missing_ok=True)
    monkeypatch.setenv("GITHUB_EVENT_NAME", name)
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(folder / "event.json"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(folder / "output"))
    assert main(["plan", "--github", "--registry", "ghcr.io/me"]) == 0
    lines = (folder / "output").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_a_pull_request_builds_what_it_changes(
    monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    base = run(repository, "rev-parse", "HEAD~1")
    found = outputs(
        monkeypatch, repository, "pull_request", {"pull_request": {"base": {"sha": base}}}
    )
    assert found["any"] == "true"
    entries = json.loads(found["matrix"])["include"]
    assert {one["bento"] for one in entries} == {"ray", "speech", "stack"}
    stages = {one["stage"] for one in json.loads(found["bases"])["include"]}
    assert stages == {"slim", "cosyvoice", "stack", "ray"}


def test_a_pull_request_without_a_change_builds_nothing(
    monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    head = run(repository, "rev-parse", "HEAD")
    found = outputs(
        monkeypatch, repository, "pull_request", {"pull_request": {"base": {"sha": head}}}
    )
    assert found == {"matrix": '{"include": []}', "bases": '{"include": []}', "any": "false"}


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("schedule", {}),
        ("workflow_dispatch", {"ref": "refs/heads/main"}),
        ("push", {"ref": "refs/tags/v1.0.0", "before": "0" * 40}),
        ("push", {"ref": "refs/heads/main", "before": "0" * 40}),
        ("push", {"ref": "refs/heads/main", "before": "1" * 40}),
    ],
    ids=["schedule", "by hand", "release", "first push", "history rewritten"],
)
def test_what_has_no_commit_before_it_builds_all(
    monkeypatch: pytest.MonkeyPatch, repository: Path, name: str, event: dict[str, object]
) -> None:
    found = outputs(monkeypatch, repository, name, event)
    assert len(json.loads(found["matrix"])["include"]) == len(ALL)


def test_outside_of_github_its_option_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_EVENT_NAME", raising=False)
    assert main(["plan", "--github"]) == 1
    assert "in a job of GitHub Actions only" in capsys.readouterr().err
