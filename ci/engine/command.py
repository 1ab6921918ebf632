"""`python -m ci engine`: a throw-away docker engine, where none is installed (Debian, as root).

    eval "$(python -m ci engine start)"     start it, and use it in this shell
    python -m ci engine stop                stop it; its images stay for the next start
    python -m ci engine stop --purge        stop it and remove its folder, images and all

Docker, buildx and compose come from Debian's archive into one folder. The host's own packages,
networks and firewall stay as they are; the engine has a bridge and a socket of its own.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci.engine.daemon import Engine
from ci.paths import ROOT
from ci.terminal import result

if TYPE_CHECKING:
    import argparse

_CHECKOUT: Final = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
HOME: Final = Path("/var/cache/bentovox", f"engine-{_CHECKOUT}")
"""One for each checkout, where only root may write, since root runs what is in it. Not inside the
checkout: BentoML walks all of that when it builds."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("--home", type=Path, default=HOME, help="its folder (default: %(default)s)")
    parser.add_argument("--purge", action="store_true", help="with stop: remove its folder, too")


def work(given: argparse.Namespace) -> None:
    """Start or stop the engine."""
    engine = Engine(given.home.absolute())
    if given.action == "start":
        engine.start()
        for name, value in engine.variables().items():
            result(f"export {name}={shlex.quote(value)}")
        return
    engine.stop()
    if given.purge:
        shutil.rmtree(engine.home, ignore_errors=True)
