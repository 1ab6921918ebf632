"""Locks: those of the bentos, and resolving with the real uv from a folder of tiny wheels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

from ci import platforms, specs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_each_bento_is_locked_for_each_of_its_platforms_and_the_stacks_come_first(
    noxfile: SimpleNamespace,
) -> None:
    locks = [source.with_suffix(".txt") for source in noxfile.bento_sources()]
    stack, *others = map(specs.load, [specs.STACK, *specs.names()[:-1]])
    first = {stack.lock_for(platform) for platform in stack.platforms}
    assert set(locks[: len(first)]) == first
    wanted = {one.lock_for(platform) for one in others for platform in one.platforms}
    assert set(locks[len(first) :]) == wanted


def test_a_bento_keeps_to_the_stack_on_its_platforms_python(noxfile: SimpleNamespace) -> None:
    for source in noxfile.bento_sources():
        platform = platforms.get(source.name.split(".")[1])
        options = noxfile.bento_options(source)
        assert (noxfile.ON_GPU in options) == bool(platform.cuda)
        assert (noxfile.ON_CPU in options) != bool(platform.cuda)
        assert f"--python-version={platform.python}" in options
        own = f"--constraint=bentos/stack/requirements.{platform.name}.txt"
        assert (own in options) == (source.parent.name != specs.STACK)


def wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    """Write a wheel that holds nothing but what it needs."""
    info = f"{name}-{version}.dist-info"
    metadata = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
    with ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", "\n".join(["Metadata-Version: 2.1", *metadata, ""]))
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of wheels which is all that uv knows."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("1.26.4", "2.3.0", "2.4.0"):
        wheel(folder, "numpy", version)
    wheel(folder, "old_engine", "1.0", "numpy<2")
    wheel(folder, "new_engine", "3.0", "numpy>=2")
    wheel(folder, "torch", "2.13.0+cpu")
    wheel(folder, "torch", "2.14.0+cpu")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    for name in ("UV_NO_INDEX", "UV_OFFLINE", "UV_NO_CACHE", "UV_NO_CONFIG"):
        monkeypatch.setenv(name, "1")
    (folder / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    return folder


@pytest.fixture
def locked(
    noxfile: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wheels: Path,  # noqa: ARG001  all that uv knows
) -> Callable[..., str]:
    """Return a function that resolves some packages, with what was locked before."""
    monkeypatch.setitem(noxfile.resolve.__globals__, "ROOT", tmp_path)
    session = SimpleNamespace(log=print, posargs=[], error=pytest.fail)

    def resolve(*packages: str, before: str = "") -> str:
        source, lock = tmp_path / "wanted.in", tmp_path / "lock.txt"
        source.write_text("\n".join(packages))
        lock.write_text(before)
        return str(noxfile.resolve(session, lock, [str(source)]))

    return resolve


def test_two_packages_that_want_two_numpys_are_told_by_their_names(
    locked: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(pytest.fail.Exception, match="`uv pip compile` failed"):
        locked("old-engine", "new-engine")
    said = " ".join(capfd.readouterr().err.split())
    assert "versions of new-engine depend on numpy>=2" in said
    assert "versions of old-engine depend on numpy<2" in said


def test_what_is_locked_is_kept_to_as_long_as_it_fits(locked: Callable[..., str]) -> None:
    assert locked("new-engine") == "new-engine==3.0\nnumpy==2.4.0\n"
    assert "numpy==2.3.0\n" in locked("new-engine", before="numpy==2.3.0\n")
    assert "numpy==2.4.0\n" in locked("new-engine", before="numpy==1.26.4\n")


def test_a_torch_of_a_cpu_is_locked_by_its_public_version(locked: Callable[..., str]) -> None:
    assert locked("torch") == "torch==2.14.0\n"
