"""Measures images inside a copy of the tree, whose files it changes; prints JSON.

It has an engine, a registry and a platform image of its own. That image has Python, pip and torch,
as PyTorch's own has, and everyone builds on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import images
from benchmarks.contestants import Server, free_port, running
from benchmarks.images.ways import Made, To, one_dockerfile, ours, stock
from ci import build, docker, platforms, specs
from ci.engine import Engine
from ci.errors import CiError
from ci.layers.command import described
from ci.layers.gates import GATES, Look, judge
from ci.layers.image import on_base, read
from ci.paths import ROOT
from ci.platforms import Platform
from ci.specs import Spec
from ci.terminal import say
from tests import registry, standin

Way = Callable[[Platform, To], Made]


_BENTO, _PLATFORM = "chat", "cpu"
_DEPENDENCY = ("click-option-group==0.5.9", "click-option-group==0.5.8")
_GROUP = ("pycountry==26.2.16", "pycountry==24.6.1")
_TORCH_PAGE = "https://download.pytorch.org/whl/cpu/torch/"
# Debian's own image removes what apt downloaded, the stand-in for it does not.
_PLATFORM_IMAGE = """
FROM debian:bookworm-slim
ARG TORCH LINKS
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_FIND_LINKS=${LINKS} UV_FIND_LINKS=${LINKS}
RUN echo 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };' \\
    > /etc/apt/apt.conf.d/clean \\
 && echo 'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";' >> /etc/apt/apt.conf.d/clean \\
 && apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,source=lock.txt,target=/tmp/lock.txt \
 pip install --no-cache-dir --constraint /tmp/lock.txt torch==${TORCH}
"""
_PATCH = "FROM {image}\nRUN echo patched > /etc/patched\n"


class Place:
    """The engine, the registry, and the platform image in it."""

    def __init__(self, folder: Path) -> None:
        self.engine = Engine(folder / "engine")
        self.registry = folder / "registry"
        self.address = ""  # of the registry, while it runs
        self.platform_bytes = 0
        self._kept = folder / "registry-kept"

    @property
    def platform(self) -> Platform:
        """Return the platform as it is now: pinned by the digest of its image."""
        return platforms.get(_PLATFORM)

    @contextlib.contextmanager
    def running(self, spec: Spec) -> Iterator[None]:
        """Run all of it, with the platform image in the registry."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.engine.stop)
            self.engine.start()
            os.environ.update(self.engine.variables())
            self.address = stack.enter_context(registry.running(self.registry))
            standin.debian(self.engine.home)
            self._make_platform(spec, stack.enter_context(_links()))
            os.environ.pop("UV_FIND_LINKS", None)  # the platform image says where wheels are
            yield

    def empty(self) -> None:
        """Empty the engine, and take all but the platform image out of the registry."""
        shutil.rmtree(self.registry / "data")
        shutil.copytree(self._kept, self.registry / "data")
        self.point(patched=False)
        self.empty_engine()

    def empty_engine(self) -> None:
        """Empty the engine: no image, no build cache."""
        self.engine.stop()
        shutil.rmtree(self.engine.home / "data")
        self.engine.start()

    def point(self, *, patched: bool) -> None:
        """Move the platform's tag to the image before or after its patch, and pin it again."""
        name, tag = f"{self.address}/platform", "patched" if patched else "first"
        moving = f"{name}:{self.platform.tag}"
        docker.call("buildx", "imagetools", "create", "--tag", moving, f"{name}:{tag}")
        unpinned = self.platform.unpinned
        platforms.change(_PLATFORM, {key: docker.digest(one) for key, one in unpinned.items()})

    def _make_platform(self, spec: Spec, links: str) -> None:
        """Make the platform image and its patched successor; name it in platforms.toml."""
        values = {"image": f"{self.address}/platform", "tag": "stand-in", "devel_tag": "stand-in"}
        platforms.change(_PLATFORM, {**values, "torch_from": "base"})
        torch = {"TORCH": spec.requirements(_PLATFORM)["torch"], "LINKS": links}
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(spec.lock_for(_PLATFORM), Path(folder, "lock.txt"))
            self._push("first", _PLATFORM_IMAGE, folder, *docker.variables(torch, "--build-arg"))
            self.platform_bytes = registry.size(self.registry)
            self._push("patched", _PATCH.format(image=f"{values['image']}:first"), folder)
        shutil.copytree(self.registry / "data", self._kept)

    def _push(self, tag: str, dockerfile: str, folder: str, *arguments: str) -> None:
        Path(folder, "Dockerfile").write_text(dockerfile, encoding="utf-8")
        name = f'--output=type=registry,"name={self.address}/platform:{tag}"'
        build.build([name, "--network=host", "--provenance=false", *arguments, folder])


@contextlib.contextmanager
def _links() -> Iterator[str]:
    """Yield the page where builds find torch's CPU build: uv's folder of wheels, or PyTorch's."""
    folder = build.wheels()
    if folder is None or not any(folder.glob("torch-*+cpu-*.whl")):
        yield _TORCH_PAGE
        return
    port = free_port()
    command = [sys.executable, "-m", "http.server", f"--directory={folder}", "--bind=127.0.0.1"]
    server = Server("wheels", [*command, str(port)], port, "/")
    with running(server):
        yield f"{server.url}/"


