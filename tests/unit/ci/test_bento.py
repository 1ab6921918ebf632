"""Bentos: reproducible, and specific to their platform."""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING

import pytest
import yaml

from ci import base, bento, platforms, specs
from ci.errors import CiError

if TYPE_CHECKING:
    from pathlib import Path

DESCRIBED = """\
service: services.speech.service:Speech
name: bentovox-speech
version: draft
creation_time: '{time}'
description: A draft of nothing
labels:
  kind: draft
"""


def built(folder: Path, name: str, time: str, code: str = "x = 1\n") -> Path:
    """Make a folder as BentoML leaves it."""
    made = folder / name
    (made / "src").mkdir(parents=True)
    (made / "bento.yaml").write_text(DESCRIBED.format(time=time))
    (made / "src" / "speech.py").write_text(code)
    return made


def content(folder: Path) -> dict[str, tuple[bytes, float, int]]:
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mtime,
            path.stat().st_mode,
        )
        for path in folder.rglob("*")
    }


def test_a_bento_of_the_same_inputs_is_the_same_to_the_last_byte(tmp_path: Path) -> None:
    one = built(tmp_path, "one", "2026-01-02T03:04:05+00:00")
    two = built(tmp_path, "two", "2027-01-02T03:04:05+00:00")
    assert bento.settle(one) == bento.settle(two)
    assert content(one) == content(two)


def test_a_bento_built_in_another_folder_is_the_same(tmp_path: Path) -> None:
    both = []
    for name in ("a1b2", "c3d4"):  # BentoML's hash of the script's path
        made = built(tmp_path, name, "2026")
        docker = made / "env" / "docker"
        docker.mkdir(parents=True)
        (docker / f"script__{name}").write_text("#!/bin/sh\n")
        (docker / "Dockerfile").write_text(f"RUN ./env/docker/script__{name}\n")
        with (made / "bento.yaml").open("a") as described:
            described.write(f"post_commands: [./env/docker/script__{name}]\n")
        both.append((bento.settle(made), content(made)))
    assert both[0] == both[1]


def test_other_code_is_another_version_and_so_is_another_name_of_a_file(tmp_path: Path) -> None:
    one = built(tmp_path, "one", "2026")
    two = built(tmp_path, "two", "2026", code="x = 2\n")
    three = built(tmp_path, "three", "2026")
    (three / "src" / "speech.py").rename(three / "src" / "talk.py")
    assert len({bento.settle(folder) for folder in (one, two, three)}) == 3


def test_the_version_is_written_where_it_belongs_and_nowhere_else(tmp_path: Path) -> None:
    made = built(tmp_path, "one", "2026")
    version = bento.settle(made)
    told = yaml.safe_load((made / "bento.yaml").read_text())
    assert told["version"] == version
    assert told["creation_time"] == "1980-01-01T00:00:00+00:00"
    assert (told["description"], told["labels"]["kind"]) == ("A draft of nothing", "draft")


@pytest.mark.parametrize("name", specs.names())
def test_a_bentofile_changes_only_in_what_its_platform_decides(name: str) -> None:
    spec = specs.load(name)
    for platform in map(platforms.get, spec.platforms):
        lock = spec.lock_for(platform.name)
        data = bento.for_platform(spec, platform, lock, "ghcr.io/me")
        assert {key for key in data if data[key] != spec.data[key]} <= {"docker", "python"}
        assert data["docker"] == {
            **spec.data["docker"],
            "base_image": base.find(spec.base(platform.name), platform, "ghcr.io/me").moving,
            "python_version": platform.python,
        }
        assert data["python"] == {
            "requirements_txt": str(lock.relative_to(specs.ROOT)),
            "lock_packages": False,
        }
        assert list(specs.faults({**data, "python": spec.data["python"]})) == []


@pytest.mark.parametrize("name", specs.names())
def test_a_bentofile_as_it_is_says_what_its_first_platform_decides(name: str) -> None:
    spec = specs.load(name)
    platform = platforms.get(spec.platforms[0])
    lock = spec.lock_for(platform.name)
    assert bento.for_platform(spec, platform, lock, "") == spec.data


def test_a_torch_that_is_not_the_platforms_is_refused_before_anything_is_built() -> None:
    spec = specs.load("chat")
    other = dataclasses.replace(platforms.get("cpu"), torch="2.14.0")
    with pytest.raises(
        CiError, match=r"requirements\.cpu\.txt locks torch 2\.13\.0, platforms\.toml has 2\.14\.0"
    ):
        bento.make(spec, other)


def test_a_bento_is_not_built_for_a_platform_that_it_does_not_name() -> None:
    with pytest.raises(CiError, match="gateway is not built for cuda13"):
        bento.make(specs.load("gateway"), platforms.get("cuda13"))


def test_a_bento_that_bentoml_refuses_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bento, "BUILT", tmp_path)
    spec = specs.load("gateway")
    broken = dataclasses.replace(spec, data={**spec.data, "service": "services.nowhere:Gateway"})
    with pytest.raises(CiError, match=r"^BentoML did not build bentovox-gateway: .*nowhere"):
        bento.make(broken, platforms.get("cpu"))
    assert "    | " in capsys.readouterr().err, "what BentoML said stands above"
    assert [path for path in tmp_path.rglob("*") if path.name != "gateway-cpu"] == []


def test_a_bento_that_fails_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bento, "BUILT", tmp_path)
    before = tmp_path / "gateway-cpu" / "bento" / "bento.yaml"
    before.parent.mkdir(parents=True)
    before.write_text("whole")
    spec = specs.load("gateway")
    broken = dataclasses.replace(spec, data={**spec.data, "service": "services.nowhere:Gateway"})
    with pytest.raises(CiError):
        bento.make(broken, platforms.get("cpu"))
    assert before.read_text() == "whole"
    shutil.rmtree(before.parent)
    assert list(before.parents[1].iterdir()) == []
