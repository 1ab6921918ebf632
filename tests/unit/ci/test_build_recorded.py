"""Parsing BuildKit's output: two builds of five lines, recorded from buildx 0.29.

`failed.jsonl` is a build whose last step fails, `cached.jsonl` one with everything cached, without
the lines about single files that are sent.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci import build
from ci.errors import CiError

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDED = Path(__file__).parent / "recorded"
FAILED = "[stage-1 2/2] RUN echo two; echo three >&2; exit 3"


def followed(name: str) -> dict[str, build.Step]:
    """Return the steps of a recorded build by name, with when each was said to end."""
    steps: dict[str, build.Step] = {}
    for line in (RECORDED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        if line.startswith("{"):
            build.follow(steps, json.loads(line))
    return {step.name: step for step in steps.values()}


def test_every_step_is_known_once_with_what_it_printed_and_why_it_failed() -> None:
    steps = followed("failed")
    assert steps[FAILED].log == ["two", "three"]
    assert "exit code: 3" in steps[FAILED].error
    assert [name for name, step in steps.items() if step.error] == [FAILED]
    assert steps["[base 2/2] RUN echo one"].seconds > 0


def test_what_the_cache_had_is_what_buildkit_says_it_had() -> None:
    assert not any(step.cached for step in followed("failed").values() if "RUN" in step.name)
    cached = {name for name, step in followed("cached").items() if step.cached}
    assert {"[base 2/2] RUN echo one", "[stage-1 1/2] COPY Dockerfile /"} <= cached
    assert "[internal] load build context" not in cached


def test_a_step_is_told_as_ended_once_it_has_begun_and_completed() -> None:
    steps: dict[str, build.Step] = {}
    begun = {"digest": "a", "name": "[1/1] RUN x", "started": "2026-01-02T03:04:05.25Z"}
    assert build.follow(steps, {"vertexes": [{"digest": "a", "name": "[1/1] RUN x"}]}) == []
    assert build.follow(steps, {"vertexes": [begun]}) == []
    (ended,) = build.follow(steps, {"vertexes": [{**begun, "completed": "2026-01-02T03:04:07.5Z"}]})
    assert ended.seconds == 2.25


def test_a_line_about_a_step_that_nobody_named_is_passed_over() -> None:
    steps: dict[str, build.Step] = {}
    assert build.follow(steps, {"logs": [{"vertex": "b", "data": "b25lCg=="}]}) == []
    assert build.follow(steps, {"statuses": [], "warnings": [{}]}) == []
    assert steps == {}


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Return a function that puts a `docker` on the path that prints a recording and ends."""

    def put(name: str, code: int) -> None:
        script = tmp_path / "docker"
        recorded = shlex.quote(str(RECORDED / f"{name}.jsonl"))
        script.write_text(f"#!/bin/sh\n/bin/cat {recorded} >&2\nexit {code}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return put


def test_a_failed_build_is_one_line_with_its_step_below_what_it_printed(
    docker: Callable[[str, int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    docker("failed", 1)
    with pytest.raises(CiError) as failed:
        build.build(["."])
    assert str(failed.value) == f"{FAILED}: three"
    assert capsys.readouterr().err.splitlines()[-2:] == ["    | two", "    | three"]


def test_a_build_tells_each_of_the_dockerfiles_own_steps(
    docker: Callable[[str, int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    docker("cached", 0)
    build.build(["."])
    said = capsys.readouterr().err
    assert "    [base 2/2] RUN echo one  cached\n" in said
    assert "[internal]" not in said


def test_a_cache_that_cannot_be_read_is_told_and_is_not_why_a_build_failed(
    docker: Callable[[str, int], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docker("failed", 1)
    moment = "2026-01-02T03:04:05Z"
    step = {"digest": "x", "name": "importing cache manifest from 127.0.0.1:9/cache:cpu"}
    event = {"vertexes": [{**step, "started": moment, "completed": moment, "error": "refused"}]}
    script = tmp_path / "docker"
    told = shlex.quote(json.dumps(event))
    script.write_text(script.read_text().replace("/bin/cat", f"echo {told} >&2\n/bin/cat"))
    with pytest.raises(CiError, match=r"^\[stage-1 2/2\] RUN .*: three$"):
        build.build(["."])
    assert f"    {step['name']}: refused\n" in capsys.readouterr().err


def test_a_disk_that_is_full_is_told_even_if_other_lines_come_after() -> None:
    log = ["write failed: No space left on device", *map(str, range(20))]
    step = build.Step("[1/1] RUN x", error="exit code: 1", log=log)
    assert "the engine's disk is full" in build._failure([step], [])
