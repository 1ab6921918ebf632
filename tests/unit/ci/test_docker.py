"""The docker command line: errors if it, its engine or buildx is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci import docker
from ci.errors import CiError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FULL = (
    "x: the engine's disk is full; `docker system df` shows what is on it, "
    "`docker buildx prune` and `docker image prune` free it"
)
DEAD = "Get http://127.0.0.1:5000/v2/: dial tcp 127.0.0.1:5000: connect: connection refused"
SILENT = f"x: a registry does not answer: {DEAD}"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a shell script on the path as the only `docker`."""

    def put(script: str) -> None:
        path = tmp_path / "docker"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return put


def test_without_docker_one_line_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CiError, match=r"^there is no docker command: install .* engine start`$"):
        docker.ready()


def test_without_an_engine_one_line_says_where_it_was_sought(
    stand_in: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    stand_in('echo "Cannot connect to the Docker daemon" >&2; exit 1')
    with pytest.raises(CiError, match=r"^no docker engine answers at unix:///nowhere\.sock: start"):
        docker.ready()


def test_without_buildx_one_line_names_the_docker_that_lacks_it(
    stand_in: Callable[[str], None], tmp_path: Path
) -> None:
    stand_in('[ "$1" = version ] && echo 28.5.2 && exit 0; exit 1')
    said = rf"^{tmp_path}/docker has no buildx: install the package docker-buildx$"
    with pytest.raises(CiError, match=said):
        docker.ready()


def test_an_engine_with_buildx_is_all_that_is_needed(stand_in: Callable[[str], None]) -> None:
    stand_in("exit 0")
    docker.ready()


def test_a_command_that_fails_is_its_last_line(stand_in: Callable[[str], None]) -> None:
    stand_in('echo first >&2; echo "no such image" >&2; echo >&2; exit 1')
    with pytest.raises(CiError, match=r"^docker image inspect: no such image$"):
        docker.call("image", "inspect", "x")
    assert docker.ask("image", "inspect", "x") is None


def test_a_command_that_fails_in_silence_is_told_so(stand_in: Callable[[str], None]) -> None:
    stand_in("exit 1")
    with pytest.raises(CiError, match=r"^docker pull x: it said nothing$"):
        docker.call("pull", "x")


def test_docker_gets_no_question_and_its_answers_no_hints(stand_in: Callable[[str], None]) -> None:
    stand_in('read line && exit 1; echo "$DOCKER_CLI_HINTS $BUILDX_NO_DEFAULT_ATTESTATIONS"')
    assert docker.call("x") == "false 1"


def test_what_is_handed_to_docker_is_what_it_reads(stand_in: Callable[[str], None]) -> None:
    stand_in("/bin/cat")
    assert docker.call("run", stdin="print(1)") == "print(1)"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "copying\nwrite /var/lib/docker/x: no space left on device",
            FULL,
        ),
        (
            "OSError: [Errno 28] No space left on device\nwheels.py failed",
            FULL,
        ),
        (
            DEAD,
            SILENT,
        ),
        ("one\n  two  \n\n", "x: two"),
        ("", "x: it said nothing"),
    ],
)
def test_a_known_fault_is_told_with_its_remedy(said: str, told: str) -> None:
    assert docker.explained(said, "x") == told


@pytest.mark.parametrize("answer", ['{"digest": "latest"}', "{}"])
def test_a_registry_that_gives_no_digest_is_told(
    stand_in: Callable[[str], None], answer: str
) -> None:
    stand_in(f"echo '{answer}'")
    with pytest.raises(CiError, match="the registry gave no digest for debian:12"):
        docker.digest("debian:12")


def test_a_digest_is_what_the_registry_says(stand_in: Callable[[str], None]) -> None:
    stand_in(f'echo \'{{"digest": "sha256:{"a" * 64}"}}\'')
    assert docker.digest("debian:12") == f"sha256:{'a' * 64}"


def test_an_image_that_the_engine_has_not_is_none(stand_in: Callable[[str], None]) -> None:
    stand_in('echo "[]"; echo "No such image" >&2; exit 1')
    assert docker.inspect("x") is None


def test_variables_come_in_the_order_of_their_names() -> None:
    assert docker.variables({"B": "2", "A": "1=x"}, "--env") == ["--env", "A=1=x", "--env", "B=2"]
