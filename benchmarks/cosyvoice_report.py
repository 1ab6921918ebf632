"""The page `docs/benchmarks-cosyvoice.md` and its plot, written from what was just measured."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from benchmarks.report import machine
from benchmarks.streams import continuity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.cosyvoice import Line, Measured
    from benchmarks.streams import Turn

ADDED_AIM_MS = 5

Names = tuple[str, str, str, str]


def write(
    folder: Path,
    measured: Sequence[Measured],
    *,
    names: Names,
    text: str,
    rounds: int,
    version: str,
    took_s: float,
    load: float,
) -> None:
    """Write the page and the plot into `folder`.

    `names` are those of our service streamed and whole, the bare call and upstream's server.
    """
    parts = [
        _HEAD.format(
            machine=machine(),
            rounds=rounds,
            letters=len(text),
            version=version[:12],
            took_s=took_s,
            load=load,
        ),
        "![first audio and continuity by concurrency](benchmarks-cosyvoice.svg)",
        _SAID,
        _aims(measured, names),
        *(_table(one, names[2]) for one in measured),
        _ours(measured),
        _PUBLISHED,
    ]
    page = "\n\n".join(parts) + "\n"
    (folder / "benchmarks-cosyvoice.md").write_text(page, encoding="utf-8")
    _plot(folder / "benchmarks-cosyvoice.svg", measured)


_HEAD = """# CosyVoice benchmarks

Written by `nox -s bench -- cosyvoice` in {took_s:.0f} s; do not edit. {machine}, no GPU.
Upstream's code: {version}. Load average before the start: {load:.1f}.

**No GPU and no real weights were at hand.** All that is compared here speaks with the same tiny
model of random weights, one torch thread a process, on cores that the load generator shares. So the
figures say what serving costs beside a model's own work, and nothing about a real model's speed on
your hardware: read the ratios. Everyone had its turn in each round, in changing order; tables show
the median of {rounds} rounds at each concurrency and, in brackets, the lowest and the highest.
Every stream says the same text of {letters} letters with the same voice. Its length differs by some
tokens, since a seed means nothing to another implementation: rates are per second of audio."""

_SAID = """What was compared:

- **Bentovox speech over HTTP**: `bentoml serve services.speech.service:Speech`, a registered voice,
  `pcm`, streamed; then **Bentovox, whole**: the same with `"stream": false`, each segment made in
  one pass.
- **Bare upstream call**: `inference_zero_shot(stream=True)` of upstream's classes in a process of
  its own, one thread a stream, no HTTP, the voice added with `add_zero_shot_spk`. So that it makes
  the same tokens at all, it decodes without the attention mask that newer transformers misread, in
  float32, and with no end of speech before the least length; its chunk length, which upstream lets
  grow for good, is set back before each turn; within a turn all streams share it still, so that of
  several streams most make fewer and longer chunks, which is less work (the copy on PyPI lets no
  chunk grow). What it imports and does not need (modelscope, torchaudio) is stood in for.
- **Upstream's FastAPI server**: `runtime/python/fastapi/server.py` of commit ace7c47, unchanged,
  over the same classes with the same repairs. It never passes `stream=True`, so that each sentence
  comes when it is whole: its first audio is all of the text here, which is one segment to upstream,
  and a single piece cannot run dry. It has no registered voices either: the recording is sent, and
  its features are computed, each time.

