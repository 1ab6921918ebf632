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

import argparse
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ci import base, bento, build, docker, platforms, specs
from ci.base import Base
from ci.build import Options
from ci.cosyvoice import command
from ci.errors import CiError
from ci.paths import BENTOS, alone
from ci.platforms import Platform
from ci.specs import Spec
from ci.terminal import outputs, result, say

DOCKERFILE: Final = BENTOS / "Dockerfile"
_MODEL: Final = "src/services/chat/demo_model"
"""The model that the repository ships; it gets a layer of its own."""


class Image(NamedTuple):
    """One built image: the base below it, its names, the seconds that its build took."""

    base: Base
    names: list[str]
    build_s: float


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument("bento", help=f"one of {', '.join(specs.names())}")
    build.add_options(parser)
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
    options = build.options_of(given)
    is_moving = not given.only_content_tag
    made = make(spec, platform, options, bake=given.bake, is_moving=is_moving)
    name, pushed = made.names[0], {}
    if options.push and given.github:
        repository, digest = name.rpartition(":")[0], docker.digest(name)
        name, pushed = f"{repository}@{digest}", {"repository": repository, "digest": digest}
    if given.github:
        outputs({"image": name, **pushed})
    result(made.names[0])


def make(
    spec: Spec,
    platform: Platform,
    options: Options,
    *,
    bake: Sequence[Path] = (),
    is_moving: bool = True,
) -> Image:
    """Build a bento's image for a platform; with `is_moving`, the platform's tag moves to it."""
    for folder in bake:
        if not folder.is_dir():
            raise CiError(f"--bake {folder}: is no folder")
    below = base.find(spec.base(platform.name), platform, options.registry)
    with alone(bento.folder_of(spec, platform)):
        packed, version = bento.make(spec, platform, options.registry)
        base.ensure(below, dataclasses.replace(options, no_cache=False))
        context = write_context(packed, bake)
        repository = build.repository(spec.name, options.registry)
        tags = [*([platform.name] if is_moving else []), f"{platform.name}-{version}"]
        names = [f"{repository}:{tag}" for tag in tags]
        say(f"Building {names[0]} on {below.reference}")
        build_s = build.build(
            [
                *options.arguments(*names),
                f"--file={DOCKERFILE}",
                "--target=image",
                f"--build-arg=BASE={below.reference}",
                *docker.variables(labels(spec, platform, below, version), "--label"),
                *build.wheels_context(platform),
                str(context),
            ]
        )
    return Image(below, names, build_s)


def labels(spec: Spec, platform: Platform, below: Base, version: str) -> dict[str, str]:
    """Return the OCI labels of an image, and ours, which its gates read."""
    standard = "org.opencontainers.image"
    return {
        f"{standard}.title": spec.data["name"],
        f"{standard}.description": spec.data["description"],
        f"{standard}.version": version,
        f"{standard}.licenses": "Apache-2.0",
        f"{standard}.base.name": below.reference,
        "bentovox.bento": spec.name,
        "bentovox.platform": platform.name,
        "bentovox.torch": spec.requirements(platform.name).get("torch", ""),
        "bentovox.budget-mib": str(spec.budget_mib(platform.name)),
    }


def write_context(packed: Path, bake: Sequence[Path]) -> Path:
    """Write the build context of an image beside its bento; return its folder."""
    context = packed.with_name("context")
    shutil.rmtree(context, ignore_errors=True)
    app = context / "bento" / "app"
    shutil.copytree(packed, app)
    parts = context / "parts"
    for name in ("models", "cosyvoice", "baked"):
        (parts / name).mkdir(parents=True)
    if (app / _MODEL).is_dir():
        target = parts / "models" / "app" / _MODEL
        target.parent.mkdir(parents=True)
        (app / _MODEL).rename(target)
    lock = packed / "env" / "python" / "requirements.txt"
    if "\nconformer==" in f"\n{lock.read_text(encoding='utf-8')}":
        (parts / "cosyvoice" / "opt").mkdir()
        command.put(command.bring(), parts / "cosyvoice" / "opt" / "cosyvoice")
    for folder in bake:
        shutil.copytree(folder, parts / "baked" / "models" / folder.name)
    (context / "lock").mkdir()
    shutil.copyfile(lock, context / "lock" / "requirements.txt")
    return build.named(context)
