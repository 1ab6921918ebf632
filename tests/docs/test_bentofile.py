"""BentoML itself builds the root bento, with what is served and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("bentoml")
    bentoml = Path(sys.executable).with_name("bentoml")
    environ = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    command = [str(bentoml), "build", "--version", "test", "--output", "tag"]
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return home / "bentos" / "bentovox" / "test"


def test_bento_holds_every_file_of_services(bento: Path) -> None:
    packed = {path.relative_to(bento / "src").as_posix() for path in _files(bento / "src")}
    tracked = subprocess.run(
        ["git", "ls-files", "services", "LICENSE"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(tracked.stdout.split()) <= packed
    assert {name.partition("/")[0] for name in packed} == {"services", "LICENSE", "bentofile.yaml"}


def test_bento_serves_the_stack(bento: Path) -> None:
    described = yaml.safe_load((bento / "bento.yaml").read_text(encoding="utf-8"))
    assert described["service"] == "services.stack:Stack"
    names = {service["name"] for service in described["services"]}
    assert names == {"bentovox", "chat", "conversation", "speech", "transcription"}


def test_bento_installs_the_lock_as_it_is(bento: Path) -> None:
    wanted = _requirements(ROOT / "ci" / "locks" / "stack-cpu.txt")
    assert _requirements(bento / "env" / "python" / "requirements.txt") == wanted


def test_bento_holds_no_secret_and_no_settings(bento: Path) -> None:
    names = {path.name for path in _files(bento)}
    assert not {name for name in names if name.startswith(".env") or ".secrets" in name}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _requirements(path: Path) -> set[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}
