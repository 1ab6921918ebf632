"""Bases: their names, build context, pins, and the packages of a platform."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from uv import find_uv_bin

from ci import base, build, platforms
from ci.__main__ import main, parser
from ci.errors import CiError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = platforms.get("cpu")
GPU = platforms.get("cuda13")
WANTED = {"torch": {"torch": "2.13.0"}, "shared": {"numpy": "2.4.0", "numba": "0.62.0"}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of bentos/bases that the module takes for its own; groups are made up."""
    copy = tmp_path / "bases"
    shutil.copytree(base.FOLDER, copy)
    monkeypatch.setattr(base, "FOLDER", copy)
    monkeypatch.setattr(base, "BUILT", tmp_path / "built")
    monkeypatch.setattr(base, "requirements", lambda *_: WANTED)
    return copy


@pytest.fixture
def fingerprint(folder: Path) -> Callable[[], str]:  # noqa: ARG001
    return lambda: base.find("vllm", CPU).fingerprint


@pytest.mark.parametrize(
    "name", ["Dockerfile", "wheels.py", "healthcheck.py", "prebuilt-cc", "prebuild.py"]
)
def test_a_base_has_another_name_once_a_file_of_it_changes(
    folder: Path, fingerprint: Callable[[], str], name: str
) -> None:
    before = fingerprint()
    with (folder / name).open("a") as file:
        file.write("# changed\n")
    assert fingerprint() != before


@pytest.mark.parametrize(
    "changed",
    [
        {"image": "ubuntu"},
        {"tag": "trixie-slim"},
        {"digest": f"sha256:{'a' * 64}"},
        {"devel_tag": "trixie"},
        {"devel_digest": f"sha256:{'a' * 64}"},
        {"python": "3.12"},
        {"torch": "2.14.0"},
        {"torch_from": "base"},
    ],
    ids=lambda changed: next(iter(changed)),
)
@pytest.mark.usefixtures("folder")
def test_a_base_has_another_name_once_its_platform_changes(changed: dict[str, str]) -> None:
    other: platforms.Platform = dataclasses.replace(CPU, **changed)
    assert base.find("vllm", other).fingerprint != base.find("vllm", CPU).fingerprint