class Run:
    """One contestant's turns, one after the other; what they show goes into `found`."""

    def __init__(self, place: Place, name: str, way: Way, found: dict[str, Any]) -> None:
        self._place = place
        self._name = name
        self._way = way
        self._found = found
        self._pushed = ""  # the name of the image that was pushed last
        self._touched = 0
        place.empty()

    def measure(self, rounds: int) -> None:
        """Go through all changes."""
        app = self._look(self._turn(images.COLD))
        for _ in range(rounds):
            self._turn(images.NOTHING)
        for _ in range(rounds):
            self._touch()
            self._turn(images.CODE)
        self._relock(*_DEPENDENCY)
        self._turn(images.DEPENDENCY)
        if self._name == images.OURS:
            self._relock(*_GROUP)
            self._turn(images.GROUP)
            self._patch(app)
        # Pushed from a warm engine, then from an emptied one with the cache.
        address = self._place.address
        self._turn("the cache written", To(address, writes_cache=True))
        for _ in range(rounds):
            self._touch()
            self._turn(images.WARM, To(address))
        for _ in range(rounds):
            self._place.empty_engine()
            self._touch()
            self._turn(images.EMPTIED, To(address, reads_cache=True))

    def _turn(self, change: str, to: To | None = None) -> Made:
        """Build after a change, push what came of it, and keep what that took.

        `pushed_bytes` is what the registry grew by.
        """
        say(f"{self._name}: {change}")
        before = registry.size(self._place.registry)
        made = self._way(self._place.platform, to or To())
        if to is None:
            self._pushed = f"{self._place.address}/{made.name}"
            docker.call("tag", made.name, self._pushed)
            docker.call("push", "--quiet", self._pushed)
        pushed = registry.size(self._place.registry) - before
        took = {"pack_s": made.pack_s, "build_s": made.build_s, "pushed_bytes": pushed}
        self._found["turns"].append({"contestant": self._name, "change": change, **took})
        say(f"  {made.pack_s:.1f} + {made.build_s:.1f} s, {pushed} bytes")
        return made

    def _look(self, made: Made) -> int:
        """Read the image and run the gates on it; return how many layers of it are ours."""
        docker.call("pull", "--quiet", self._place.platform.reference)  # what it stands on
        look = Look(on_base(read(made.name)))
        image = look.image
        self._found["sizes"][self._name] = {
            "layers": [
                {
                    "contents": described(one),
                    "is_base": one.number <= image.shared,
                    "raw_bytes": one.raw_bytes,
                    "compressed_bytes": one.compressed_bytes,
                }
                for one in image.layers
            ],
            "duplicate_bytes": sum(waste.bytes for waste in look.waste),
            "failed": [gate for gate, faults in judge(look).items() if faults],
        }
        return len(image.app)

    def _touch(self) -> None:
        self._touched += 1
        path = ROOT / "services" / _BENTO / "service.py"
        with path.open("a", encoding="utf-8") as file:
            file.write(f"# Changed for the {self._name}, {self._touched}.\n")

    def _relock(self, old: str, new: str) -> None:
        path = specs.load(_BENTO).lock_for(_PLATFORM)
        text = path.read_text(encoding="utf-8")
        if f"{old}\n" not in text:
            raise CiError(f"{path.name} has no {old}: name another in {Path(__file__).name}")
        path.write_text(text.replace(f"{old}\n", f"{new}\n"), encoding="utf-8")

    def _patch(self, app: int) -> None:
        """Patch the platform's image, build again, and compare the layers; the last `app` are ours.

        All of the image before is compared, whichever layer it is.
        """
        before = self._layers()
        self._place.point(patched=True)
        self._turn(images.PATCH)
        after = self._layers()
        same = [one for one in before if one in after]
        in_app = [one for one in before[-app:] if one in after[-app:]]
        kept = {"app": len(in_app), "of_app": app}
        base = {"base": len(same) - len(in_app), "of_base": len(before) - app}
        self._found["kept"] = {**kept, **base}

    def _layers(self) -> list[str]:
        """Return the digests of the layers that were pushed last."""
        manifest = docker.call("buildx", "imagetools", "inspect", "--raw", self._pushed)
        return [layer["digest"] for layer in json.loads(manifest)["layers"]]


def main(rounds: str, work: str) -> None:
    """Measure in the folder `work`, which is thrown away."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped, too
    found: dict[str, Any] = {"bento": _BENTO, "load": os.getloadavg()[0], "sizes": {}, "turns": []}
    found["gates"] = list(GATES)
    spec, place = specs.load(_BENTO), Place(Path(work))
    lock = spec.lock_for(_PLATFORM)
    kept = lock.read_bytes()
    try:
        with place.running(spec):
            found["platform_bytes"] = place.platform_bytes
            ways = (
                partial(ours, _BENTO),
                partial(stock, spec, Path(work, "stock")),
                partial(one_dockerfile, spec, Path(work, "seed")),
            )
            for name, way in zip(images.CONTESTANTS, ways, strict=True):
                lock.write_bytes(kept)
                Run(place, name, way, found).measure(int(rounds))
    except CiError as error:
        sys.exit(f"{error}")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
