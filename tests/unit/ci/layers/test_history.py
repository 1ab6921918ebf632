import dataclasses
from pathlib import Path

import pytest

from ci.errors import CiError
from ci.layers import history
from ci.layers.history import Entry

MIB = 1 << 20
BEFORE = Entry("chat", "cpu", 100 * MIB, 900 * MIB, 500 * MIB, 20)


def grown(mib: float) -> Entry:
    return dataclasses.replace(
        BEFORE, app_compressed_bytes=BEFORE.app_compressed_bytes + int(mib * MIB)
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sizes.json"
    history.write(BEFORE, path)
    return path


def test_the_first_size_of_a_bento_is_accepted(tmp_path: Path) -> None:
    assert history.growth(BEFORE, tmp_path / "none.json") == ""


def test_growth_over_ten_percent_and_five_mib_names_both_numbers(file: Path) -> None:
    assert "from 100.0 MiB to 111.0 MiB" in history.growth(grown(11), file)


@pytest.mark.parametrize("mib", [10, -50])
def test_growth_up_to_ten_percent_passes(file: Path, mib: float) -> None:
    assert history.growth(grown(mib), file) == ""


def test_growth_up_to_five_mib_passes_whatever_the_share(tmp_path: Path) -> None:
    path = tmp_path / "sizes.json"
    history.write(dataclasses.replace(BEFORE, app_compressed_bytes=MIB), path)
    assert history.growth(dataclasses.replace(BEFORE, app_compressed_bytes=6 * MIB), path) == ""
    assert history.growth(dataclasses.replace(BEFORE, app_compressed_bytes=6 * MIB + 1), path)


def test_another_platform_is_another_entry(file: Path) -> None:
    cuda = dataclasses.replace(grown(500), platform="cuda13")
    assert history.growth(cuda, file) == ""
    history.write(cuda, file)
    assert history.load(file) == {"chat:cpu": BEFORE, "chat:cuda13": cuda}


def test_a_file_of_something_else_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "sizes.json"
    path.write_text('{"chat:cpu": {"size": 1}}')
    with pytest.raises(CiError, match="is no file of sizes"):
        history.load(path)
