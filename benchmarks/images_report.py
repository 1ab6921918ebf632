"""The page `docs/benchmarks-images.md`, written from what was just measured."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from benchmarks import images_results as results
from benchmarks.images_results import OURS, SEED, STOCK
from benchmarks.report import machine
from ci import sizes
from ci.layers.gates import GATES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.images_results import Measured, Size, Turn

CONTESTANTS = (OURS, STOCK, SEED)
CHANGES = (
    results.COLD,
    results.NOTHING,
    results.CODE,
    results.DEPENDENCY,
    results.GROUP,
    results.PATCH,
)
PUSHED_AIM_BYTES = 1_000_000
REBUILT_AIM_S = 5
EMPTIED_AIM = 1.5


def page(measured: Measured, *, took_s: float, rounds: int) -> str:
    """Return the page; `rounds` is 0 for a quick run."""
    head = _HEAD.format(
        machine=machine(),
        bento=measured.bento,
        took_min=took_s / 60,
        load=measured.load,
        rounds=f"{rounds} rounds" if rounds > 1 else "one round",
        platform=sizes.shown(measured.platform_bytes),
    )
    parts = [
        head,
        "![layers, seconds and bytes by change](benchmarks-images.svg)",
        "Against the aims:\n\n" + "\n".join(f"- {line}" for line in aims(measured)),
        _size_table(measured),
        _gate_table(measured),
        _change_table(measured),
        *(_kept(measured) if measured.kept else ()),
        *([_cache_table(measured)] if rounds else ()),
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


_HEAD = """# Benchmarks of images

Written by `nox -s bench -- images` in {took_min:.0f} minutes; do not edit. {machine}.
Bento: {bento}. Load average before the start: {load:.1f}.

Three ways from the same service and the same lock to an image, one after the other in one run, each
with an emptied docker engine and an emptied registry of its own on the loopback address. All stand
on one image that plays the part of PyTorch's: Debian, its Python and torch's CPU build in it
({platform} compressed). What takes seconds was done in {rounds}, and the table shows the median
and, in brackets, the lowest and the highest; the rest was done once. Nothing keeps other work off
the machine: read the ratios.

- **Bentovox**: `python -m ci image`, the shared base and the bento on it. Layers are zstd.
- **stock BentoML**: `bentoml build` and `bentoml containerize` as one writes it first: the platform
  image as `docker.base_image`, the lock as `requirements_txt`, nothing else set. Layers are gzip,
  as docker makes them by itself.
- **one Dockerfile**: what tutorials have: `apt-get install build-essential ffmpeg git`, a virtual
  environment, one `pip install -r`, `COPY . .`. Layers are gzip, too."""

_LIMITS = """## Limits

- No GPU and no hub: on CUDA, torch and its libraries weigh several times as much, so what is there
  twice, or is pushed again, weighs more than here.
- The platform image stands in for `pytorch/pytorch`. It sets `PIP_BREAK_SYSTEM_PACKAGES`, without
  which stock BentoML's `pip install uv` fails on a Python that its distribution manages.
- The one Dockerfile makes an environment of its own, as such a Python asks for. With
  `--break-system-packages` instead, pip would keep the platform's torch.
- The registry is on the same machine: seconds have no network in them, bytes are what a network
  would carry. They are what the registry grew by, so what it had already costs nothing.
- The other two images name no budget and no torch by themselves: they got the labels that our gates
  read, with the platform image as their base, which makes the budget's gate strict with them."""


def aims(measured: Measured) -> Iterator[str]:
    """Yield a line for each aim, met or not."""
    code = measured.of(OURS, results.CODE)
    pushed = max(turn.pushed_bytes or 0 for turn in code)
    yield _aim(
        f"A change of code pushes {sizes.shown(pushed)} at most, aim below 1 MB",
        is_met=pushed < PUSHED_AIM_BYTES,
    )
    seconds = _seconds(code)
    yield _aim(
        f"A change of code is in the image after {seconds:.1f} s, packing the bento included, aim "
        f"below {REBUILT_AIM_S} s",
        is_met=seconds < REBUILT_AIM_S,
    )
    for kept in measured.kept:
        yield _aim(
            f"A patched platform image leaves {kept.app} of {kept.of_app} app layers with their "
            "digests, aim all",
            is_met=kept.app == kept.of_app,
        )
    warm, emptied = (measured.of(OURS, change) for change in (results.WARM, results.EMPTIED))
    if warm and emptied:
        ratio = _seconds(emptied) / _seconds(warm)
        docker = _build_s(emptied) / _build_s(warm)
        yield _aim(
            f"An emptied engine with the registry's cache takes {ratio:.2f} times a warm one for "
            f"the same change, packing included ({docker:.2f} times without), aim {EMPTIED_AIM}",
            is_met=ratio <= EMPTIED_AIM,
        )
    for name in CONTESTANTS:
        failed = measured.size(name).failed
        if name == OURS:
            said = f"Our image fails {len(failed)} of our gates, aim none"
            yield _aim(said, is_met=not failed)
        else:
            said = f"The gates stop {name}: {len(failed)} fail, aim at least one"
            yield _aim(said, is_met=bool(failed))


def _aim(said: str, *, is_met: bool) -> str:
    return f"{said}: {'met' if is_met else 'not met'}."


