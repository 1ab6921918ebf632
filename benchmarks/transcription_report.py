"""The page `docs/benchmarks-transcription.md` and its plot, written from what was just measured."""

from __future__ import annotations

import os
import statistics
from typing import TYPE_CHECKING, Final

from matplotlib.figure import Figure

from benchmarks.report import machine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Turns = Mapping[str, Mapping[str, list[dict[str, float]]]]

_PAGE: Final = """# Benchmarks of transcription

Written by `nox -s bench -- transcription`; do not edit. {machine}.

The model is made here: random weights in the sizes of OpenAI's `tiny`, which say the same fifty
tokens in each window of 30 s, so that everybody does the same work. Beam 5, language given, float32
sound in memory; over HTTP a WAV is uploaded and the text streams back. All contestants are
processes that take turns, {rounds} rounds after one that warms up; a share is that of speed beside
{bare} (`WhisperModel.transcribe`, a thread for each recording) in the same round: above 1 is
faster. The median stands first, the lowest and the highest follow. The machine did other work too
(load {load:.1f} on {cores} cores at the end), so read the ratios.

![speed beside bare faster-whisper](benchmarks-transcription.svg)

{tables}

## Guesses

How long the text of three unfinished seconds takes, as live speech asks for it again and again
(greedy, without times), in our engine alone, and while it hears eight recordings.

| | median | slowest |
|---|---|---|
{guesses}

No other server was measured: speaches is not on PyPI, and cannot be installed beside this one.
"""


def write(
    folder: Path,
    *,
    turns: Turns,
    guesses: Mapping[str, list[float]],
    cases: Mapping[str, tuple[int, int]],
    bare: str,
    rounds: int,
) -> None:
    """Write the page and the plot into `folder`."""
    page = _PAGE.format(
        machine=machine(),
        rounds=rounds,
        bare=bare,
        load=os.getloadavg()[0],
        cores=os.cpu_count(),
        tables="\n\n".join(_table(case, cases[case], turns[case], bare) for case in turns),
        guesses="\n".join(
            f"| {name} | {1000 * statistics.median(took):.0f} ms | {1000 * max(took):.0f} ms |"
            for name, took in guesses.items()
        ),
    )
    (folder / "benchmarks-transcription.md").write_text(page, encoding="utf-8")
    _plot(folder / "benchmarks-transcription.svg", turns, bare)


def _table(
    case: str, sizes: tuple[int, int], turns: Mapping[str, list[dict[str, float]]], bare: str
) -> str:
    duration_s, count = sizes
    lines = [
        f"## {case.capitalize()}: {count} x {duration_s} s",
        "",
        "| | speed beside bare | wait for text beside bare | sound heard a second |",
        "|---|---|---|---|",
    ]
    for name, mine in turns.items():
        rate = statistics.median(duration_s * count / turn["took_s"] for turn in mine)
        speed = _spread(_ratios(turns[bare], mine, "took_s"))
        first = _spread([1 / ratio for ratio in _ratios(turns[bare], mine, "first_s")])
        lines.append(f"| {name} | {speed} | {first} | {rate:.0f} s |")
    return "\n".join(lines)


def _ratios(bare: list[dict[str, float]], mine: list[dict[str, float]], what: str) -> list[float]:
    return [one[what] / other[what] for one, other in zip(bare, mine, strict=True)]


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def _plot(path: Path, turns: Turns, bare: str) -> None:
    colors = ["#8a8f98", "#2f6fde", "#d98c2b", "#b5483a", "#0b3d91"]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots()
    names = list(next(iter(turns.values())))
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        ratios = [_ratios(of_case[bare], of_case[name], "took_s") for of_case in turns.values()]
        shares = [statistics.median(one) for one in ratios]
        spread = [
            [share - min(one) for share, one in zip(shares, ratios, strict=True)],
            [max(one) - share for share, one in zip(shares, ratios, strict=True)],
        ]
        places = [place + (index - len(names) / 2 + 0.5) * width for place in range(len(turns))]
        axes.bar(places, shares, width, label=name, color=colors[index], yerr=spread, capsize=2)
    axes.axhline(1, color="#333333", linewidth=0.8)
    axes.set_xticks(range(len(turns)), list(turns))
    axes.set_ylabel("speed beside bare faster-whisper")
    axes.legend(
        fontsize="small", frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
