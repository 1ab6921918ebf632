"""Measures images inside a copy of the tree, whose files it changes: the process of `main`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.images import results
from benchmarks.images.place import Place
from benchmarks.images.results import OURS, Kept, Layer, Measured, Size, Turn
from benchmarks.images.ways import Ours, Seed, Stock, To
from ci import docker, groups, specs
from ci.errors import CiError
from ci.layers import archive
from ci.layers.gates import Look, judge
from ci.layers.table import described
from ci.paths import ROOT
from ci.terminal import say
from tests import registry

if TYPE_CHECKING:
    from benchmarks.images.ways import Made, Way

_DEPENDENCY = ("click-option-group==0.5.9", "click-option-group==0.5.8")
_GROUP = ("pycountry==26.2.16", "pycountry==24.6.1")


class Run:
    """One contestant's turns, one after the other."""

    def __init__(self, place: Place, way: Way, bento: str, into: Measured) -> None:
        self._place = place
        self._way = way
        self._spec = specs.load(bento)
        self._into = into
        self._pushed = ""  # the name of the image that was pushed last
        self._touched = 0
        place.empty()

    def turn(self, change: str, to: To | None = None) -> Made:
        """Build after a change, push what came of it, and keep what that took."""
        say(f"{self._way.name}: {change}")
        to = to or To()
        before = registry.size(self._place.registry)
        made = self._way.build(self._place.platform, to)
        if not to.registry:
            self._push(made)
        pushed = registry.size(self._place.registry) - before
        self._into.turns.append(Turn(self._way.name, change, made.pack_s, made.build_s, pushed))
        say(f"  {made.pack_s:.1f} + {made.build_s:.1f} s, {pushed} bytes")
        return made

    def look(self, made: Made) -> Look:
        """Read the image and run the gates on it."""
        docker.call("pull", "--quiet", self._place.platform.reference)  # what it stands on
        look = Look.at(archive.on_base(archive.read(made.name)))
        image = look.image
        layers = [
            Layer(described(one), one.number <= image.shared, one.raw_bytes, one.compressed_bytes)
            for one in image.layers
        ]
        failed = [gate for gate, faults in judge(look).items() if faults]
        lost = sum(waste.bytes for waste in look.waste)
        self._into.sizes[self._way.name] = Size(layers, lost, failed)
        return look

    def touch(self) -> None:
        """Change one line of the service."""
        self._touched += 1
        module = self._spec.service.partition(":")[0].replace(".", "/")
        path = ROOT / f"{module}.py"
        with path.open("a", encoding="utf-8") as file:
            file.write(f"# Changed for the {self._way.name}, {self._touched}.\n")

    def relock(self, old: str, new: str) -> None:
        """Change one line of the lock."""
        path = self._spec.lock_for(self._place.platform.name)
        text = path.read_text(encoding="utf-8")
        if f"{old}\n" not in text:
            raise CiError(f"{path.name} has no {old}: name another in {Path(__file__).name}")
        path.write_text(text.replace(f"{old}\n", f"{new}\n"), encoding="utf-8")

    def patch(self, app: int) -> None:
        """Patch the platform's image, build again, and compare the layers; the last `app` are ours.

        All of the image before is compared, whichever layer it is.
        """
        before = self._layers()
        self._place.point(patched=True)
        self.turn(results.PATCH)
        after = self._layers()
        same = [one for one in before if one in after]
        in_app = [one for one in before[-app:] if one in after[-app:]]
        self._into.kept = Kept(len(in_app), app, len(same) - len(in_app), len(before) - app)

    def caches(self, rounds: int) -> None:
        """Push a change of code from a warm engine, then from an emptied one with the cache."""
        address = self._place.address
        self.turn("the cache written", To(address, writes_cache=True))
        for _ in range(rounds):
            self.touch()
            self.turn(results.WARM, To(address))
        for _ in range(rounds):
            self._place.empty_engine()
            self.touch()
            self.turn(results.EMPTIED, To(address, reads_cache=True))

    def _push(self, made: Made) -> None:
        self._pushed = f"{self._place.address}/{made.name}"
        docker.call("tag", made.name, self._pushed)
        docker.call("push", "--quiet", self._pushed)

    def _layers(self) -> list[str]:
        """Return the digests of the layers that were pushed last."""
        manifest = docker.call("buildx", "imagetools", "inspect", "--raw", self._pushed)
        return [layer["digest"] for layer in json.loads(manifest)["layers"]]


def measure(place: Place, way: Way, bento: str, rounds: int, into: Measured) -> None:
    """Take one contestant through all changes; quick with no rounds."""
    run = Run(place, way, bento, into)
    look = run.look(run.turn(results.COLD))
    for _ in range(rounds or 1):
        run.turn(results.NOTHING)
    for _ in range(rounds or 1):
        run.touch()
        run.turn(results.CODE)
    if rounds:
        run.relock(*_DEPENDENCY)
        run.turn(results.DEPENDENCY)
    if way.name == OURS:
        if rounds and "vllm" in groups.load().stages.get(specs.load(bento).base("cpu"), ()):
            run.relock(*_GROUP)
            run.turn(results.GROUP)
        run.patch(len(look.image.app))
    if rounds:
        run.caches(rounds)


def main(bento: str, rounds: str, work: str, out: str) -> int:
    """Measure in the folder `work`, which is thrown away, and write what was measured as JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped, too
    load = os.getloadavg()[0]
    spec, folder = specs.load(bento), Path(work)
    place = Place(folder, spec)
    kept = {path: path.read_bytes() for path in spec.path.parent.glob("requirements.*")}
    try:
        with place.running():
            lock = spec.lock_for(place.platform.name)
            into = Measured(bento, place.platform_bytes, load)
            for way in (
                Ours(bento),
                Stock(spec, str(lock.relative_to(ROOT)), folder / "stock"),
                Seed(spec, lock, folder / "seed"),
            ):
                for path, content in kept.items():
                    path.write_bytes(content)
                measure(place, way, bento, int(rounds), into)
        Path(out).write_bytes(results.JSON.dump_json(into))
    except CiError as error:
        say(f"{error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
