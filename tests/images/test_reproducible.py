"""The same inputs give the same image, byte for byte, without a cache."""

from __future__ import annotations

import dataclasses

import pytest

from ci import base, build, docker, image, platforms, specs
from tests.engine import OPTIONS

ANEW = dataclasses.replace(OPTIONS, no_cache=True)
CPU = platforms.get("cpu")


def identity(reference: str) -> str:
    found = docker.inspect(reference)
    assert found is not None
    return str(found["Id"])


def made(options: build.Options) -> tuple[str, str]:
    """Build the gateway's base and its image; return what names their whole content."""
    below = base.find("slim", CPU, options.registry)
    if options.no_cache:
        base.ensure(below, options, again=True)
    done = image.make(specs.load("gateway"), CPU, options)
    return identity(below.reference), identity(done.names[0])


@pytest.mark.usefixtures("engine")
def test_a_base_and_an_image_built_again_from_nothing_are_the_same() -> None:
    first = made(ANEW)
    made(dataclasses.replace(OPTIONS, registry="another"))  # leaves the engine a context like it
    assert made(ANEW) == first
