"""Images: this repository's way beside stock BentoML and one plain Dockerfile.

    nox -s bench -- images                        chat, three rounds: about half an hour
    nox -s bench -- images --bento speech         another bento
    nox -s bench -- images --quick                once, and only what takes little time

Everything runs in a throw-away docker engine with a registry of its own, below .nox, on a copy of
the tree; all of it is removed at the end but for the figures. That needs Debian and root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import images_plot, images_report, images_results
from benchmarks.servers import ROOT

WORK = ROOT / ".nox" / "bench-images"
FIGURES = WORK.with_suffix(".json")
NEEDED_GB = 20


def main(arguments: list[str]) -> int:
    """Measure in the environment that builds images, then write the page and the plot."""
    parser = argparse.ArgumentParser(
        prog="nox -s bench -- images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bento", default="chat", help="which bento (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of what takes seconds")
    parser.add_argument(
        "--quick", action="store_true", help="one round; no dependency, no group, no cache"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where the report goes")
    options = parser.parse_args(arguments)
    python = os.environ.get("DEV_PYTHON")
    if not python:
        sys.exit("DEV_PYTHON is not set: run `nox -s bench -- images`, which sets it")
    if options.rounds < 1:
        sys.exit("--rounds: at least 1")
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < NEEDED_GB:
        sys.exit(f"{free_gb:.0f} GB are free here, and this needs {NEEDED_GB} for a while")
    print(f"{free_gb:.0f} GB are free, up to {NEEDED_GB} are used for a while", flush=True)
    began = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    try:
        # BentoML takes no lock from a hidden folder, and .nox is one.
        with tempfile.TemporaryDirectory(prefix="bentovox-images-") as tree:
            _copy(Path(tree))
            rounds = 0 if options.quick else options.rounds
            command = [python, "-m", "benchmarks.images_run", f"--bento={options.bento}"]
            command += [f"--rounds={rounds}", f"--work={WORK}", f"--out={FIGURES}"]
            if code := subprocess.call(command, cwd=tree):
                return code
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
    measured = images_results.load(FIGURES)
    options.out.mkdir(parents=True, exist_ok=True)
    page = images_report.page(measured, took_s=time.monotonic() - began, rounds=rounds)
    (options.out / "benchmarks-images.md").write_text(page, encoding="utf-8")
    images_plot.draw(options.out / "benchmarks-images.svg", measured)
    print(page)
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
