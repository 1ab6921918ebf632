"""`prebuild.py` and `prebuilt-cc`: what was compiled once is available without a compiler."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BASES = Path(__file__).parents[3] / "bentos" / "bases"
PLACE = "/usr/local/lib/prebuilt"
DRIVER = """
#include <Python.h>
#include "named.h"
int cuInit(unsigned int flags);
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, NAMED, NULL, -1, NULL};
PyMODINIT_FUNC PyInit_cuda_utils(void) { return PyModule_Create(&module); }
int begin(void) { return cuInit(0); }
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "prebuilt"
    folder.mkdir()
    return folder


@pytest.fixture
def compiler(tmp_path: Path, place: Path) -> Path:
    """Return `prebuilt-cc` as it is, but for the folder in which it looks."""
    text = (BASES / "prebuilt-cc").read_text()
    assert text.count(PLACE) == 1
    script = tmp_path / "cc.py"
    script.write_text(text.replace(PLACE, str(place)))
    return script


def compile_(script: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-IS", script, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_very_source_gets_what_was_made_of_it(
    compiler: Path, place: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "main.c", tmp_path / "cuda_utils.so"
    source.write_text("int x;\n")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    (place / f"{digest}.so").write_bytes(b"module")
    done = compile_(compiler, source, "-O3", "-shared", "-fPIC", "-o", out, "-lcuda")
    assert (done.returncode, done.stderr) == (0, "")
    assert out.read_bytes() == b"module"


@pytest.mark.parametrize("words", [["main.c", "-o", "out.so"], ["main.c", "-c"], ["--version"], []])
def test_anything_else_is_refused_with_a_line_that_says_why(
    compiler: Path, tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "main.c").write_text("int other;\n")
    placed = [str(tmp_path / word) if word in {"main.c", "out.so"} else word for word in words]
    done = compile_(compiler, *placed)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("prebuilt-cc: this image has no compiler, and ")
    assert ("main.c was not compiled" in done.stderr) == ("main.c" in words)
    assert not (tmp_path / "out.so").exists()


def test_two_sources_at_once_are_refused(compiler: Path, tmp_path: Path) -> None:
    for name in ("one.c", "two.c"):
        (tmp_path / name).write_text("int x;\n")
    done = compile_(compiler, tmp_path / "one.c", tmp_path / "two.c", "-o", tmp_path / "out.so")
    assert done.returncode == 1
    assert "one.c, two.c was not compiled" in done.stderr


def prebuild(out: Path, *folders: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BASES / "prebuild.py", out, *folders]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_where_no_triton_is_installed_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    assert prebuild(tmp_path / "out", tmp_path / "site").returncode == 0
    assert list((tmp_path / "out" / PLACE.lstrip("/")).iterdir()) == []


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here; the devel stage has one")
def test_a_tritons_driver_is_compiled_under_the_hash_of_its_source_and_asks_for_the_driver(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "site" / "triton" / "backends" / "nvidia"
    (folder / "include").mkdir(parents=True)
    (folder / "include" / "named.h").write_text('#define NAMED "cuda_utils"\n')
    (folder / "driver.c").write_text(DRIVER)
    done = prebuild(tmp_path / "out", tmp_path / "site", tmp_path / "nowhere")
    assert done.returncode == 0, done.stderr
    (module,) = (tmp_path / "out" / PLACE.lstrip("/")).iterdir()
    assert module.name == f"{hashlib.sha256(DRIVER.encode()).hexdigest()}.so"
    needed = subprocess.run(["readelf", "-d", module], capture_output=True, text=True, check=True)
    assert "[libcuda.so.1]" in needed.stdout, "it takes the driver's library from the GPU's host"
