"""The throw-away engine: its options, refusals and network. None is started."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ci import engine as ci_engine
from ci.__main__ import main
from ci.engine import Engine
from ci.errors import CiError
from tests import standin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path / "engine")


def test_two_homes_are_two_engines(tmp_path: Path) -> None:
    one, two = Engine(tmp_path / "one"), Engine(tmp_path / "two")
    assert len({one.host, two.host}) == len({one.bridge, two.bridge}) == 2
    assert Engine(tmp_path / "one").host == one.host


def test_names_fit_what_the_kernel_allows(tmp_path: Path) -> None:
    deep = Engine(tmp_path.joinpath(*["a-folder-with-a-long-name"] * 9))
    assert len(deep.bridge) <= 15
    assert len(deep.host) < 108, "a socket's path has 107 characters"


def test_docker_means_it_in_its_variables(engine: Engine) -> None:
    variables = engine.variables()
    assert variables["DOCKER_HOST"] == engine.host
    assert variables["PATH"].split(":")[0] == str(engine.home / "bin")
    assert variables["DOCKER_CONFIG"].startswith(str(engine.home))


@pytest.mark.parametrize("pid", ["", "no number", str(os.getpid()), "99999999"])
def test_a_process_id_that_is_no_engines_is_none(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: str
) -> None:
    monkeypatch.setattr(engine, "run", tmp_path)
    assert engine.pid() is None
    (tmp_path / "docker.pid").write_text(pid)
    assert engine.pid() is None


@pytest.fixture
def ip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that puts an `ip` on the path which knows the given addresses."""

    def put(*subnets: int) -> Path:
        calls, known = tmp_path / "calls", tmp_path / "known"
        known.write_text("".join(f"    inet 172.29.{n}.1/24 scope global x\n" for n in subnets))
        script = tmp_path / "bin" / "ip"
        script.parent.mkdir()
        script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n[ "$1" != -4 ] || /bin/cat {known}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(script.parent))
        return calls

    return put


def chosen(calls: Path) -> int:
    (line,) = [line for line in calls.read_text().splitlines() if line.startswith("addr add")]
    return int(line.split()[2].split(".")[2])


def test_its_network_is_one_that_nobody_has(engine: Engine, ip: Callable[..., Path]) -> None:
    taken = [n for n in range(16, 250) if n != 77]
    calls = ip(*taken)
    engine._make_bridge()
    assert chosen(calls) == 77
    assert calls.read_text().splitlines()[1] == f"link add {engine.bridge} type bridge"


def test_a_network_whose_number_begins_alike_is_not_taken_for_it(
    engine: Engine, ip: Callable[..., Path]
) -> None:
    calls = ip(*(n for n in range(16, 250) if n != 17), 170, 171)
    engine._make_bridge()
    assert chosen(calls) == 17


def test_without_a_free_network_it_says_so_and_makes_none(
    engine: Engine, ip: Callable[..., Path]
) -> None:
    calls = ip(*range(16, 250))
    with pytest.raises(CiError, match=r"no network of 172\.29\.0\.0/16 is free here"):
        engine._make_bridge()
    assert "link add" not in calls.read_text()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.count("\n") == 1, text
    return text


def test_without_root_it_is_refused_in_a_line_and_nothing_is_brought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ci_engine.os, "geteuid", lambda: 1000)
    assert main(["engine", "start", "--home", str(tmp_path / "engine")]) == 1
    assert "a throw-away engine needs root; without it, use a docker that is" in said(capsys)
    assert list((tmp_path / "engine").iterdir()) == []


def test_where_there_is_no_debian_it_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ci_engine.os, "geteuid", lambda: 0)
    monkeypatch.setattr(ci_engine, "_KEYRING", tmp_path / "nowhere")
    assert main(["engine", "start", "--home", str(tmp_path / "engine")]) == 1
    assert "is made of Debian's packages; here, install docker" in said(capsys)


def test_programs_that_are_whole_are_not_brought_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ci_engine, "_run", lambda *_, **__: pytest.fail("it asked for packages"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "made").touch()
    assert ci_engine.programs(tmp_path) == tmp_path / "bin"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(not ci_engine._KEYRING.is_file(), reason="needs Debian")
def test_an_archive_that_fails_is_one_line_and_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho 'E: Unable to fetch some archives' >&2\nexit 100\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for _ in range(2):
        with pytest.raises(CiError, match=r"^apt-get failed: E: Unable to fetch some archives$"):
            ci_engine.programs(tmp_path / "home")
    assert not (tmp_path / "home" / "bin").exists()


def test_an_action_that_there_is_not_is_told_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["engine", "restart"])
    assert ended.value.code == 2
    assert "invalid choice: 'restart' (choose from" in capsys.readouterr().err


def test_stop_of_what_does_not_run_is_no_error_and_keeps_its_images(tmp_path: Path) -> None:
    home = tmp_path / "engine"
    (home / "data").mkdir(parents=True)
    assert main(["engine", "stop", "--home", str(home)]) == 0
    assert (home / "data").exists()


def test_a_stand_in_that_is_here_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = tmp_path / "docker"
    docker.write_text("""#!/bin/sh\n[ "$1 $2" = "image inspect" ] && echo '[{"Id": "x"}]'\n""")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert standin.debian(tmp_path) == standin.DEBIAN
