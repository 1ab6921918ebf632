"""The options of every verb that builds, and what buildx is told of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ci import contexts
from ci.errors import CiError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Options:
    """How something is built: where it is pushed, which caches are read and written.

    `cache_from` and `cache_to` are buildx's; `network` is `host` where build steps must share the
    host's network.
    """

    registry: str = ""
    push: bool = False
    cache_from: Sequence[str] = ()
    cache_to: Sequence[str] = ()
    network: str = ""
    compression: str = "zstd"
    no_cache: bool = False

    def arguments(self, *names: str) -> list[str]:
        """Return buildx's arguments for an image of these names."""
        # What is pushed is not kept here: an engine would fetch and unpack all of it for that.
        kind = "type=registry,store=false" if self.push else "type=image,unpack=true"
        output = (
            f'{kind},"name={",".join(names)}",compression={self.compression},oci-mediatypes=true'
        )
        return [
            f"--output={output}",
            f"--build-arg=SOURCE_DATE_EPOCH={contexts.epoch()}",
            "--provenance=false",
            *(f"--cache-from={entry}" for entry in self.cache_from),
            *(f"--cache-to={entry}" for entry in self.cache_to),
            *([f"--network={self.network}"] if self.network else []),
            *(["--no-cache"] if self.no_cache else []),
        ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every verb that builds."""
    parser.add_argument("--platform", default="", help="a platform of bentos/platforms.toml")
    parser.add_argument(
        "--registry", default="", help="registry and owner before every name, such as ghcr.io/me"
    )
    parser.add_argument(
        "--push", action="store_true", help="push to the registry instead of keeping it here"
    )
    parser.add_argument(
        "--cache-from",
        action="append",
        default=[],
        metavar="CACHE",
        help="as docker buildx takes it",
    )
    parser.add_argument(
        "--cache-to", action="append", default=[], metavar="CACHE", help="as docker buildx takes it"
    )
    parser.add_argument(
        "--network", default="", help="the network of build steps: host, where they need the host's"
    )
    parser.add_argument("--no-cache", action="store_true", help="do every step again")


def options_of(given: argparse.Namespace) -> Options:
    """Return the options that were given.

    Raises:
        CiError: `--push` without `--registry`.
    """
    if given.push and not given.registry:
        raise CiError("--push needs --registry, such as --registry ghcr.io/me")
    known = {one.name for one in dataclasses.fields(Options)}
    return Options(**{name: value for name, value in vars(given).items() if name in known})
