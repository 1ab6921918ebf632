"""The built wheel, which is what people install."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return ZipFile(built)


def tracked(pattern: str) -> set[str]:
    """Return the files that git knows of, so that what lies about does not count."""
    listed = subprocess.run(
        ["git", "ls-files", "--", pattern], cwd=ROOT, check=False, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("the source is not a git checkout")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


def test_the_wheel_holds_every_file_of_both_packages(wheel: ZipFile) -> None:
    names = set(wheel.namelist())
    assert tracked("services") - names == set()
    assert tracked("ci") - names == set()


def test_the_wheel_holds_the_data_that_is_read_at_run_time(wheel: ZipFile) -> None:
    assert "services/settings/profiles.toml" in wheel.namelist()


def test_the_wheel_holds_nothing_else(wheel: ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"services", "ci"}
