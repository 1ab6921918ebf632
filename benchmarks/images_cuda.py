"""The images for CUDA, built with their real wheels: `nox -s bench -- images-cuda`.

PyTorch's image is 4 GB from a hub; where none can be reached, a stand-in holds the same wheels of
torch and CUDA on Debian's Python, in three layers. Everything above it is what is shipped: the
bases' Dockerfile, the locks, the bentos. It takes 25 GB of disk while it runs and an engine of its
own (Debian, as root), and writes docs/benchmarks-images-cuda.md and a picture for each image.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import machine
from ci import build, buildx, docker, image, platforms, sizes, specs, test_image, uv
from ci.engine import standin
from ci.engine.command import HOME
from ci.engine.daemon import Engine
from ci.layers import archive, gates, picture
from ci.layers.base import on_base
from ci.paths import ROOT

if TYPE_CHECKING:
    from ci.image import Image
    from ci.platforms import Platform

BENTOS = ("chat", "speech")
NEEDED_GB = 30
# What PyTorch's image holds, by layer: none may be too large for a registry.
LAYERS = (
    ("nvidia-cublas*", "nvidia-cudnn-cu*"),
    ("nvidia-cu[fs]*", "nvidia-cuda-[crn][uv][nprt]*", "nvidia-n[cv]*", "cuda-[bpt]*"),
    (
        *("torch", "torchvision", "torchaudio", "triton", "numpy", "pillow", "sympy", "networkx"),
        *("mpmath", "filelock", "fsspec", "jinja2", "markupsafe", "typing-extensions"),
        "setuptools",
    ),
)
TRITON = """
import os, pathlib, tempfile, torch, vllm
from triton.runtime import build
source = pathlib.Path(build.__file__).parents[1] / "backends/nvidia/driver.c"
made = build._build("cuda_utils", str(source), tempfile.mkdtemp(), [], [], [], [])
print("torch", torch.__version__, "vllm", vllm.__version__, "module", os.path.getsize(made))
"""


def main(arguments: list[str]) -> int:
    """Build the images, look at them, write the page."""
    parser = argparse.ArgumentParser(prog="nox -s bench -- images-cuda", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where the page goes")
    options = parser.parse_args(arguments)
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < NEEDED_GB:
        sys.exit(f"{free_gb:.0f} GB are free, {NEEDED_GB} are needed")
    engine = Engine(HOME.with_name(f"{HOME.name}-cuda"))
    try:
        with engine.running() as variables:
            os.environ.update(variables)
            standin.debian(engine.home)
            page = measure(options.out)
    finally:
        shutil.rmtree(engine.home, ignore_errors=True)
    (options.out / "benchmarks-images-cuda.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


def measure(out: Path) -> str:
    """Build and look at every image; return the page."""
    # Debian's Python is 3.11; the wheels of the lock are there for it, too.
    platform = dataclasses.replace(platforms.get("cuda13"), python="3.11")
    make_standin(platform)
    rows, said = [], []
    for name in BENTOS:
        began = time.monotonic()
        made = image.make(specs.load(name), platform, buildx.Options(network="host"))
        took_s = time.monotonic() - began
        docker.call("buildx", "prune", "--force")
        rows.append(row(made, took_s, out))
        checks = test_image.run(made.spec, platform, made.names[0])
        said += [f"- {name}, {check.name}: {check.seen}" for check in checks]
        if name == "chat":
            said.append(f"- chat, Triton's module without a compiler: {run(made, TRITON)}")
    return PAGE.format(
        machine=machine(), image=platform.reference, rows="\n".join(rows), said="\n".join(said)
    )


def make_standin(platform: Platform) -> None:
    """Make an image under the platform's name that holds its torch and CUDA's libraries."""
    lock = specs.load("chat").requirements(platform.name)
    groups = [
        [f"{n}=={v}" for n, v in lock.items() if any(fnmatch.fnmatch(n, p) for p in patterns)]
        for patterns in LAYERS
    ]
    site = f"/usr/local/lib/python{platform.python}/dist-packages"
    install = f"/uv/uv pip install --python /usr/bin/python3 --no-deps --target {site}"
    mounts = "--mount=type=bind,from=uv,target=/uv --mount=type=cache,target=/root/.cache/uv"
    lines = [
        f"FROM {standin.DEBIAN}",
        "RUN apt-get update && apt-get install --yes --no-install-recommends gcc python3 \\",
        " && rm -rf /var/lib/apt/lists/* /var/cache/apt",
        *(f"RUN {mounts} UV_LINK_MODE=copy {install} {' '.join(group)}" for group in groups),
    ]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Dockerfile").write_text("\n".join(lines), encoding="utf-8")
        options = buildx.Options(network="host").arguments(platform.reference)
        uv_folder = f"--build-context=uv={Path(uv.executable()).parent}"
        build.build([*options, uv_folder, folder])
    docker.call("tag", standin.DEBIAN, platform.devel_reference)


def row(made: Image, took_s: float, out: Path) -> str:
    """Return an image's line of the table; draw it, and hold it to its gates."""
    look = gates.Look.at(on_base(archive.read(made.names[0])))
    name = f"benchmarks-images-{made.spec.name}.svg"
    (out / name).write_text(picture.svg(look), encoding="utf-8")
    whole: Any = look.image
    ours = [layer for layer in whole.layers if look.is_ours(layer)]
    failed = [verdict.gate for verdict in gates.judge(look) if verdict.faults]
    cells = (
        f"[{made.spec.name}]({name})",
        sizes.shown(sum(layer.raw_bytes for layer in whole.layers)),
        sizes.shown(sum(layer.compressed_bytes for layer in whole.layers)),
        sizes.shown(sum(layer.compressed_bytes for layer in ours)),
        sizes.shown(whole.app_bytes),
        sizes.shown(max(layer.raw_bytes for layer in ours)),
        f"{took_s:.0f} s",
        ", ".join(failed) or "none",
    )
    return f"| {' | '.join(cells)} |"


def run(made: Image, code: str) -> str:
    """Run Python code in the image and return its last line."""
    entry = "--entrypoint=/opt/venv/bin/python"
    said = docker.call("run", "--rm", "--network=none", entry, made.names[0], "-c", code)
    return said.splitlines()[-1]


PAGE = """# The images for CUDA, with real wheels

Written by `nox -s bench -- images-cuda`, measured on {machine}.

The bases, the locks and the bentos are what is shipped. What stands in is `{image}`:
the same wheels of torch and CUDA on Debian with Python 3.11, since no hub could be reached.
PyTorch's own image is Ubuntu with Python 3.12, so that its own part may differ; what stands above
it should not. No GPU was there.

| image | raw | pushed | above the platform | above its base | our largest | built in | failing |
|---|---|---|---|---|---|---|---|
{rows}

Pushed is compressed with zstd. "Built in" is base and image together, wheels from a package index:
the first from an empty engine, the second with what they share. The last column names gates.

![the layers of the chat image](benchmarks-images-chat.svg)

What was looked at inside:

{said}
"""
