"""Resolving locks with the real uv, from a folder of tiny wheels instead of an index."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

from ci import lock, platforms, specs
from ci.__main__ import main
from ci.errors import CiError

if TYPE_CHECKING:
    from pathlib import Path

CPU = platforms.get("cpu")


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
def spec(tmp_path: Path) -> specs.Spec:
    """Return a bento of its own kind, which keeps to no other's lock."""
    path = tmp_path / "requirements.cpu.txt"
    return specs.Spec(specs.STACK, path, locked_in(str(path)))


def locked_in(path: str) -> dict[str, object]:
    return {"labels": {"bentovox.platforms": "cpu"}, "python": {"requirements_txt": path}}


def wants(spec: specs.Spec, *lines: str) -> None:
    spec.path.with_suffix(".in").write_text("\n".join(lines) + "\n")


@pytest.mark.usefixtures("wheels")
def test_two_packages_that_want_two_numpys_are_told_by_their_names(
    spec: specs.Spec, capsys: pytest.CaptureFixture[str]
) -> None:
    wants(spec, "old-engine", "new-engine")
    with pytest.raises(CiError) as refused:
        lock.resolve(spec, CPU, "")
    assert str(refused.value) == "stack cannot be locked for cpu; who asks for what stands above"
    said = " ".join(capsys.readouterr().err.split())
    assert "versions of new-engine depend on numpy>=2" in said
    assert re.search(r"versions of old-engine depend on numpy<2\b", said)


@pytest.mark.usefixtures("wheels")
def test_what_nobody_disputes_is_locked_with_its_header(spec: specs.Spec) -> None:
    wants(spec, "new-engine")
    assert lock.resolve(spec, CPU, "") == f"{lock.HEADER}\nnew-engine==3.0\nnumpy==2.4.0\n"


@pytest.mark.usefixtures("wheels")
def test_what_is_locked_is_kept_to_as_long_as_it_fits(spec: specs.Spec) -> None:
    wants(spec, "new-engine")
    assert "numpy==2.3.0\n" in lock.resolve(spec, CPU, "numpy==2.3.0\n")
    assert "numpy==2.4.0\n" in lock.resolve(spec, CPU, "numpy==1.26.4\n")


@pytest.mark.usefixtures("wheels")
def test_a_package_that_nobody_has_is_told(
    spec: specs.Spec, capsys: pytest.CaptureFixture[str]
) -> None:
    wants(spec, "no-such-engine")
    with pytest.raises(CiError, match="stack cannot be locked for cpu"):
        lock.resolve(spec, CPU, "")
    assert "no-such-engine" in capsys.readouterr().err


def test_a_bento_that_says_nothing_of_its_needs_is_told(spec: specs.Spec) -> None:
    nowhere = locked_in("bentos/stack/requirements.nowhere.cpu.txt")
    inside = dataclasses.replace(spec, data=nowhere)
    with pytest.raises(CiError, match=r"requirements\.nowhere\.cpu\.in is missing: it says what"):
        lock.resolve(inside, CPU, "")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spec: specs.Spec) -> specs.Spec:
    """Make it the only bento of a repository of its own."""
    monkeypatch.setattr(specs, "names", lambda: [specs.STACK])
    monkeypatch.setattr(specs, "load", lambda _name: spec)
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    monkeypatch.setattr(lock, "_SERVED", {False: "served.txt"})
    (tmp_path / "served.txt").write_text("numpy==2.3.0\n")
    (tmp_path / "ci" / "locks").mkdir(parents=True)
    (tmp_path / "ci" / "locks" / "overrides.txt").touch()
    return spec


@pytest.mark.usefixtures("wheels")
def test_a_first_lock_begins_with_what_is_served_and_stays_as_it_is(
    only: specs.Spec, capsys: pytest.CaptureFixture[str]
) -> None:
    wants(only, "new-engine")
    assert main(["lock"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Changed: {only.path.name}"
    assert "numpy==2.3.0" in only.path.read_text()
    assert main(["lock"]) == 0
    assert capsys.readouterr().out == "Changed: nothing\n"


@pytest.mark.usefixtures("wheels")
def test_a_torch_that_the_platform_has_not_is_not_locked(
    only: specs.Spec, capsys: pytest.CaptureFixture[str]
) -> None:
    wants(only, "torch==2.14.0")
    assert main(["lock"]) == 1
    assert "requirements.cpu.txt locks torch 2.14.0, platforms.toml has 2.13.0 for cpu" in (
        capsys.readouterr().err
    )
    assert not only.path.exists()
