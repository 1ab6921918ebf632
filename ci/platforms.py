"""`bentos/platforms.toml`: what an image may stand on."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ci.errors import CiError
from ci.paths import BENTOS

TABLE: Final = BENTOS / "platforms.toml"
_Digest = Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Platform:
    """One platform: the image that the bases are made from, and what that image must have.

    `torch_from` is `base` where the image has torch, `wheels` where a group of ours installs it.
    `plain_image` is what bases without torch stand on, where torch makes the image large. Digests
    are empty until `python -m ci base pin` has run.
    """

    name: str
    image: str
    tag: str
    digest: _Digest
    devel_tag: str
    devel_digest: _Digest
    python: str
    torch: str
    torch_from: Literal["base", "wheels"]
    cuda: str
    plain_image: str = ""
    plain_tag: str = ""
    plain_digest: _Digest = ""

    @property
    def reference(self) -> str:
        """Return the image as FROM takes it: by tag, and by digest once it is pinned."""
        return self._pinned("digest")

    @property
    def devel_reference(self) -> str:
        """Return the image that has the compilers, likewise."""
        return self._pinned("devel_digest")

    @property
    def plain_reference(self) -> str:
        """Return the image for what needs no torch, likewise."""
        return self._pinned("plain_digest") if self.plain_image else self.reference

    @property
    def unpinned(self) -> dict[str, str]:
        """Return its images by tag alone, under the key of each one's digest."""
        images = {
            "digest": f"{self.image}:{self.tag}",
            "devel_digest": f"{self.image}:{self.devel_tag}",
            "plain_digest": f"{self.plain_image}:{self.plain_tag}",
        }
        return {key: image for key, image in images.items() if image != ":"}

    def _pinned(self, key: str) -> str:
        digest = getattr(self, key)
        return f"{self.unpinned[key]}@{digest}" if digest else self.unpinned[key]


def load() -> dict[str, Platform]:
    """Return every platform by name."""
    try:
        found = tomllib.loads(TABLE.read_text(encoding="utf-8"))
        named = {name: {"name": name, **values} for name, values in found.items()}
        return TypeAdapter(dict[str, Platform]).validate_python(named)
    except ValidationError as error:
        fault = error.errors()[0]
        platform, *key = map(str, fault["loc"])
        raise CiError(f"{TABLE.name} [{platform}]: {'.'.join(key)}: {fault['msg']}") from error
    except (tomllib.TOMLDecodeError, TypeError, OSError) as error:
        raise CiError(f"{TABLE}: {error}") from error


def get(name: str) -> Platform:
    """Return one platform."""
    known = load()
    if name not in known:
        raise CiError(f"{name!r} is no platform of {TABLE.name}; there are {', '.join(known)}")
    return known[name]


def change(name: str, values: Mapping[str, str]) -> None:
    """Write other values of a platform's keys into the table, which keeps its comments."""
    text = TABLE.read_text(encoding="utf-8")
    for key, value in values.items():
        pattern = rf'(\[{re.escape(name)}\][^\[]*?\n{key} = )"[^"]*"'
        text, times = re.subn(pattern, rf'\g<1>"{value}"', text)
        if times != 1:
            raise CiError(f'{TABLE.name} [{name}]: no line `{key} = ""` to write to')
    TABLE.write_text(text, encoding="utf-8")
