"""The table of platforms: its required contents, and the errors without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci import platforms
from ci.errors import CiError

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = f"sha256:{'a' * 64}"
KEYS = {
    "image": "debian",
    "tag": "12",
    "digest": "",
    "devel_tag": "12",
    "devel_digest": "",
    "python": "3.11",
    "torch": "2.13.0",
    "torch_from": "wheels",
    "cuda": "",
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the table, where there is none yet."""
    monkeypatch.setattr(platforms, "TABLE", tmp_path / "platforms.toml")
    return platforms.TABLE


def cpu(path: Path, **changed: object) -> platforms.Platform:
    """Return the platform of a table with these values."""
    values = {**KEYS, **changed}
    lines = [f"{k} = {v!r}" for k, v in values.items() if v is not None]
    path.write_text("\n".join(["[cpu]", *lines, ""]), encoding="utf-8")
    return platforms.get("cpu")


def test_the_repositorys_table_is_whole_and_pinned_by_what_a_registry_said_or_not_at_all() -> None:
    known = platforms.load()
    assert known.keys() == {"cuda13", "cpu"}
    for platform in known.values():
        assert bool(platform.digest) == bool(platform.devel_digest)
        assert bool(platform.plain_digest) == bool(platform.digest and platform.plain_image)
        assert bool(platform.cuda) == (platform.torch_from == "base")


def test_the_tags_of_a_gpus_image_say_the_torch_and_the_cuda_of_the_table() -> None:
    for platform in platforms.load().values():
        if platform.cuda:
            assert platform.tag == f"{platform.torch}-cuda{platform.cuda}-cudnn9-runtime"
            assert platform.devel_tag == platform.tag.replace("-runtime", "-devel")


def test_an_image_is_named_by_its_digest_once_it_is_pinned(path: Path) -> None:
    unpinned = cpu(path)
    assert (unpinned.reference, unpinned.devel_reference) == ("debian:12", "debian:12")
    pinned = cpu(path, digest=DIGEST, devel_tag="12-devel")
    assert pinned.reference == f"debian:12@{DIGEST}"
    assert pinned.devel_reference == "debian:12-devel"


def test_what_needs_no_torch_stands_on_the_plain_image_where_the_platform_has_one(
    path: Path,
) -> None:
    assert cpu(path).plain_reference == "debian:12"
    plain = {"plain_image": "ubuntu", "plain_tag": "24.04", "plain_digest": DIGEST}
    assert cpu(path, **plain).plain_reference == f"ubuntu:24.04@{DIGEST}"


def test_an_unknown_platform_is_told_with_those_that_are_there() -> None:
    with pytest.raises(
        CiError, match=r"'cuda12' is no platform of platforms\.toml; there are cuda13, cpu"
    ):
        platforms.get("cuda12")


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"torch": None}, r"\[cpu\]: torch: Field required"),
        ({"pyton": "3.11"}, r"\[cpu\]: pyton: Unexpected keyword"),
        ({"torch": 2}, r"\[cpu\]: torch: Input should be a valid string"),
        ({"digest": "sha256:abc"}, r"\[cpu\]: digest: String should match .*sha256"),
        ({"devel_digest": "latest"}, r"\[cpu\]: devel_digest: String should match"),
        ({"plain_digest": "24.04"}, r"\[cpu\]: plain_digest: String should match"),
        ({"torch_from": "pip"}, r"\[cpu\]: torch_from: Input should be 'base' or 'wheels'"),
    ],
)
def test_a_fault_of_the_table_is_told_by_its_platform_and_key(
    path: Path, changed: dict[str, object], fault: str
) -> None:
    with pytest.raises(CiError, match=fault):
        cpu(path, **changed)


@pytest.mark.parametrize("text", ["[cpu", "cpu = 1", "[cpu]\ntag = '1'\ntag = '2'"])
def test_a_table_that_is_none_is_told(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CiError, match=r"platforms\.toml"):
        platforms.load()


@pytest.mark.usefixtures("path")
def test_a_table_that_is_not_there_is_told() -> None:
    with pytest.raises(CiError, match=r"No such file.*platforms\.toml"):
        platforms.load()