def test_a_base_has_another_name_once_a_package_or_uv_changes(
    fingerprint: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint()
    monkeypatch.setattr(base, "requirements", lambda *_: {"torch": {"torch": "2.13.1"}})
    assert fingerprint() != before
    monkeypatch.setattr(base, "requirements", lambda *_: WANTED)
    assert fingerprint() == before
    monkeypatch.setattr(base, "version", lambda _: "0.0.1")
    assert fingerprint() != before


def test_nothing_else_gives_a_base_another_name(
    folder: Path, fingerprint: Callable[[], str]
) -> None:
    before = fingerprint()
    (folder / "README.md").write_text("words")
    (folder / "stock-setup.sh").write_text("not in the base")
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    assert fingerprint() == before
    assert base.find("vllm", CPU, "ghcr.io/me").fingerprint == before


def test_a_base_without_torch_stands_on_the_plain_image_and_is_built_from_nothing_else() -> None:
    plain = base.find("whisper", GPU)
    assert plain.arguments["PLATFORM_IMAGE"] == GPU.plain_reference
    assert GPU.plain_reference.partition("@")[0] == "ubuntu:24.04"
    other = dataclasses.replace(GPU, tag="another", digest=f"sha256:{'a' * 64}")
    assert base.find("whisper", other).fingerprint == plain.fingerprint
    moved = dataclasses.replace(GPU, plain_tag="26.04")
    assert base.find("whisper", moved).fingerprint != plain.fingerprint
    assert base.find("cosyvoice", moved).fingerprint == base.find("cosyvoice", GPU).fingerprint


@pytest.mark.parametrize("stage", ["vllm", "cosyvoice", "stack", "devel"])
def test_a_base_with_torch_stands_on_the_image_that_holds_it(stage: str) -> None:
    assert base.find(stage, GPU).arguments["PLATFORM_IMAGE"] == GPU.reference


def test_a_platform_with_one_image_has_no_other_for_what_needs_no_torch() -> None:
    assert base.find("slim", CPU).arguments["PLATFORM_IMAGE"] == CPU.reference


def test_a_base_is_named_by_its_stage_its_platform_and_its_content() -> None:
    found = base.find("slim", CPU, "ghcr.io/Me")
    assert found.moving == "ghcr.io/me/bentovox/base-slim:cpu"
    assert found.reference == f"{found.moving}-{found.fingerprint}"


def test_an_unknown_base_is_told_with_those_that_are_there() -> None:
    with pytest.raises(
        CiError,
        match="there is no base 'vlm'; there are slim, vllm, cosyvoice, whisper, stack, ray, devel",
    ):
        base.find("vlm", CPU)


@pytest.mark.usefixtures("folder")
def test_a_context_holds_the_lists_of_its_groups_the_scripts_and_uv_all_of_one_time(
    tmp_path: Path,
) -> None:
    context = base.write_context(base.find("vllm", CPU), tmp_path)
    names = {str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()}
    assert names == {
        *("groups/torch.txt", "groups/shared.txt", "prebuild.py"),
        *("tools/usr/local/bin/wheels.py", "tools/usr/local/bin/uv"),
        *("checks/usr/local/bin/healthcheck.py", "checks/usr/local/bin/prebuilt-cc"),
    }
    listed = (context / "groups/shared.txt").read_text()
    assert listed == "numba==0.62.0\nnumpy==2.4.0\n"
    assert {int(path.stat().st_mtime) for path in context.rglob("*")} == {build.EPOCH}
    assert os.access(context / "tools/usr/local/bin/wheels.py", os.X_OK)
    assert (context / "tools/usr/local/bin/uv").read_bytes() == _uv()


def _uv() -> bytes:
    with open(find_uv_bin(), "rb") as file:  # noqa: PTH123  as it is found
        return file.read()


@pytest.mark.usefixtures("folder")
def test_what_a_context_held_before_is_gone(tmp_path: Path) -> None:
    for _ in range(2):
        context = base.write_context(base.find("vllm", CPU), tmp_path)
        assert not (context / "groups" / "old.txt").exists()
        (context / "groups" / "old.txt").touch()


def given(*words: str) -> build.Options:
    return build.options_of(parser("base").parse_args(["build", "slim", *words]))


def test_an_image_is_kept_here_or_pushed() -> None:
    kept = given().arguments("a:1", "b:2")
    assert kept[0] == (
        '--output=type=image,unpack=true,"name=a:1,b:2",compression=zstd,oci-mediatypes=true'
    )
    pushed = given("--push", "--registry=ghcr.io/me").arguments("a:1")
    assert pushed[0].startswith('--output=type=registry,store=false,"name=a:1",compression=zstd')


def test_caches_network_and_no_cache_go_to_buildx_only_where_they_are_given() -> None:
    assert given().arguments("a")[1:] == [
        f"--build-arg=SOURCE_DATE_EPOCH={build.EPOCH}",
        "--provenance=false",
    ]
    words = ("--cache-from=x", "--cache-from=y", "--cache-to=z", "--network=host", "--no-cache")
    assert given(*words).arguments("a")[3:] == list(words)


def test_a_push_to_nowhere_is_refused() -> None:
    with pytest.raises(CiError, match="--push needs --registry, such as"):
        given("--push")


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[], str]]:
    """Return a function that puts a script on the path as `docker`; it returns what was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    calls = tmp_path / "calls"

    def put(script: str) -> Callable[[], str]:
        path = folder / "docker"
        path.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{script}\n')
        path.chmod(0o755)
        return calls.read_text

    return put


def test_a_base_that_is_here_is_not_built_but_gets_its_moving_name(
    docker: Callable[[str], Callable[[], str]],
) -> None:
    asked = docker("""echo '[{"Id": "sha256:0"}]'""")
    found = base.find("slim", CPU)
    assert base.ensure(found, build.Options()) == 0
    assert asked().splitlines() == [
        f"image inspect {found.reference}",
        f"tag {found.reference} {found.moving}",
    ]


def test_a_base_that_is_in_its_registry_is_not_built(
    docker: Callable[[str], Callable[[], str]],
) -> None:
    asked = docker("exit 0")
    found = base.find("slim", CPU, "ghcr.io/me")
    assert base.ensure(found, build.Options(registry="ghcr.io/me", push=True)) == 0
    assert asked().splitlines() == [f"buildx imagetools inspect {found.reference}"]


DIGESTS = """
case "$*" in
    version*|*"buildx version"*) echo 28 ;;
    *runtime) printf '{{"digest": "sha256:%064d"}}' 1 ;;
    *devel) printf '{{"digest": "sha256:%064d"}}' 2 ;;
    *ubuntu*) printf '{{"digest": "sha256:%064d"}}' 4 ;;
    *) printf '{{"digest": "sha256:%064d"}}' 3 ;;
