"""The locks against pyproject.toml, without a network."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
LOCKS = ROOT / "ci" / "locks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BASE = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group, and of those that it includes."""
    found = []
    for entry in GROUPS[name]:
        found += [entry] if isinstance(entry, str) else group(entry["include-group"])
    return found


ON_ANY_MACHINE = [*EXTRAS["speech"], *EXTRAS["espeak"], *EXTRAS["faster-whisper"]]
SPEAKING = [*ON_ANY_MACHINE, *EXTRAS["cosyvoice"]]
DIRECT = {
    "stack-cpu": [*BASE, *EXTRAS["vllm-cpu"], *SPEAKING],
    "stack-cuda": [*BASE, *EXTRAS["vllm"], *EXTRAS["faster-whisper-cuda"], *SPEAKING],
    "cosyvoice": [*BASE, *SPEAKING, *group("e2e")],
    "dev": [
        *BASE,
        *ON_ANY_MACHINE,
        *(entry for name in ("lint", "types", "e2e") for entry in group(name)),
    ],
    "openai-2": [*BASE, *ON_ANY_MACHINE, *group("openai-2")],
    "clients": group("clients"),
    "bench": group("bench"),
}
ON_CPU = {"stack-cpu", "cosyvoice"}
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton"}
ALL = pytest.mark.parametrize("name", sorted(DIRECT))


def lines(name: str) -> list[str]:
    text = (LOCKS / f"{name}.txt").read_text()
    return [line for line in text.splitlines() if not line.startswith("#")]


def locked(name: str) -> dict[str, str]:
    return dict(line.split("==") for line in lines(name))


def test_every_lock_is_known_here() -> None:
    assert {path.stem for path in LOCKS.glob("*.txt")} == {*DIRECT, "overrides"}


@ALL
def test_a_lock_is_names_and_versions_only(name: str) -> None:
    public = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9]+(\.[0-9]+)*((a|b|rc|\.post|\.dev)[0-9]+)*")
    assert [line for line in lines(name) if not public.fullmatch(line)] == []


@ALL
def test_a_lock_names_each_package_once(name: str) -> None:
    assert len(locked(name)) == len(lines(name))


@ALL
def test_a_lock_holds_what_pyproject_asks_for(name: str) -> None:
    versions = locked(name)
    for entry in DIRECT[name]:
        wanted = Requirement(entry)
        if name in ON_CPU and wanted.name in LEFT_OUT:
            continue
        if wanted.marker is None or wanted.marker.evaluate({"python_version": "3.11"}):
            version = versions.get(canonicalize_name(wanted.name))
            assert version is not None, f"{wanted} is not in {name}.txt: run `nox -s lock`"
            assert version in wanted.specifier, f"{name}.txt has {version}, not {wanted}"


def test_what_kills_vllm_on_a_cpu_is_left_out() -> None:
    overridden = {Requirement(line).name for line in lines("overrides")}
    assert overridden == LEFT_OUT
    assert overridden.isdisjoint(locked("stack-cpu"))


def test_both_stacks_serve_with_one_version_of_vllm() -> None:
    assert locked("stack-cpu")["vllm-cpu"] == locked("stack-cuda")["vllm"]
    assert locked("stack-cpu")["torch"] == locked("stack-cuda")["torch"]


def test_tests_and_stack_agree_on_what_they_share() -> None:
    direct = {canonicalize_name(Requirement(entry).name) for entry in BASE}
    ours, served = locked("dev"), locked("stack-cpu")
    assert {name: ours[name] for name in direct} == {name: served[name] for name in direct}


def test_the_sdk_is_tested_in_both_major_versions() -> None:
    assert locked("dev")["openai"].startswith("3.")
    assert locked("openai-2")["openai"].startswith("2.")
