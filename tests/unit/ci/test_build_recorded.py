"""Why a build failed, from what buildx 0.29 printed: builds of five lines, recorded.

`failed.txt` is a build whose last step fails and whose cache cannot be read, `cached.txt` one with
everything cached.
"""

from __future__ import annotations

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


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Return a function that puts a `docker` on the path that prints a recording and ends."""

    def put(name: str, code: int) -> None:
        script = tmp_path / "docker"
        recorded = shlex.quote(str(RECORDED / f"{name}.txt"))
        script.write_text(f"#!/bin/sh\n/bin/cat {recorded} >&2\nexit {code}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return put


def test_a_failed_build_is_one_line_with_its_step_and_what_that_printed_last(
    docker: Callable[[str, int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    docker("failed", 1)
    with pytest.raises(CiError) as failed:
        build.build(["."])
    assert str(failed.value) == f"{FAILED}: two"
    said = capsys.readouterr().err
    assert " two\n" in said
    assert " three\n" in said


def test_a_build_tells_each_step_and_whether_the_cache_had_it(
    docker: Callable[[str, int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    docker("cached", 0)
    build.build(["."])
    lines = capsys.readouterr().err.splitlines()
    (named,) = {line for line in lines if line.endswith("[base 2/2] RUN echo one")}
    assert f"{named.removesuffix('[base 2/2] RUN echo one')}CACHED" in lines


def test_a_cache_that_cannot_be_read_is_told_and_is_not_why_a_build_failed(
    docker: Callable[[str, int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    docker("failed", 1)
    with pytest.raises(CiError, match=r"^\[stage-1 2/2\] RUN .*: two$"):
        build.build(["."])
    said = capsys.readouterr().err
    assert "importing cache manifest from 127.0.0.1:9/cache:cpu" in said
    assert "connection refused" in said


def test_a_step_is_told_also_where_buildx_does_not_repeat_what_it_printed() -> None:
    said = (RECORDED / "failed.txt").read_text(encoding="utf-8")
    head, name, rest = said.partition(f" > {FAILED}:\n")
    told = head + name + rest[rest.index("------\n") :]
    assert told != said
    assert build.failure(told) == f"{FAILED}: two"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", r'"/nowhere": not found$'),
        ("nobase", r"^docker buildx build: a registry does not answer: .*connection refused$"),
        ("full", r"the engine's disk is full"),
    ],
)
def test_what_no_step_printed_is_told_as_buildx_tells_it(name: str, said: str) -> None:
    with pytest.raises(CiError, match=said):
        raise CiError(build.failure((RECORDED / f"{name}.txt").read_text(encoding="utf-8")))