A stream is more work than a whole: each chunk runs the flow over all tokens so far. *Continuous* is
the share of streams whose worst underrun stays below 100 ms when playback begins at the first
audio. The real-time factor is the time to a stream's end for each second of its audio: below 1 it
is made sooner than it plays."""

_COLUMNS = (
    "first audio, of bare",
    "audio/s, of bare",
    "continuous",
    "first audio, ms",
    "real-time factor",
    "audio/s",
)


def _first(turn: Turn) -> float:
    return turn.first_ms


def _rate(turn: Turn) -> float:
    return turn.audio_per_s


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def _table(measured: Measured, bare_name: str) -> str:
    bare = {line.concurrency: line for line in measured.lines if line.contestant == bare_name}
    rows = [
        f"## Family {measured.family}",
        "",
        f"| what | streams | {' | '.join(_COLUMNS)} |",
        "|---" * (len(_COLUMNS) + 2) + "|",
    ]
    for line in measured.lines:
        cells = (
            line.contestant,
            str(line.concurrency),
            _spread(_beside(line, bare[line.concurrency], _first)),
            _spread(_beside(line, bare[line.concurrency], _rate)),
            f"{continuity(line.turns):.0%}",
            f"{statistics.median(map(_first, line.turns)):.0f}",
            f"{statistics.median(turn.real_time_factor for turn in line.turns):.2f}",
            f"{statistics.median(map(_rate, line.turns)):.2f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _aims(measured: Sequence[Measured], names: Names) -> str:
    rows = ["Against the aims:", ""]
    for one in measured:
        added = statistics.median(one.over_http_ms) - statistics.median(one.in_process_ms)
        rows.append(
            f"- Family {one.family}: our HTTP service adds {added:+.1f} ms to our engine's first "
            f"audio, aim {ADDED_AIM_MS}: {'reached' if added < ADDED_AIM_MS else 'missed'}."
        )
        by_key = {(line.contestant, line.concurrency): line for line in one.lines}
        for streams in sorted({line.concurrency for line in one.lines} - {1, 2}):
            lines = {name: by_key.get((name, streams)) for name in names}
            rows += _against(f"- Family {one.family}, {streams} streams", lines, names)
    return "\n".join(rows)


def _against(begin: str, lines: dict[str, Line | None], names: Names) -> list[str]:
    """Return a sentence on each peer: streamed beside the bare call, both ways beside the server.

    The server makes audio whole, in one pass, which is less work than a stream: so does ours when
    it is asked to.
    """
    streamed, whole, bare, server = (lines[name] for name in names)
    rows = []
    for peer, same in ((bare, streamed), (server, whole)):
        if peer is None or streamed is None or same is None:
            continue
        sooner = _verdict([1 / ratio for ratio in _beside(streamed, peer, _first)])
        more = _verdict(_beside(same, peer, _rate))
        how = "" if same is streamed else ", made whole as it makes it"
        rows.append(
            f"{begin}, beside {peer.contestant}: first audio {_spread(sooner[0])} times as soon: "
            f"{sooner[1]}; {_spread(more[0])} times its audio a second{how}: {more[1]}."
        )
    return rows


def _verdict(better: list[float]) -> tuple[list[float], str]:
    """Return the ratios, above 1 where ours is better, and what all rounds agree on."""
    if min(better) > 1:
        return better, "ahead"
    return better, "behind" if max(better) < 1 else "level within the spread"


def _beside(ours: Line, peer: Line, value: Callable[[Turn], float]) -> list[float]:
    pairs = zip(ours.turns, peer.turns, strict=True)
    return [value(a) / value(b) for a, b in pairs]


_OURS = """Time to first audio of one stream at a time, our engine called in process and the same
engine behind our service, in turns, with the same text and the same seeds. The difference is that
of the medians; its spread, the quartiles of the pairs' differences. The load generator's own work
on a request is in it."""


def _ours(measured: Sequence[Measured]) -> str:
    rows = [
        "## What our service adds",
        "",
        _OURS,
        "",
        "| family | pairs | engine alone, ms | over HTTP, ms | added, ms | quartiles, ms |",
        "|---|---|---|---|---|---|",
    ]
    for one in measured:
        alone, http = map(statistics.median, (one.in_process_ms, one.over_http_ms))
        added = [a - b for a, b in zip(one.over_http_ms, one.in_process_ms, strict=True)]
        low, _, high = statistics.quantiles(added, n=4)
        rows.append(
            f"| {one.family} | {len(added)} | {alone:.1f} | {http:.1f} | {http - alone:+.1f} "
            f"| {low:+.1f} to {high:+.1f} |"
        )
    return "\n".join(rows)


_PUBLISHED = """## Others' published numbers

**Not measured here and not comparable with the tables above**: others' figures, on other hardware,
with real weights. They say what a GPU makes of the real models.

| system | GPU | published result |
|---|---|---|
| CosyVoice2 Triton + TensorRT-LLM (upstream's README) | L20 | first chunk, cached speaker, 190 / 323 / 978 ms at 1 / 2 / 4 concurrent; real-time factor .116 / .091 / .073 |
| CosyVoice2 + DiT token2wav | L20 | first chunk 198 / 511 / 1215 ms at 1 / 4 / 10; offline real-time factor .029 at batch 16 |
| CosyVoice3 TensorRT-LLM | L20 | first chunk 750 ms mean at 4; offline real-time factor .109 to .050 |
| CosyVoice3 vLLM-Omni + TensorRT | H100 | first packet 209 / 334 / 551 ms at 1 / 2 / 4; real-time factor .12 / .20 / .33 |
| CosyVoice3 SGLang-Omni, buffered + TensorRT | H200 | 1 concurrent: .871 s, real-time factor .189; 16: 2.55 s, .57, 6.24 requests/s |"""  # noqa: E501


def _plot(path: Path, measured: Sequence[Measured]) -> None:
    colors = ["#8a8f98", "#0b3d91", "#6fa3ef", "#d98c2b"]
    figure = Figure(figsize=(11, 3.8 * len(measured)), layout="constrained")
    grid = figure.subplots(len(measured), 2, squeeze=False)
    for one, (left, right) in zip(measured, grid, strict=True):
        names = list(dict.fromkeys(line.contestant for line in one.lines))
        streams = list(dict.fromkeys(line.concurrency for line in one.lines))
        places = range(len(streams))
        width = 0.8 / len(names)
        for index, (name, color) in enumerate(zip(names, colors, strict=False)):
            mine = [line for line in one.lines if line.contestant == name]
            firsts = [[turn.first_ms for turn in line.turns] for line in mine]
            middles = [statistics.median(values) for values in firsts]
            spread = [
                [middle - min(values) for middle, values in zip(middles, firsts, strict=True)],
                [max(values) - middle for middle, values in zip(middles, firsts, strict=True)],
            ]
            left.errorbar(
                places, middles, yerr=spread, marker="o", capsize=2, color=color, label=name
            )
            at = [place + (index - len(names) / 2 + 0.5) * width for place in places]
            right.bar(at, [continuity(line.turns) for line in mine], width, color=color)
        left.set(title=f"Family {one.family}: first audio, ms", xlabel="streams at once")
        left.set_yscale("log")
        right.set(
            title=f"Family {one.family}: share of streams without an audible gap",
            xlabel="streams at once",
            ylim=(0, 1.05),
        )
        for axes in (left, right):
            axes.set_xticks(places, [str(count) for count in streams])
            axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, metadata={"Date": None})
