"""`python -m ci cache`: what builds took from the cache, what they did again, and why.

    python -m ci cache .nox/bentos/*/build.json              what the last builds did
    python -m ci cache warm.json --before cold.json          and what the cache saved

A build writes its report to .nox/bentos/NAME-PLATFORM/build.json. A step that misses makes those
miss that are made from it: such a step is named as the cause. What the cache saved is known only
against a build in which the same steps ran; that is --before.

All of it is BuildKit's own word. It counts the bytes that it pulls and the context that it is sent;
what it pushes it does not count (`python -m ci registry size` before and after tells that).
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ci import command, sizes
from ci.build import Report
from ci.errors import CiError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from ci.build import Step

_NO_WORK: Final = re.compile(r"\[[^\]]*\] (?:FROM|LINK) ")
"""FROM lines, and the half of COPY --link that only puts a layer in its place."""

_BLOB: Final = "sha256:"
_CONTEXT: Final = "transferring context:"
_WIDTH: Final = 70


@dataclasses.dataclass(frozen=True)
class Use:
    """How one build used the cache.

    `causes` are the steps that missed though nothing that they are made from did. `saved_s` is what
    the hits took in an earlier build, None where none was given.
    """

    name: str
    seconds: float
    hits: tuple[Step, ...]
    misses: tuple[Step, ...]
    causes: tuple[Step, ...]
    saved_s: float | None
    pulled_bytes: int
    context_bytes: int
    import_s: float
    export_s: float

    def as_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        steps = [(step, "hit") for step in self.hits] + [(step, "miss") for step in self.misses]
        kept = ("name", "seconds", "saved_s", "pulled_bytes", "context_bytes")
        return {
            **{key: getattr(self, key) for key in (*kept, "import_s", "export_s")},
            "hits": len(self.hits),
            "misses": len(self.misses),
            "causes": [step.name for step in self.causes],
            "steps": [
                {"name": step.name, "cache": how, "seconds": step.seconds}
                for step, how in sorted(steps, key=lambda pair: pair[0].began)
            ],
        }


def use(name: str, report: Report, before: Report | None = None) -> Use:
    """Return how a build used the cache; what does no work counts as neither hit nor miss."""
    steps = [step for step in report.instructions if not _NO_WORK.match(step.name)]
    hits = tuple(step for step in steps if step.cached)
    misses = tuple(step for step in steps if not step.cached and (step.began or step.seconds))
    took = {step.name: step.seconds for step in before.steps if not step.cached} if before else {}
    return Use(
        name=name,
        seconds=report.seconds,
        hits=hits,
        misses=misses,
        causes=tuple(_causes(report, misses)),
        saved_s=round(sum(took.get(step.name, 0) for step in hits), 3) if before else None,
        pulled_bytes=_bytes(report, _BLOB),
        context_bytes=_bytes(report, _CONTEXT),
        import_s=_seconds(report, "importing cache"),
        export_s=_seconds(report, "exporting"),
    )


def _causes(report: Report, misses: tuple[Step, ...]) -> Iterator[Step]:
    by_digest = {step.digest: step for step in report.steps}
    missed = {step.digest for step in misses}
    for step in misses:
        above = list(step.inputs)
        seen: set[str] = set()
        while above:
            digest = above.pop()
            if digest not in seen and digest in by_digest:
                seen.add(digest)
                above += by_digest[digest].inputs
        if not seen & missed:
            yield step


def _bytes(report: Report, prefix: str) -> int:
    parts = (item for step in report.steps for item in step.parts.items())
    return sum(part.bytes for what, part in parts if what.startswith(prefix))


def _seconds(report: Report, prefix: str) -> float:
    return round(sum(step.seconds for step in report.steps if step.name.startswith(prefix)), 3)


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.parser("cache", __doc__)
    options.add_argument("reports", nargs="+", type=Path, metavar="REPORT.json")
    options.add_argument(
        "--before", type=Path, metavar="REPORT.json", help="a build in which the hits ran"
    )
    return options


def main(arguments: list[str] | None = None) -> int:
    """Show how builds used the cache."""
    given = parser().parse_args(arguments)
    return command.run("cache", lambda: _work(given))


def _work(given: argparse.Namespace) -> None:
    before = load(given.before) if given.before else None
    uses = [use(_name(path), load(path), before) for path in given.reports]
    if given.json:
        command.result_json({"builds": [one.as_json() for one in uses], **_total(uses)})
    else:
        lines = [line for one in uses for line in (*_lines(one), "")]
        command.result("\n".join([*lines, _sum(uses)]))


def load(path: Path) -> Report:
    """Return a report that a build wrote.

    Raises:
        CiError: there is none, or the file is something else.
    """
    try:
        return Report.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise CiError(
            f"{path}: {error.strerror}; a build writes its report, `python -m ci image NAME`"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CiError(f"{path} is no report of a build: {error}") from error


def _name(path: Path) -> str:
    return path.resolve().parent.name if path.name == "build.json" else path.stem


def _lines(one: Use) -> Iterator[str]:
    steps = len(one.hits) + len(one.misses)
    yield f"{one.name}: {len(one.hits)} of {steps} steps from the cache, {one.seconds:.1f} s"
    causes = {step.digest for step in one.causes}
    for step in sorted([*one.hits, *one.misses], key=lambda step: step.began):
        how = "hit" if step.cached else "MISS" if step.digest in causes else "miss"
        took = "" if step.cached else f"{step.seconds:.1f} s"
        yield f"  {how:4} {took:>8}  {_cut(step.name)}"
    if one.causes and len(one.causes) < len(one.misses):
        first = ", ".join(_cut(step.name) for step in one.causes)
        yield f"  the other misses follow from {first}"
    facts = (
        (f"saved {one.saved_s or 0:.1f} s", one.saved_s is not None),
        (f"pulled {sizes.shown(one.pulled_bytes)}", one.pulled_bytes),
        (f"context {sizes.shown(one.context_bytes)}", one.context_bytes),
        (f"cache read in {one.import_s:.1f} s", one.import_s),
        (f"exported in {one.export_s:.1f} s", one.export_s),
    )
    said = ", ".join(text for text, is_known in facts if is_known)
    if said:
        yield f"  {said}"


def _total(uses: Iterable[Use]) -> dict[str, Any]:
    uses = list(uses)
    known = [one.saved_s for one in uses if one.saved_s is not None]
    return {
        "hits": sum(len(one.hits) for one in uses),
        "misses": sum(len(one.misses) for one in uses),
        "seconds": round(sum(one.seconds for one in uses), 2),
        "saved_s": round(sum(known), 3) if known else None,
        "pulled_bytes": sum(one.pulled_bytes for one in uses),
    }


def _sum(uses: list[Use]) -> str:
    total = _total(uses)
    saved = "" if total["saved_s"] is None else f", {total['saved_s']:.1f} s saved"
    steps = total["hits"] + total["misses"]
    return f"{total['hits']} of {steps} steps from the cache, {total['seconds']:.1f} s{saved}"


def _cut(name: str) -> str:
    return name if len(name) <= _WIDTH else f"{name[: _WIDTH - 3]}..."
