"""`bentos/platforms.toml`: what an image may stand on."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from typing import TYPE_CHECKING, Final

from ci.errors import CiError
from ci.paths import BENTOS

if TYPE_CHECKING:
    from pathlib import Path

TABLE: Final = BENTOS / "platforms.toml"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Platform:
    """One platform: the image that the bases are made from, and what that image must hold.

    `torch_from` is `base` where the image holds torch, `wheels` where a group of ours installs it.
    `uv_platform` is what locks are resolved for. `plain_image` is what bases without torch stand
    on, where the image is large for its torch.
    """

    name: str
    description: str
    image: str
    tag: str
    digest: str
    devel_tag: str
    devel_digest: str
    python: str
    torch: str
    torch_from: str
    cuda: str
    uv_platform: str
    plain_image: str = ""
    plain_tag: str = ""
    plain_digest: str = ""

    @property
    def reference(self) -> str:
        """Return the image as FROM takes it: by tag, and by digest once it is pinned."""
        return _reference(self.image, self.tag, self.digest)

    @property
    def devel_reference(self) -> str:
        """Return the image that has the compilers, likewise."""
        return _reference(self.image, self.devel_tag, self.devel_digest)

    @property
    def plain_reference(self) -> str:
        """Return the image for what needs no torch, likewise."""
        if not self.plain_image:
            return self.reference
        return _reference(self.plain_image, self.plain_tag, self.plain_digest)


def load(table: Path = TABLE) -> dict[str, Platform]:
    """Return every platform by name.

    Raises:
        CiError: the table is not TOML, or a platform lacks a key, has one too many or a bad value.
    """
    try:
        found = tomllib.loads(table.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise CiError(f"{table}: {error}") from error
    return {name: _platform(table, name, values) for name, values in found.items()}


def get(name: str, table: Path = TABLE) -> Platform:
    """Return one platform.

    Raises:
        CiError: there is none of that name.
    """
    known = load(table)
    if name not in known:
        raise CiError(f"{name!r} is no platform of {table.name}; there are {', '.join(known)}")
    return known[name]


def check_torch(lock: dict[str, str], platform: Platform, path: Path) -> None:
    """Refuse a lock that the platform's torch does not fit.

    Raises:
        CiError: it locks another torch than the platform has.
    """
    torch = lock.get("torch", platform.torch)
    if torch != platform.torch:
        raise CiError(
            f"{path.name} locks torch {torch}, platforms.toml has {platform.torch} for "
            f"{platform.name}: change both together, and the image's tag with them"
        )


def _platform(table: Path, name: str, values: object) -> Platform:
    known = {field.name: field.default for field in dataclasses.fields(Platform)}
    wanted = {key for key, value in known.items() if value is dataclasses.MISSING} - {"name"}
    given = values if isinstance(values, dict) else {}
    where = f"{table.name} [{name}]"
    if missing := sorted(wanted - given.keys()):
        raise CiError(f"{where}: {', '.join(missing)} missing")
    if unknown := sorted(given.keys() - (known.keys() - {"name"})):
        raise CiError(f"{where}: unknown key {', '.join(unknown)}")
    if wrong := sorted(key for key, value in given.items() if not isinstance(value, str)):
        raise CiError(f"{where}: {', '.join(wrong)} must be text")
    for key in ("digest", "devel_digest", "plain_digest"):
        if given.get(key) and not _DIGEST.fullmatch(given[key]):
            raise CiError(f"{where}: {key} is no sha256 digest; `python -m ci base pin` writes it")
    if given["torch_from"] not in {"base", "wheels"}:
        raise CiError(f"{where}: torch_from is 'base' or 'wheels', not {given['torch_from']!r}")
    return Platform(name=name, **given)


def _reference(image: str, tag: str, digest: str) -> str:
    return f"{image}:{tag}@{digest}" if digest else f"{image}:{tag}"