esac
""".replace("{{", "{").replace("}}", "}")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the table of platforms that `pin` takes for its own."""
    copy = tmp_path / "platforms.toml"
    shutil.copyfile(platforms.TABLE, copy)
    monkeypatch.setattr(platforms, "TABLE", copy)
    return copy


def without_digests(text: str) -> list[str]:
    return [line for line in text.splitlines() if "digest =" not in line]


def test_pin_writes_the_digests_and_nothing_else(
    table: Path, docker: Callable[[str], object], capsys: pytest.CaptureFixture[str]
) -> None:
    before = table.read_text()
    docker(DIGESTS)
    assert main(["base", "pin"]) == 0
    assert without_digests(table.read_text()) == without_digests(before)
    written = platforms.load()
    digests = [f"sha256:{number:064}" for number in (1, 2, 3, 4)]
    assert [written["cuda13"].digest, written["cuda13"].devel_digest] == digests[:2]
    assert written["cuda13"].plain_digest == digests[3]
    assert written["cpu"].digest == written["cpu"].devel_digest == digests[2]
    assert f"cuda13.devel_digest {digests[1]}" in capsys.readouterr().out


def test_pin_of_one_platform_leaves_the_others(
    table: Path, docker: Callable[[str], object]
) -> None:
    before: dict[str, Any] = tomllib.loads(table.read_text())
    docker(DIGESTS)
    assert main(["base", "pin", "cpu"]) == 0
    after: dict[str, Any] = tomllib.loads(table.read_text())
    assert after["cuda13"] == before["cuda13"]
    assert after["cpu"]["digest"]


def test_a_table_without_a_place_for_a_digest_is_told_not_passed_over(
    table: Path, docker: Callable[[str], object], capsys: pytest.CaptureFixture[str]
) -> None:
    text = table.read_text().replace("devel_digest =", "devel_digest  =")
    table.write_text(text)
    docker(DIGESTS)
    assert main(["base", "pin", "cpu"]) == 1
    assert 'platforms.toml [cpu]: no line `devel_digest = ""`' in capsys.readouterr().err
    assert table.read_text() == text


def test_a_registry_that_does_not_answer_leaves_the_table_as_it_is(
    table: Path, docker: Callable[[str], object]
) -> None:
    before = table.read_text()
    docker('case "$*" in *version*) echo 28 ;; *runtime) exit 1 ;; esac')
    assert main(["base", "pin"]) == 1
    assert table.read_text() == before


def test_what_a_platform_holds_is_written_for_its_locks(
    folder: Path, docker: Callable[[str], Callable[[], str]], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = docker('case "$*" in *version*) ;; *) printf "numpy==2.4.0\\ntorch==2.13.0\\n" ;; esac')
    assert main(["base", "held", "cuda13"]) == 0
    path = folder / "held.cuda13.txt"
    assert capsys.readouterr().out.startswith(f"{path}: 2 packages")
    header, *lines = path.read_text().splitlines()
    assert GPU.reference in header
    assert lines == ["numpy==2.4.0", "torch==2.13.0"]
    assert f"--entrypoint=python3 {GPU.reference} - holding" in asked()
