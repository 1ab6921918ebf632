"""The workflows are thin, pinned, and have no more rights than they need; without GitHub."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
EACH = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
EACH_FILE = pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.parts[-1])
PINNED = re.compile(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
INSTALLS = "python -m pip install nox uv"
TRUSTED = {"_image.yml", "publish.yml"}
"""The workflows that publish: no pull request starts them."""


def load(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    data["on"] = data.pop(True, data.get("on"))  # YAML 1.1 reads `on` as true
    return data


def steps(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for job in data.get("jobs", {}).values():
        yield from job.get("steps", [])
    yield from data.get("runs", {}).get("steps", [])


def commands() -> Iterator[tuple[str, str]]:
    for path in [*WORKFLOWS, *ACTIONS]:
        for step in steps(load(path)):
            if "run" in step:
                yield path.name, step["run"]


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in load(path)["jobs"].items():
            yield path.name, name, job


def rights(job: dict[str, Any]) -> set[str]:
    return {name for name, level in job["permissions"].items() if level == "write"}


@EACH
def test_a_workflow_grants_nothing_but_job_by_job(path: Path) -> None:
    data = load(path)
    assert data["permissions"] == {}
    assert all("permissions" in job for job in data["jobs"].values())


@EACH_FILE
def test_every_action_is_pinned_by_its_commit_with_the_version_beside(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if "uses:" in line and "uses: $/" not in line:
            assert PINNED.search(line), line


def test_an_action_has_one_version_everywhere() -> None:
    found: dict[str, set[str]] = {}
    for path in [*WORKFLOWS, *ACTIONS]:
        for name, pin in re.findall(r"uses: ([\w./-]+)@(\w+ # \S+)", path.read_text()):
            found.setdefault(name, set()).add(pin)
    assert found
    assert {name: pins for name, pins in found.items() if len(pins) > 1} == {}


def test_a_file_of_ours_that_is_used_is_there() -> None:
    text = "".join(path.read_text() for path in WORKFLOWS)
    used = re.findall(r"uses: \$/(\S+)", text)
    assert used
    for name in used:
        found = ROOT / name
        assert found.is_file() or (found / "action.yml").is_file(), name


def test_every_command_is_one_call_of_nox_or_cosign_or_installs_nox() -> None:
    for name, command in commands():
        one = command.strip().removesuffix(" > /dev/null")
        assert command == INSTALLS or re.match(r"nox -s \S+|cosign ", one), f"{name}: {command}"
        assert not re.search(r"[|;&`<>\n]|\$\(|\$\{(?!\w+\})", one), f"{name}: {command}"


def test_no_command_takes_a_value_but_from_its_environment() -> None:
    for name, command in commands():
        assert "${{" not in command, f"{name}: {command}"
        assert "$" not in re.sub(r'"[^"]*"', "", command), f"{name}: {command}"


def sessions() -> set[str]:
    said = subprocess.check_output([sys.executable, "-m", "nox", "--list"], cwd=ROOT, text=True)
    return set(re.findall(r"^[*-] (\S+)", said, re.MULTILINE))


def test_every_session_that_a_workflow_calls_is_one_of_nox() -> None:
    called = {shlex.split(one)[2] for _, one in commands() if one.startswith("nox ")}
    matrix = load(ROOT / ".github/workflows/ci.yml")["jobs"]["nox"]["strategy"]["matrix"]
    called = called - {"$SESSION"} | set(matrix["session"])
    assert called <= sessions()


def test_a_command_gives_its_verb_only_options_that_it_has() -> None:
    for name, command in commands():
        _, _, verb, *arguments = [*shlex.split(command), ""]
        found = ROOT / "ci" / f"{verb}.py"
        if not command.startswith("nox") or verb == "lock" or not found.exists():
            continue
        said = subprocess.run(
            [sys.executable, "-m", "ci", verb, *nested(verb, arguments), "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for option in (one for one in arguments if one.startswith("--") and one != "--"):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", said), f"{name}: {verb} {option}"


def nested(verb: str, arguments: list[str]) -> list[str]:
    """Return the action of a verb that has several."""
    return [arguments[1]] if verb == "base" else []


def test_a_pull_request_has_no_right_to_write_and_no_secret() -> None:
    for path in WORKFLOWS:
        data = load(path)
        if "pull_request" not in data["on"]:
            continue
        text = path.read_text()
        assert "secrets." not in text
        assert "github.token" not in text
        assert not any(rights(job) for job in data["jobs"].values())
        assert not any(
            "$/.github/workflows/" in job.get("uses", "") for job in data["jobs"].values()
        )


def test_nothing_runs_a_forks_code_with_the_repositorys_rights() -> None:
    for path in WORKFLOWS:
        assert not {"pull_request_target", "workflow_run"} & set(load(path)["on"]), path.name


def test_only_what_is_trusted_pushes_and_writes_caches() -> None:
    for path in [*WORKFLOWS, *ACTIONS]:
        has = [
            word
            for word in ("--push", "--cache-to", "docker/login-action")
            if word in path.read_text()
        ]
        assert bool(has) == (path.name in TRUSTED), f"{path.name}: {has}"


def test_an_image_is_tested_by_its_digest_and_signed_before_a_tag_moves_to_it() -> None:
    job = load(ROOT / ".github/workflows/_image.yml")["jobs"]["image"]
    runs = [step["run"] for step in job["steps"] if "run" in step]
    order = ("nox -s image", "nox -s test-image", "nox -s layers", "cosign sign", "cosign attest")
    order += ("cosign verify", "cosign verify-attestation", "nox -s tags")
    assert all(map(str.startswith, runs[-len(order) :], order))
    assert "--only-content-tag" in runs[-len(order)]
    for step in job["steps"]:
        if step.get("run", "").startswith(order[1:]):
            assert step["env"]["IMAGE"] == "${{ steps.build.outputs.image }}"
            assert '"$IMAGE"' in step["run"]


def test_what_the_matrix_is_asked_for_is_what_the_plan_writes() -> None:
    from ci import plan  # noqa: PLC0415 - only this test needs it

    wanted = plan.plan(None)
    image, base = plan.images(wanted)[0], plan.bases(wanted)[0]
    for path, known in (
        ("images.yml", {"image": image}),
        ("publish.yml", {"image": image, "base": base}),
    ):
        for name, row in known.items():
            job = yaml.safe_dump(load(ROOT / ".github/workflows" / path)["jobs"][name])
            asked = set(re.findall(r"matrix\.([\w-]+)", job))
            assert asked, f"{path}: {name}"
            assert asked <= set(row), f"{path}: {name}"


def test_all_green_waits_for_every_other_job() -> None:
    for path in WORKFLOWS:
        found = load(path)["jobs"]
        if "all-green" in found:
            needs = found["all-green"]["needs"]
            assert set(needs) == set(found) - {"all-green"}, path.name
            assert found["all-green"]["if"] == "always()"


def test_every_job_has_an_end() -> None:
    for path, name, job in jobs():
        assert "timeout-minutes" in job or "uses" in job, f"{path}: {name}"


def test_checkouts_keep_no_credentials() -> None:
    for path in WORKFLOWS:
        for step in steps(load(path)):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, path.name
