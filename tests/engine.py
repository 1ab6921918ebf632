"""A docker engine for tests, and every bento's image for the CPU, built once a session.

The engine is one of our own that the processes of a run share, thrown away at the end (outside of
CI its images stay for the next run), unless BENTOVOX_TEST_ENGINE=installed asks for the one that
docker finds by itself.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pickle
import subprocess
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci import base, buildx, contexts, docker, image, platforms, specs
from ci.engine import standin
from ci.engine.command import HOME
from ci.engine.daemon import Engine
from ci.errors import CiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.image import Image

OPTIONS = buildx.Options(network="host")  # no bridge of ours leads out


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
    with pytest.MonkeyPatch.context() as patch, _shared(Engine(HOME)) as variables:
        for name, value in variables.items():
            patch.setenv(name, value)
        with contexts.alone(HOME / "standins"):
            standin.debian(HOME)
        yield


@contextmanager
def _shared(own: Engine) -> Iterator[dict[str, str]]:
    """Hold an engine running that processes of one run of tests share; the last one ends it."""
    turns = Path(f"{own.run}-tests")
    with contexts.alone(turns):
        using = (turns / "users").open("w")
        fcntl.flock(using, fcntl.LOCK_SH)
    with using:
        try:
            with contexts.alone(turns):
                own.start()
            yield own.variables()
        finally:
            with contexts.alone(turns), suppress(BlockingIOError):
                fcntl.flock(using, fcntl.LOCK_EX | fcntl.LOCK_NB)
                own.stop()
                if os.environ.get("CI") and own.home.exists():
                    _remove(own.home)


def _remove(home: Path) -> None:
    """Remove 300,000 files; nobody waits for it."""
    going = home.rename(home.with_name(f"{home.name}.{os.getpid()}.gone"))
    subprocess.run(["setsid", "--fork", "rm", "-rf", str(going)], check=True)


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
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Image]:
    """Return a function that gives a bento's image for the CPU, built once a run."""
    # Processes of one run tell each other what they made.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex)

    def image_of(name: str) -> Image:
        known = tmp_path_factory.getbasetemp().parent / f"built-{run}" / name
        with contexts.alone(known):
            made = known / "image.pickle"
            if not made.exists():
                made.write_bytes(pickle.dumps(_make(name)))
            found: Image = pickle.loads(made.read_bytes())  # noqa: S301  our own
            return found

    return image_of


def _make(name: str) -> Image:
    spec, platform = specs.load(name), platforms.get("cpu")
    # Nothing pulls these bases: what compressing them takes is saved.
    base.ensure(
        base.find(spec.base(platform.name), platform),
        dataclasses.replace(OPTIONS, compression="uncompressed"),
    )
    return image.make(spec, platform, OPTIONS)
