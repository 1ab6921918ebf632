"""`python -m ci disk`: what builds hold on this machine, and freeing what nobody uses.

    python -m ci disk                                what is held, the largest first
    python -m ci disk --prune --dry-run              what would go
    python -m ci disk --prune --older-than 72        let it go

--prune takes only what builds made and can make again: build cache that was not used for some hours
and that no image shares; images of ours without a name; and images of ours that are named by their
content, such as bentovox/chat:cpu-1f2e3d4c5b6a, when no other name stands for them, no container
uses them, and no image that stays stands on them. Volumes, containers and others' images stay.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from typing import TYPE_CHECKING, Any, Final

from ci import command, docker, naming, sizes
from ci.errors import CiError
from ci.layers.image import BASE_NAME, BENTO
from ci.paths import BUILT
from ci.progress import say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_BY_CONTENT: Final = re.compile(rf"(?:.+/)?{naming.PROJECT}/[a-z0-9-]+:[a-z0-9.]+-[0-9a-f]{{12}}")
_MARK: Final = "UV_EXCLUDE=/etc/uv/base-excludes.txt"
"""What every base of ours sets, and so every image on one."""

_SIZE: Final = re.compile(r"([\d.]+)\s*([kMGTP]?)B")
_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}


@dataclasses.dataclass(frozen=True)
class Held:
    """One thing that is held: `reason` says why it may go, and is empty where it stays.

    `bytes` is what only this holds, as docker counts: layers that images share are in none.
    """

    kind: str
    names: tuple[str, ...]
    bytes: int
    reason: str = ""


def images(listed: list[dict[str, Any]], inspected: list[dict[str, Any]]) -> Iterator[Held]:
    """Yield the images of a `docker system df`; `inspected` is what docker knows of each."""
    known = {image["Id"]: image for image in inspected}
    stay = {row["ID"] for row in listed if row["Containers"] != "0" or _stays(known[row["ID"]])}
    below = {_config(known[image]).get("Labels", {}).get(BASE_NAME) for image in stay}
    for row in listed:
        names = tuple(known[row["ID"]].get("RepoTags") or ())
        reason = ""
        if row["ID"] not in stay and not below & set(names):
            reason = "no other name stands for it" if names else "has no name"
        yield Held("image", names or (row["ID"],), parsed(row["UniqueSize"]), reason)


def _stays(image: dict[str, Any]) -> bool:
    """Tell whether an image is someone else's, or has a name that people say."""
    config = _config(image)
    names = image.get("RepoTags") or []
    if not names:
        return BENTO not in config["Labels"] and _MARK not in config["Env"]
    return not all(_BY_CONTENT.fullmatch(name) for name in names)


def _config(image: dict[str, Any]) -> dict[str, Any]:
    config = image.get("Config") or {}
    return {"Labels": config.get("Labels") or {}, "Env": config.get("Env") or []}


def cache(listed: list[dict[str, Any]], hours: float, now: dt.datetime) -> Iterator[Held]:
    """Yield the build cache of a `docker system df`, as what stays and what may go."""
    old, recent = 0, 0
    for row in listed:
        if row["Shared"] == "true":
            continue  # these bytes are an image's
        used = moment(row["LastUsedAt"]) or moment(row["CreatedAt"]) or now
        if row["InUse"] == "false" and now - used > dt.timedelta(hours=hours):
            old += parsed(row["Size"])
        else:
            recent += parsed(row["Size"])
    if recent:
        yield Held("build cache", (f"used in the last {hours:g} h",), recent)
    if old:
        name = f"not used for {hours:g} h"
        yield Held("build cache", (name,), old, name)


def parsed(size: str) -> int:
    """Return the bytes of docker's `1.5GB`."""
    match = _SIZE.search(size)
    return round(float(match[1]) * _UNITS[match[2]]) if match else 0


def moment(text: str) -> dt.datetime | None:
    """Return the time of docker's `2026-11-24 22:58:25.167722483 +0000 UTC`, None if never."""
    match = re.match(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)? ([+-]\d{4})", text)
    return dt.datetime.strptime(f"{match[1]} {match[2]}", "%Y-%m-%d %H:%M:%S %z") if match else None


def folders(built: Path) -> Iterator[Held]:
    """Yield the folders of bentos and build contexts; the next build writes them anew."""
    for folder in sorted(built.glob("*/")):
        files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        total = sum(file.stat().st_size for file in files)
        yield Held("folder", (f".nox/bentos/{folder.name}",), total)


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.parser("disk", __doc__)
    options.add_argument("--prune", action="store_true", help="let go what nobody uses")
    options.add_argument(
        "--dry-run", action="store_true", help="with --prune: only say what would go"
    )
    options.add_argument(
        "--older-than",
        type=float,
        default=24,
        metavar="HOURS",
        help="for how long build cache was not used (default: 24)",
    )
    return options


def main(arguments: list[str] | None = None) -> int:
    """Show what builds hold, and free it."""
    given = parser().parse_args(arguments)
    return command.run("disk", lambda: _work(given))


def _work(given: argparse.Namespace) -> None:
    if given.dry_run and not given.prune:
        raise CiError("--dry-run needs --prune: it says what that would let go")
    if given.older_than < 0:
        raise CiError(f"--older-than {given.older_than:g}: is less than 0 hours")
    docker.ready()
    say("Asking the engine what it holds")
    held = sorted(find(given.older_than), key=lambda one: -one.bytes)
    going = [one for one in held if one.reason]
    if given.prune and not given.dry_run:
        going = prune(going, given.older_than)
    shown = going if given.prune else held
    if given.json:
        command.result_json(
            {
                "pruned": given.prune and not given.dry_run,
                "held": [dataclasses.asdict(one) for one in shown],
                "bytes": sum(one.bytes for one in shown),
            }
        )
    else:
        command.result("\n".join([*_lines(shown), _total(given, shown, going)]))


def find(hours: float) -> list[Held]:
    """Return what builds hold."""
    said = json.loads(docker.call("system", "df", "--verbose", "--format", "json"))
    ids = sorted({row["ID"] for row in said["Images"]})
    known = json.loads(docker.call("image", "inspect", *ids)) if ids else []
    now = dt.datetime.now(dt.UTC)
    return [
        *images(said["Images"], known),
        *cache(said["BuildCache"], hours, now),
        *folders(BUILT),
    ]


def prune(going: Iterable[Held], hours: float) -> list[Held]:
    """Let go what may go; return what went. What docker still uses stays, and is said."""
    gone = []
    for one in going:
        if one.kind == "image":
            done = docker.ask("image", "rm", *one.names)
        else:
            minutes = round(hours * 60)
            done = docker.ask("builder", "prune", "--force", "--filter", f"until={minutes}m")
        if done is None:
            say(f"{one.names[0]} stays: docker still uses it")
        else:
            gone.append(one)
    return gone


def _lines(held: Iterable[Held]) -> Iterator[str]:
    for one in held:
        reason = f"  ({one.reason})" if one.kind == "image" and one.reason else ""
        name = re.sub(r"^sha256:(.{12}).*", r"\1", one.names[0])
        yield f"{sizes.shown(one.bytes):>10}  {one.kind:11}  {name}{reason}"


def _total(given: argparse.Namespace, shown: list[Held], going: list[Held]) -> str:
    total = sizes.shown(sum(one.bytes for one in going))
    if not given.prune:
        return f"{sizes.shown(sum(one.bytes for one in shown))}; `--prune` lets go {total}"
    if not going:
        return "nothing to let go"
    return f"{total} {'would go' if given.dry_run else 'went'}"
