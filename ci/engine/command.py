"""`python -m ci engine`: a throw-away docker engine, where none is installed (Debian, as root).

    eval "$(python -m ci engine start)"     start it; in this shell, `docker` now means it
    python -m ci engine run -- docker ps    start it, run one command with it, stop it
    python -m ci engine stop                stop it; its images stay for the next start
    python -m ci engine stop --purge        stop it and remove all that it holds

Docker, buildx and compose come from Debian's archive into one folder. The host's own packages,
networks and firewall stay as they are; the engine has a bridge and a socket of its own.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci import command
from ci.engine.daemon import Engine
from ci.errors import CiError
from ci.paths import ROOT

if TYPE_CHECKING:
    import argparse

_CHECKOUT: Final = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
HOME: Final = Path("/var/cache/bentovox", f"engine-{_CHECKOUT}")
"""One a checkout, where only root may write: root runs what is in it. Not in the checkout, all of
which BentoML walks when it builds."""


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.parser("engine", __doc__)
    options.add_argument("action", choices=("start", "stop", "status", "run"))
    options.add_argument("words", nargs="*", metavar="COMMAND", help="with run: what to run")
    options.add_argument(
        "--home", type=Path, default=HOME, help="its folder (default: %(default)s)"
    )
    options.add_argument("--purge", action="store_true", help="with stop: remove its folder, too")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Start, stop or use the engine."""
    given = parser().parse_args(arguments)
    engine = Engine(given.home.absolute())
    work = {"start": _start, "stop": _stop, "status": _status, "run": _run}[given.action]
    return command.run("engine", lambda: work(engine, given))


def _start(engine: Engine, given: argparse.Namespace) -> None:
    engine.start()
    if given.json:
        command.result_json(engine.variables())
        return
    for name, value in engine.variables().items():
        command.result(f"export {name}={shlex.quote(value)}")


def _stop(engine: Engine, given: argparse.Namespace) -> None:
    engine.stop()
    if given.purge:
        shutil.rmtree(engine.home, ignore_errors=True)


def _status(engine: Engine, given: argparse.Namespace) -> int:
    pid = engine.pid()
    if given.json:
        command.result_json({"running": pid is not None, "pid": pid, "host": engine.host})
    else:
        command.result(f"{engine.host}: {'stopped' if pid is None else f'runs as process {pid}'}")
    return 0 if pid is not None else 1


def _run(engine: Engine, given: argparse.Namespace) -> int:
    if not given.words:
        raise CiError("run what? `python -m ci engine run -- docker ps`")
    with engine.running() as variables:
        return subprocess.call(given.words, env={**os.environ, **variables})
