"""`bentos/bases/wheels.py`, run with this Python on folders made for the test."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = Path(__file__).parents[3] / "bentos" / "bases" / "wheels.py"
NOTHING_ELSE = (sys.executable, "-S")


@pytest.fixture
def wheels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wheels", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def holds(folder: Path, **versions: str) -> Path:
    """Make a folder in which packages are installed, by name only."""
    for name, version in versions.items():
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def run(
    *words: str | Path, path: tuple[Path, ...] = (), python: tuple[str, ...] = NOTHING_ELSE
) -> subprocess.CompletedProcess[str]:
    """Run a command of the script with a Python that finds what is in `path` only."""
    return subprocess.run(
        [*python, SCRIPT, *words],
        env={**os.environ, "PYTHONPATH": ":".join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "lock.txt"
    path.write_text("# made\ntorch==2.13.0\nNum.Py==2.4.0  # why\nx==1 ; python_version < '3'\n")
    return path


def test_what_is_wanted_and_not_held_in_that_version_is_lacking(wheels: ModuleType) -> None:
    lock = {"torch": "2.13.0", "numpy": "2.4.0", "httpx": "1.0"}
    held = {"torch": "2.13.0+cu130", "numpy": "2.3.0", "triton": "3.7.0"}
    assert wheels.lacking(lock, held) == {"numpy": "2.4.0", "httpx": "1.0"}
    assert wheels.lacking(lock, {**lock, "pip": "1"}) == {}
    assert wheels.lacking({}, held) == {}


def test_a_lock_is_read_with_names_as_indexes_compare_them(wheels: ModuleType, lock: Path) -> None:
    assert wheels.wanted(lock) == {"torch": "2.13.0", "num-py": "2.4.0", "x": "1"}


def test_the_first_of_two_distributions_is_what_is_held(tmp_path: Path) -> None:
    first = holds(tmp_path / "first", torch="2.14.0", Num_Py="2.4.0")
    second = holds(tmp_path / "second", torch="2.13.0")
    done = run("holding", path=(first, second))
    assert done.stdout.splitlines() == ["num-py==2.4.0", "torch==2.14.0"]


def test_what_a_base_holds_is_written_with_versions_and_as_names_to_leave_out(
    tmp_path: Path,
) -> None:
    site = holds(tmp_path / "site", torch="2.13.0+cu130", numpy="2.4.0")
    assert run("held", tmp_path / "out", path=(site,)).returncode == 0
    folder = tmp_path / "out" / "etc" / "uv"
    assert (folder / "base-held.txt").read_text() == "numpy==2.4.0\ntorch==2.13.0+cu130\n"
    assert (folder / "base-excludes.txt").read_text() == "numpy\ntorch\n"
    times = {path.stat().st_mtime for path in (tmp_path / "out").rglob("*")}
    assert times == {315532800.0}


def test_a_bento_installs_the_rest_also_what_the_base_has_in_another_version(
    wheels: ModuleType, lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "HELD", tmp_path / "base-held.txt")
    assert wheels.rest(lock) == ["num-py==2.4.0", "torch==2.13.0", "x==1"]
    (tmp_path / "base-held.txt").write_text("torch==2.13.0+cu130\nnum-py==2.3.0\n")
    assert wheels.rest(lock) == ["num-py==2.4.0", "x==1"]


def test_an_environment_that_is_what_is_locked_passes(lock: Path, tmp_path: Path) -> None:
    lock.write_text("torch==2.13.0\nnumpy==2.4.0\n")
    base = holds(tmp_path / "base", torch="2.13.0+cpu", triton="3.7.0")
    own = holds(tmp_path / "own", numpy="2.4.0")
    done = run("check", lock, path=(own, base))
    assert (done.returncode, done.stderr) == (0, "")


def test_each_package_that_differs_is_a_line(lock: Path, tmp_path: Path) -> None:
    lock.write_text("torch==2.13.0\nnumpy==2.4.0\nhttpx==1.0\n")
    done = run("check", lock, path=(holds(tmp_path, torch="2.14.0", numpy="2.4.0"),))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "torch is 2.14.0, the lock says 2.13.0",
        "httpx is not there, the lock says 1.0",
    ]


def test_a_second_torch_is_a_line_with_both_places(lock: Path, tmp_path: Path) -> None:
    lock.write_text("torch==2.13.0\n")
    own, base = (holds(tmp_path / name, torch="2.13.0") for name in ("own", "base"))
    done = run("check", lock, path=(own, base))
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"torch is there twice: 2.13.0 in {own} and 2.13.0 in {base}; ")
    assert "python -m ci base held" in said


def test_a_package_that_no_lock_names_may_not_be_there_twice_either(
    lock: Path, tmp_path: Path
) -> None:
    lock.write_text("")
    own, base = (holds(tmp_path / name, six="1.17.0") for name in ("own", "base"))
    assert "six is there twice" in run("check", lock, path=(own, base)).stderr


def test_torch_in_the_bentos_own_environment_is_refused(lock: Path, tmp_path: Path) -> None:
    lock.write_text("torch==2.13.0\n")
    home = tmp_path / "venv"
    venv.create(home)
    site = holds(home / "lib" / "site-packages", torch="2.13.0")
    python = (str(home / "bin" / "python"),)
    done = run("check", lock, path=(site,), python=python)
    assert done.returncode == 1
    assert done.stderr == (
        f"torch 2.13.0 is in {site}: gigabytes in a layer of the bento; its base must hold it\n"
    )
    outside = holds(tmp_path / "base", torch="2.13.0")
    done = run("check", lock, path=(outside,), python=python)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("held", "source", "said"),
    [
        ("2.13.0", "base", ""),
        ("2.13.0+cu130", "base", ""),
        (
            "2.14.0+cu130",
            "base",
            "the image holds torch 2.14.0+cu130, platforms.toml and the locks",
        ),
        ("", "base", "the image holds torch None, platforms.toml and the locks say 2.13.0"),
        ("", "wheels", ""),
        ("2.13.0", "wheels", "the image holds torch 2.13.0; platforms.toml says torch_from"),
    ],
)
def test_the_torch_of_the_platforms_image_is_held_to_the_table(
    tmp_path: Path, held: str, source: str, said: str
) -> None:
    site = holds(tmp_path, **({"torch": held} if held else {}))
    done = run("check-torch", "2.13.0", source, path=(site,))
    assert done.returncode == (1 if said else 0)
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == bool(said)


def test_the_python_of_the_platforms_image_is_held_to_the_table() -> None:
    version = sysconfig.get_python_version()
    assert run("check-python", version).returncode == 0
    refused = run("check-python", "3.99")
    assert refused.returncode == 1
    said = f"the image has Python {version}, platforms.toml says 3.99: "
    assert refused.stderr == f"{said}locks are made for one version\n"


def test_a_group_that_the_image_holds_already_installs_nothing(tmp_path: Path) -> None:
    site = holds(tmp_path / "site", torch="2.13.0+cu130")
    group = tmp_path / "group.txt"
    group.write_text("torch==2.13.0\n")
    done = run("install", group, tmp_path / "out", path=(site,))
    assert done.returncode == 0, done.stderr
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_commands_of_a_group_run_in_the_environment_that_is_first_on_the_path(
    wheels: ModuleType, tmp_path: Path
) -> None:
    said = {
        "ray": b"#!/usr/bin/python3\nimport ray\n",
        "tool.sh": b"#!/bin/sh\n",
        "elf": b"\x7fELF\n",
    }
    for name, data in said.items():
        (tmp_path / name).write_bytes(data)
    wheels.point_to_path(tmp_path)
    said["ray"] = b"#!/usr/bin/env python3\nimport ray\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == said


def test_without_a_command_it_says_which_there_are() -> None:
    done = run()
    assert done.returncode == 1
    assert "check-torch VERSION FROM" in done.stderr
