"""Images: this repository's way beside stock BentoML and one plain Dockerfile.

nox -s bench -- images                        chat, three rounds: about half an hour
nox -s bench -- images --bento speech         another bento
nox -s bench -- images --rounds 0             once, and only what takes little time

Everything runs in a throw-away docker engine with a registry of its own, below .nox, on a copy of
the tree; all of it is removed at the end but for the figures. That needs Debian and root.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.contestants import ROOT, python

_WORK = ROOT / ".nox" / "bench-images"
_FIGURES = _WORK.with_suffix(".json")
_NEEDED_GB = 20


def main(arguments: list[str]) -> int:
    """Measure in the environment that builds images, then write the page and the plot."""
    from benchmarks import report  # noqa: PLC0415  the other process has no matplotlib
    from benchmarks.images import page, results  # noqa: PLC0415

    parser = report.parser("images", __doc__, rounds=3)
    parser.add_argument("--bento", default="chat", help="which bento (default: %(default)s)")
    options = parser.parse_args(arguments)
    dev = python("DEV_PYTHON")
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < _NEEDED_GB:
        sys.exit(f"{free_gb:.0f} GB are free here, and this needs {_NEEDED_GB} for a while")
    began = time.monotonic()
    shutil.rmtree(_WORK, ignore_errors=True)
    try:
        # BentoML takes no lock from a hidden folder, and .nox is one.
        with tempfile.TemporaryDirectory(prefix="bentovox-images-") as tree:
            _copy(Path(tree))
            given = (options.bento, str(options.rounds), str(_WORK), str(_FIGURES))
            command = [dev, "-m", "benchmarks.images.run", *given]
            if code := subprocess.call(command, cwd=tree):
                return code
    finally:
        shutil.rmtree(_WORK, ignore_errors=True)
    took_s = time.monotonic() - began
    measured = results.JSON.validate_json(_FIGURES.read_bytes())
    page.write(options.out, measured, took_s=took_s, rounds=options.rounds)
    return 0


def _copy(tree: Path) -> None:
    """Copy what git knows, or would take, of the work tree."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, tree / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
