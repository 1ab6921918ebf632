import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from ci import disk
from ci.disk import Held

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
OURS = {"Env": ["UV_EXCLUDE=/etc/uv/base-excludes.txt"]}
OLD = "bentovox/chat:cpu-0123456789ab"


def going(*images: dict[str, Any]) -> list[tuple[str, ...]]:
    listed = [
        {"ID": f"sha256:{at}", "Containers": one.get("containers", "0"), "UniqueSize": "1MB"}
        for at, one in enumerate(images)
    ]
    known = [
        {"Id": f"sha256:{at}", "RepoTags": one["names"], "Config": one.get("config")}
        for at, one in enumerate(images)
    ]
    return [held.names for held in disk.images(listed, known) if held.reason]


def test_an_image_of_ours_that_only_its_content_names_may_go() -> None:
    assert going({"names": [OLD]}) == [(OLD,)]
    with_registry = f"127.0.0.1:5000/{OLD}"
    assert going({"names": [OLD, with_registry]}) == [(OLD, with_registry)]


@pytest.mark.parametrize("name", ["bentovox/chat:cpu", "bentovox/chat:v1", "elsewhere/it:latest"])
def test_an_image_that_another_name_stands_for_stays(name: str) -> None:
    assert going({"names": [OLD, name]}) == []


@pytest.mark.parametrize("name", ["else/chat:cpu-0123456789ab", "bentovox-test/x:a-0123456789ab"])
def test_others_images_stay_whatever_they_are_called(name: str) -> None:
    assert going({"names": [name]}) == []


def test_an_image_that_a_container_uses_stays() -> None:
    assert going({"names": [OLD], "containers": "1"}) == []
    assert going({"names": [], "config": OURS, "containers": "1"}) == []


def test_the_base_of_an_image_that_stays_stays() -> None:
    base = "bentovox/base-vllm:cpu-0123456789ab"
    labels = {"Labels": {"org.opencontainers.image.base.name": base}}
    assert going({"names": [base]}, {"names": ["bentovox/chat:cpu"], "config": labels}) == []
    assert going({"names": [base]}, {"names": [OLD], "config": labels}) == [(base,), (OLD,)]


def test_of_images_without_a_name_only_ours_may_go() -> None:
    bento = {"Labels": {"bentovox.bento": "chat"}}
    images = [{"names": [], "config": config} for config in (OURS, bento, {}, None)]
    assert going(*images) == [("sha256:0",), ("sha256:1",)]


def entry(size: str, used: str = "", **more: str) -> dict[str, str]:
    created = "2026-11-24 11:30:00.123456789 +0000 UTC"
    common = {"Size": size, "LastUsedAt": used, "CreatedAt": created, "InUse": "false"}
    return {**common, "Shared": "false", **more}


def test_cache_may_go_when_it_was_not_used_for_some_hours() -> None:
    listed = [
        entry("2kB", "2026-11-24 01:00:00 +0000 UTC"),
        entry("30kB", "2026-11-24 11:00:00 +0000 UTC"),
        entry("400kB"),
        entry("5MB", "2026-11-24 01:00:00 +0000 UTC", InUse="true"),
        entry("6GB", "2026-11-24 01:00:00 +0000 UTC", Shared="true"),
    ]
    recent, old = disk.cache(listed, 5, NOW)
    assert recent == Held("build cache", ("used in the last 5 h",), 5_430_000)
    assert (old.bytes, bool(old.reason)) == (2000, True)


@pytest.mark.parametrize(
    ("said", "count"), [("0B", 0), ("4.1kB", 4100), ("1.5GB", 1_500_000_000), ("N/A", 0)]
)
def test_dockers_sizes_are_decimal(said: str, count: int) -> None:
    assert disk.parsed(said) == count


def test_folders_of_builds_are_shown_and_stay(tmp_path: Path) -> None:
    (tmp_path / "chat-cpu" / "context").mkdir(parents=True)
    (tmp_path / "chat-cpu" / "context" / "x").write_bytes(b"123")
    assert list(disk.folders(tmp_path)) == [Held("folder", (".nox/bentos/chat-cpu",), 3)]


def test_a_dry_run_of_nothing_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert disk.main(["--dry-run"]) == 1
    assert "--dry-run needs --prune" in capsys.readouterr().err
