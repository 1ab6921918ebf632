r"""`python -m ci image`: build a bento's image on its shared base.

    python -m ci image speech --platform cuda13
    python -m ci image chat --platform cuda13 --registry ghcr.io/me --push \
        --cache-from type=registry,ref=ghcr.io/me/bentovox/chat:cache-cuda13

Builds the bento, its base unless that exists already, and then the image: the packages that the
base lacks, what is shipped with the code, the bento. It is called bentovox/NAME:PLATFORM and, after
its content, bentovox/NAME:PLATFORM-VERSION. It contains no models: mount a cache at /models, or add
some with --bake.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci import (
    base,
    bento,
    build,
    buildx,
    contexts,
    docker,
    github,
    naming,
    platforms,
    specs,
    uv,
)
from ci.errors import CiError
from ci.paths import BENTOS, ROOT
from ci.terminal import result, say

if TYPE_CHECKING:
    import argparse

    from ci.base import Base
    from ci.buildx import Options
    from ci.platforms import Platform
    from ci.specs import Spec

DOCKERFILE: Final = BENTOS / "Dockerfile"
_MODELS: Final = ("services/chat/demo_model",)
"""Models that the repository ships; they get a layer of their own."""


@dataclasses.dataclass(frozen=True)
class Image:
    """One built image: its names, the base below it, its bento's version, its build's seconds."""

    spec: Spec
    platform: Platform
    base: Base
    version: str
    names: tuple[str, ...]
    build_s: float

    def as_output(self, *, pushed: bool) -> dict[str, str]:
        """Return what a job's next steps need: the image, by its digest if it was pushed."""
        if not pushed:
            return {"image": self.names[0]}
        repository, digest = self.names[0].rpartition(":")[0], docker.digest(self.names[0])
        return {"image": f"{repository}@{digest}", "repository": repository, "digest": digest}


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument("bento", help=f"one of {', '.join(specs.names())}")
    buildx.add_options(parser)
    parser.add_argument(
        "--bake",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="a model's folder, into /models/NAME, in a layer of its own",
    )
    parser.add_argument(
        "--only-content-tag",
        action="store_true",
        help="no moving tag; after its tests `python -m ci tags --apply` adds the others",
    )
    parser.add_argument("--github", action="store_true", help="in a job of GitHub Actions")


def work(given: argparse.Namespace) -> None:
    """Build one image."""
    docker.ready()
    spec = specs.load(given.bento)
    platform = platforms.get(given.platform or spec.platforms[0])
    options = buildx.options_of(given)
    made = make(
        spec,
        platform,
        options,
        bake=tuple(given.bake),
        is_moving=not given.only_content_tag,
    )
    if given.github:
        github.outputs(made.as_output(pushed=options.push))
    result(made.names[0])


def make(
    spec: Spec,
    platform: Platform,
    options: Options,
    *,
    bake: tuple[Path, ...] = (),
    is_moving: bool = True,
) -> Image:
    """Build the image of a bento for a platform; with `is_moving`, the platform's tag moves to it.

    Raises:
        CiError: the bento, its base or the image cannot be built.
    """
    for folder in bake:
        if not folder.is_dir():
            raise CiError(f"--bake {folder}: is no folder")
    below = base.find(spec.base(platform.name), platform, options.registry)
    with contexts.alone(bento.folder_of(spec, platform)):
        packed, version = bento.make(spec, platform, options.registry)
        base.ensure(below, dataclasses.replace(options, no_cache=False))
        context = write_context(packed, bake)
        repository = naming.repository(spec.name, options.registry)
        moving = [platform.name] if is_moving else []
        names = tuple(f"{repository}:{tag}" for tag in (*moving, f"{platform.name}-{version}"))
        say(f"Building {names[0]} on {below.reference}")
        build_s = build.build(
            [
                *options.arguments(*names),
                f"--file={DOCKERFILE}",
                "--target=image",
                f"--build-arg=BASE={below.reference}",
                *docker.variables(labels(spec, platform, below, version), "--label"),
                *uv.wheels_context(platform),
                str(context),
            ]
        )
    return Image(spec, platform, below, version, names, build_s)


def labels(spec: Spec, platform: Platform, below: Base, version: str) -> dict[str, str]:
    """Return the OCI labels of an image, and ours, which its gates read."""
    standard = "org.opencontainers.image"
    return {
        f"{standard}.title": spec.bento,
        f"{standard}.description": spec.data["description"],
        f"{standard}.version": version,
        f"{standard}.licenses": "Apache-2.0",
        f"{standard}.base.name": below.reference,
        "bentovox.bento": spec.name,
        "bentovox.platform": platform.name,
        "bentovox.torch": spec.requirements(platform.name).get("torch", ""),
        "bentovox.budget-mib": str(spec.budget_mib(platform.name)),
    }


def write_context(packed: Path, bake: tuple[Path, ...]) -> Path:
    """Write the build context of an image beside its bento; return its folder."""
    context = packed.with_name("context")
    shutil.rmtree(context, ignore_errors=True)
    app = context / "bento" / "app"
    shutil.copytree(packed, app)
    parts = context / "parts"
    for name in ("models", "cosyvoice", "baked"):
        (parts / name).mkdir(parents=True)
    for name in _MODELS:
        source = app / "src" / name
        if source.is_dir():
            target = parts / "models" / "app" / "src" / name
            target.parent.mkdir(parents=True)
            source.rename(target)
    if any(line.startswith("conformer==") for line in _lock(packed).read_text().splitlines()):
        _bring_cosyvoice(parts / "cosyvoice" / "opt" / "cosyvoice")
    for folder in bake:
        shutil.copytree(folder, parts / "baked" / "models" / folder.name)
    (context / "lock").mkdir()
    shutil.copyfile(_lock(packed), context / "lock" / "requirements.txt")
    return contexts.named(context)


def _lock(packed: Path) -> Path:
    return packed / "env" / "python" / "requirements.txt"


def _bring_cosyvoice(into: Path) -> None:
    """Put upstream's verified code into the context."""
    into.parent.mkdir()
    code = subprocess.call(
        [sys.executable, "-m", "ci", "cosyvoice", "--into", str(into)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    if code:
        raise CiError("CosyVoice's code could not be had, for the reason above")
