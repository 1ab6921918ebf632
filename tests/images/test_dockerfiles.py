"""Both Dockerfiles pass hadolint and BuildKit's own checks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ci import base, docker, image
from ci.errors import CiError

HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))
DEBIAN = "debian:bookworm-slim"
BASES = (
    f"--build-arg=PLATFORM_IMAGE={DEBIAN}",
    f"--build-arg=DEVEL_IMAGE={DEBIAN}",
    "--build-arg=COMPILED_IN=devel",
)
TARGETS = [("base", stage) for stage in base.groups().bases]


def check(dockerfile: Path, *arguments: str) -> str:
    folder = str(dockerfile.parent)
    return docker.call("buildx", "build", "--check", f"--file={dockerfile}", *arguments, folder)


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint beside this Python; nox -s lint runs it")
@pytest.mark.parametrize("dockerfile", [image.DOCKERFILE, base.FOLDER / "Dockerfile"])
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    done = subprocess.run([str(HADOLINT), dockerfile], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("target", "stage"), [*TARGETS, ("devel", "devel"), ("prebuilt", "devel")])
def test_buildkit_finds_nothing_in_a_base(target: str, stage: str) -> None:
    options = (f"--target={target}", f"--build-arg=STAGE={stage}", *BASES)
    said = check(base.FOLDER / "Dockerfile", *options)
    assert "Check complete, no warnings found." in said


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("stage", ["packages", "image"])
def test_buildkit_finds_nothing_in_the_image(stage: str) -> None:
    said = check(image.DOCKERFILE, f"--target={stage}", f"--build-arg=BASE={DEBIAN}")
    assert "Check complete, no warnings found." in said


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    "line",
    ["ENV TOKEN=x", "ENV A=$NOBODY_SET_IT", "workdir /app", "FROM base AS image"],
    ids=["secret", "undefined", "casing", "stage twice"],
)
def test_a_fault_in_a_dockerfile_is_an_error_not_a_warning(tmp_path: Path, line: str) -> None:
    path = tmp_path / "Dockerfile"
    text = image.DOCKERFILE.read_text(encoding="utf-8")
    path.write_text(f"{text}{line}\n", encoding="utf-8")
    with pytest.raises(CiError):
        check(path, f"--build-arg=BASE={DEBIAN}")
