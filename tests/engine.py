"""A Docker engine for tests, and every bento's CPU image, built once per session.

The engine is our own and removed at the end (outside CI its images stay for the next run). With
BENTOVOX_TEST_ENGINE=installed it is the one that docker finds by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci import base, build, docker, image, platforms, specs
from ci.engine import HOME, Engine
from ci.errors import CiError
from tests import standin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.image import Image

OPTIONS = build.Options(network="host")  # no bridge of ours leads out


@contextlib.contextmanager
def running(engine: Engine) -> Iterator[dict[str, str]]:
    """Run an engine; yield the environment in which `docker` uses it."""
    engine.start()
    try:
        yield engine.variables()
    finally:
        engine.stop()


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    """Docker means an engine that may be filled and emptied."""
    if os.environ.get("BENTOVOX_TEST_ENGINE") == "installed":
        try:
            docker.ready()
        except CiError as error:
            pytest.skip(str(error))
        yield
        return
    if reason := _reason():
        pytest.skip(reason)
    if os.environ.get("CI"):
        _sweep()
    with pytest.MonkeyPatch.context() as patch, running(Engine(HOME)) as variables:
        for name, value in variables.items():
            patch.setenv(name, value)
        standin.debian(HOME)
        yield
    if os.environ.get("CI"):
        going = HOME.rename(HOME.with_name(f"{HOME.name}.{os.getpid()}.gone"))
        # 300,000 files, and nobody waits for that.
        subprocess.run(["setsid", "--fork", "rm", "-rf", str(going)], check=True)


def _sweep() -> None:
    """Remove the engines of runs that were killed: each has some 30 GB."""
    for home in HOME.parent.glob("engine-*"):
        if home.name.endswith(".gone") or (home != HOME and Engine(home).pid() is None):
            shutil.rmtree(home, ignore_errors=True)


def _reason() -> str | None:
    """Say why there can be no engine here, None where there can."""
    release = Path("/etc/os-release")
    is_debian = release.exists() and "\nID=debian\n" in f"\n{release.read_text()}\n"
    if os.geteuid() == 0 and is_debian:
        return None
    return "no throw-away engine here: that needs Debian and root (BENTOVOX_TEST_ENGINE=installed)"


@pytest.fixture(scope="session")
def built(
    engine: None,  # noqa: ARG001  it must run
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[str], Image]]:
    """Return a function that gives a bento's image for the CPU, built once.

    While tests look at one image, the next is built that tests of this session will ask for.
    """
    items = [one for one in request.session.items if "built" in getattr(one, "fixturenames", ())]
    calls = [getattr(one, "callspec", None) for one in items]
    wanted = dict.fromkeys(call.params.get("name") for call in calls if call)
    with ThreadPoolExecutor(max_workers=1) as one_by_one:
        made = {name: one_by_one.submit(_make, name) for name in wanted if name in specs.names()}

        def image_of(name: str) -> Image:
            if name not in made:
                made[name] = one_by_one.submit(_make, name)
            return made[name].result()

        yield image_of
        one_by_one.shutdown(cancel_futures=True)


def _make(name: str) -> Image:
    spec, platform = specs.load(name), platforms.get("cpu")
    # Nothing pulls these bases: what compressing them takes is saved.
    base.ensure(
        base.find(spec.base(platform.name), platform),
        dataclasses.replace(OPTIONS, compression="uncompressed"),
    )
    return image.make(spec, platform, OPTIONS)
