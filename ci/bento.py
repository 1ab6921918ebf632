"""A bento for a platform, built with BentoML, reproducibly.

The bentofile is used as it is, except for what depends on the platform: the base's name, the Python
and the lock. Its version is a hash of its content, and its time is fixed, so that an unchanged
bento is the same to the last byte. The bento is in .nox/bentos/NAME-PLATFORM/bento.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

import yaml

from ci import base, build
from ci.errors import CiError
from ci.paths import BUILT, ROOT
from ci.platforms import Platform
from ci.specs import Spec
from ci.terminal import ran, say

DRAFT: Final = "draft"
"""The version of a bento until its content is known."""

_SOURCES: Final = ("services", "bentos")
_SCRIPT: Final = "setup-script"
_STAMP: Final = "1980-01-01T00:00:00+00:00"
_CREATED: Final = re.compile(r"^creation_time: .*$", re.MULTILINE)
_VERSION: Final = re.compile(rf"^version: {DRAFT}$", re.MULTILINE)


def make(spec: Spec, platform: Platform, registry: str = "") -> tuple[Path, str]:
    """Build a bento and return its folder and its version; see `paths.alone`."""
    lock = spec.lock_for(platform.name)
    torch = spec.requirements(platform.name).get("torch", platform.torch)
    if torch != platform.torch:
        raise CiError(
            f"{lock.name} locks torch {torch}, platforms.toml has {platform.torch} for "
            f"{platform.name}: change both together, and the image's tag with them"
        )
    final = folder_of(spec, platform) / "bento"
    final.parent.mkdir(parents=True, exist_ok=True)
    say(f"Building the bento {spec.data['name']} for {platform.name}")
    # Not below .nox: BentoML takes no file whose path has a hidden folder.
    with tempfile.TemporaryDirectory(prefix="bentovox-") as folder:
        bentofile = Path(folder, "bentofile.yaml")
        data = for_platform(spec, platform, lock, registry)
        bentofile.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        built = run_bentoml(bentofile, spec, sources(Path(folder), lock), Path(folder, "bentoml"))
        version = settle(built)
        shutil.rmtree(final, ignore_errors=True)
        shutil.move(built, final)
    return final, version


def folder_of(spec: Spec, platform: Platform) -> Path:
    """Return the folder in which a bento and its image are built."""
    return BUILT / f"{spec.name}-{platform.name}"


def sources(folder: Path, lock: Path) -> Path:
    """Copy what a bento can be made of: BentoML would walk the whole checkout."""
    copied = folder / "sources"
    for name in _SOURCES:
        shutil.copytree(ROOT / name, copied / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (ROOT / "LICENSE", lock):
        target = copied / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return copied


def for_platform(spec: Spec, platform: Platform, lock: Path, registry: str) -> dict[str, object]:
    """Return the bentofile with the platform's base, Python and lock."""
    found = base.find(spec.base(platform.name), platform, registry)
    return {
        **spec.data,
        "docker": {
            **spec.data["docker"],
            "base_image": found.moving,
            "python_version": platform.python,
        },
        "python": {**spec.data["python"], "requirements_txt": str(lock.relative_to(ROOT))},
    }


def settle(built: Path) -> str:
    """Make a bento reproducible; return its version, a hash of its content."""
    described = built / "bento.yaml"
    # BentoML names the script of `docker.setup_script` after its path, which is a temporary one.
    for script in built.glob("env/docker/script__*"):
        for path in (described, built / "env/docker/Dockerfile"):
            text = path.read_text(encoding="utf-8").replace(script.name, _SCRIPT)
            path.write_text(text, encoding="utf-8")
        script.rename(script.with_name(_SCRIPT))
    unversioned = _CREATED.sub(f"creation_time: '{_STAMP}'", described.read_text(encoding="utf-8"))
    described.write_text(unversioned, encoding="utf-8")
    build.settle(built)
    version = build.digest(built)
    described.write_text(_VERSION.sub(f"version: '{version}'", unversioned), encoding="utf-8")
    build.settle(built)
    return version


def run_bentoml(bentofile: Path, spec: Spec, context: Path, home: Path) -> Path:
    """Run `bentoml build` on a tree; return the bento, in `home`, a folder of BentoML's."""
    from uv import find_uv_bin  # noqa: PLC0415  only the environment `dev` has it

    environ = {
        **os.environ,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "PATH": f"{Path(find_uv_bin()).parent}:{os.environ['PATH']}",
    }
    options = (f"--bentofile={bentofile}", f"--version={DRAFT}", "--output=tag", str(context))
    command = (sys.executable, "-m", "bentoml", "build", *options)
    done = ran(*command, cwd=context, env=environ)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        for line in said[-15:]:
            say(f"    | {line}")
        why = [line.removeprefix("Error: ") for line in said if line.startswith("Error: ")]
        last = (why or said or ["it said nothing"])[-1]
        raise CiError(f"BentoML did not build {spec.data['name']}: {last}")
    return home / "bentos" / str(spec.data["name"]) / DRAFT