def _seconds(turns: Sequence[Turn]) -> float:
    return statistics.median(turn.seconds for turn in turns)


def _build_s(turns: Sequence[Turn]) -> float:
    return statistics.median(turn.build_s for turn in turns)


_SIZE_HEAD = (
    "| what | raw | compressed | above the platform image, compressed | layers "
    "| largest above it, raw | compressed | there for nothing |"
)
_CHANGES_SAID = """Seconds are packing (BentoML, Python) and docker's part, without the push.
*Ran* are the instructions that ran, *cached* those that did not. *Pushed* is what the registry grew
by, *fetched* what a machine that has the image before must fetch."""
_CHANGES_MEANT = """- *All*: for ours that is the shared base, too, which is built once for all
  bentos that stand on it.
- *Nothing*: stock BentoML writes the time into each bento, so that the same is not the same.
- *One dependency*: a small pure-Python package in another version. *One wheel group*: likewise, one
  package of the group `vllm` of our base.
- *Patched base image*: one file more in the platform image, under the same tag. The steps run anew
  and give the same layers. In the other two ways each step stands on the one before, so all of it
  would be built and pushed anew, as in the first rows; that was not measured."""
_CACHE_SAID = """One line of code changes and the image is pushed to the registry: from an engine
that has built it before, and from one without a single layer that reads the registry's cache
(`mode=max`, ours as zstd). The push is in the seconds. Docker keeps what it pushes, and fetches
and unpacks all of it for that, unless it is told not to, as ours tells it (`store=false`)."""

_CACHE_HEAD = (
    "| what | warm, s | of it docker | emptied, s | of it docker | times | ran | cached | pushed |"
)


def _size_table(measured: Measured) -> str:
    rows = [
        "## Size",
        "",
        _SIZE_HEAD,
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in CONTESTANTS:
        size = measured.size(name)
        own = above(size, measured)
        cells = (
            name,
            sizes.shown(size.raw_bytes),
            sizes.shown(size.compressed_bytes),
            sizes.shown(sum(layer.compressed_bytes for layer in own)),
            str(len(size.layers)),
            sizes.shown(max(layer.raw_bytes for layer in own)),
            sizes.shown(max(layer.compressed_bytes for layer in own)),
            sizes.shown(size.duplicate_bytes),
        )
        rows.append(f"| {' | '.join(cells)} |")
    rows += [
        "",
        "*There for nothing*: files over 1 MiB that two layers hold, or that a later layer hides.",
    ]
    return "\n".join(rows)


def above(size: Size, measured: Measured) -> list[results.Layer]:
    """Return the layers that are not the platform image's: stock's base is nothing else."""
    count = sum(1 for layer in measured.size(STOCK).layers if layer.is_base)
    return size.layers[count:]


def _gate_table(measured: Measured) -> str:
    rows = ["## Gates", "", "What `python -m ci layers` says of each image.", ""]
    rows += [f"| gate | {' | '.join(CONTESTANTS)} |", "|---" * (len(CONTESTANTS) + 1) + "|"]
    for gate in GATES:
        said = (
            "**fails**" if gate.name in measured.size(name).failed else "passes"
            for name in CONTESTANTS
        )
        rows.append(f"| {gate.name} | {' | '.join(said)} |")
    return "\n".join(rows)


def _change_table(measured: Measured) -> str:
    rows = [
        "## What a change costs",
        "",
        _CHANGES_SAID,
        "",
        "| change | what | seconds | docker's part | ran | cached | pushed | fetched |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for change in CHANGES:
        for name in CONTESTANTS:
            turns = measured.of(name, change)
            if turns:
                last = turns[-1]
                cells = (
                    *(change, name, _spread([turn.seconds for turn in turns])),
                    *(_spread([turn.build_s for turn in turns]), str(len(last.ran))),
                    *(str(last.hits), sizes.shown(last.pushed_bytes or 0)),
                    sizes.shown(last.fetched_bytes or 0),
                )
                rows.append(f"| {' | '.join(cells)} |")
    rows += [
        "",
        _CHANGES_MEANT,
    ]
    return "\n".join(rows)


def _spread(values: Sequence[float]) -> str:
    middle = f"{statistics.median(values):.1f}"
    return middle if len(values) == 1 else f"{middle} [{min(values):.1f}, {max(values):.1f}]"


def _kept(measured: Measured) -> Iterator[str]:
    for kept in measured.kept:
        yield (
            f"After the patch {kept.app} of {kept.of_app} layers of the app part and "
            f"{kept.base} of {kept.of_base} of the shared base (the platform's own among them) "
            "were the same to the last byte."
        )


def _cache_table(measured: Measured) -> str:
    rows = [
        "## An emptied engine",
        "",
        _CACHE_SAID,
        "",
        _CACHE_HEAD,
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in CONTESTANTS:
        warm, emptied = (measured.of(name, change) for change in (results.WARM, results.EMPTIED))
        last = emptied[-1]
        cells = (
            *(name, _spread([turn.seconds for turn in warm])),
            _spread([turn.build_s for turn in warm]),
            _spread([turn.seconds for turn in emptied]),
            _spread([turn.build_s for turn in emptied]),
            f"{_seconds(emptied) / _seconds(warm):.2f}",
            *(str(len(last.ran)), str(last.hits), sizes.shown(last.pushed_bytes or 0)),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
