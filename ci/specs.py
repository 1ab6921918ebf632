"""`bentofile.yaml`: what a bento is, read and checked before anything is made of it.

BentoML writes some of a bentofile's values into a Dockerfile unchanged (CVE-2026-24123 and later
ones), so a bentofile is read here as data: unknown keys, values that could contain a second
instruction, and secrets are refused, and the message names the key.

What BentoML has no key for is in `labels`, all of them text:

    bentovox.platforms   the platforms that it is built for, the bentofile's own first
    bentovox.base        the stage of bentos/bases/Dockerfile that it stands on
    bentovox.budget-mib  what the image may add to its base, compressed, in MiB

The last two may differ by platform: there, `bentovox.base.cpu` wins over `bentovox.base`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from ci.errors import CiError
from ci.paths import BENTOS, ROOT

STACK: Final = "stack"
_BASE: Final = "bentovox.base"
_BUDGET: Final = "bentovox.budget-mib"
_PLATFORMS: Final = "bentovox.platforms"
_SECRET: Final = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|PRIVATE|(^|_)KEYS?(_|$)")
_SECRET_VALUE: Final = re.compile(
    r"\b(hf_\w{8,}|sk-[\w-]{8,}|gh[pousr]_\w{8,}|github_pat_\w{8,}|AKIA[A-Z0-9]{12,})|://[^/]*:[^/]*@"
)
_PINNED: Final = re.compile(r"[a-z0-9][a-z0-9._-]*==[A-Za-z0-9.!+_-]+( ?;.*)?")


def _matches(pattern: str, wanted: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value) or ".." in value.split("/"):
            raise ValueError(f"{value!r} is not {wanted}")
        return value

    return AfterValidator(check)


_Word = Annotated[str, _matches(r"[\w./:@*-]+", "a single plain word")]
_Text = Annotated[str, _matches(r"[\w ./:,@=+-]*", "plain text")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Variable(_Table):
    name: _Word
    value: _Text

    @model_validator(mode="after")
    def _no_secret(self) -> Self:
        if is_secret(self.name, self.value):
            raise ValueError(
                f"{self.name} looks like a secret, and whoever has an image can read its "
                "environment; pass it as a file when the container starts"
            )
        return self


class _Docker(_Table):
    base_image: _Word  # of plain BentoML; an image of ours stands on its platform's base
    python_version: _Word
    setup_script: _Word = ""


class _Python(_Table):
    requirements_txt: _Word
    lock_packages: Literal[False]  # what is built is what `nox -s lock` locked


class _Bentofile(_Table):
    service: _Word
    name: _Word
    description: str
    labels: dict[Annotated[str, _matches(r"[a-z][a-z0-9._-]*", "a label's name")], _Text]
    include: list[_Word]
    exclude: list[_Word] = []
    envs: list[_Variable] = []
    docker: _Docker
    python: _Python

    @model_validator(mode="after")
    def _has_our_labels(self) -> Self:
        for key in (_PLATFORMS, _BASE, _BUDGET):
            if not self.labels.get(key, "").strip():
                raise ValueError(f"labels: {key} is missing")
        platforms = self.labels[_PLATFORMS].split()
        ends = ("", *(f".{platform}" for platform in platforms))
        ours = {_PLATFORMS, *(f"{key}{end}" for key in (_BASE, _BUDGET) for end in ends)}
        for key, value in self.labels.items():
            if key.startswith("bentovox.") and key not in ours:
                known = ", ".join(sorted(ours))
                raise ValueError(f"labels: {key} is no label of ours; there are {known}")
            if key.startswith(_BUDGET) and not value.isdecimal():
                raise ValueError(f"labels: {key}: {value!r} is no number of MiB")
        if (lock := self.python.requirements_txt).count(f".{platforms[0]}.") != 1:
            raise ValueError(
                f"python.requirements_txt: {lock!r} has no .{platforms[0]}. in its name, so that "
                "other platforms' locks cannot be found"
            )
        return self


@dataclasses.dataclass(frozen=True)
class Spec:
    """A bento as its bentofile describes it, checked; `data` is that bentofile."""

    name: str
    path: Path
    data: dict[str, Any]

    @property
    def platforms(self) -> list[str]:
        """Return those that it is built for, the bentofile's own first."""
        return str(self.data["labels"][_PLATFORMS]).split()

    def base(self, platform: str) -> str:
        """Return the stage of bentos/bases/Dockerfile that it stands on for a platform."""
        return self._label(_BASE, platform)

    def budget_mib(self, platform: str) -> int:
        """Return what its image for a platform may add to the base, compressed, in MiB."""
        return int(self._label(_BUDGET, platform))

    def _label(self, key: str, platform: str) -> str:
        labels: dict[str, str] = self.data["labels"]
        return labels.get(f"{key}.{platform}", labels[key])

    def lock_for(self, platform: str) -> Path:
        """Return the lock of a platform."""
        if platform not in self.platforms:
            known = ", ".join(self.platforms)
            raise CiError(f"{self.name} is not built for {platform}; its platforms are {known}")
        own: str = self.data["python"]["requirements_txt"]
        path = ROOT / own.replace(f".{self.platforms[0]}.", f".{platform}.")
        if not path.is_file():
            raise CiError(
                f"{self.name} has no lock for {platform}: {_short(path)} is missing; "
                f"make it with `nox -s lock`"
            )
        return path

    def requirements(self, platform: str) -> dict[str, str]:
        """Return what the lock of a platform installs: the version of each package."""
        return read_lock(self.lock_for(platform))


def names() -> list[str]:
    """Return the names of all bentos: the folders of bentos/ with a bentofile, and the stack."""
    return [*sorted(path.parent.name for path in BENTOS.glob("*/bentofile.yaml")), STACK]


def load(name: str) -> Spec:
    """Return a bento's spec."""
    if name not in names():
        raise CiError(f"there is no bento {name!r}; there are {', '.join(names())}")
    path = (ROOT if name == STACK else BENTOS / name) / "bentofile.yaml"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise CiError(f"{_short(path)}: {' '.join(str(error).split())}") from error
    for fault in faults(data):
        raise CiError(f"{_short(path)}: {fault}")
    return Spec(name, path, data)


def faults(data: object) -> Iterator[str]:
    """Yield a line for each thing that is wrong with a bentofile."""
    try:
        _Bentofile.model_validate(data)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            where = ".".join(map(str, fault["loc"]))
            said = fault["msg"].removeprefix("Value error, ")
            yield f"{where}: {said}" if where else said


def read_lock(path: Path) -> dict[str, str]:
    """Return what a lock installs: the version of each package."""
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        if not _PINNED.fullmatch(text):
            raise CiError(f"{_short(path)}:{number}: {text!r} is not name==version; `nox -s lock`")
        name, _, version = text.partition(";")[0].strip().partition("==")
        if name in found:
            raise CiError(f"{_short(path)}:{number}: {name} is there twice; `nox -s lock`")
        found[name] = version
    return found


def is_secret(name: str, value: str) -> bool:
    """Tell whether a variable looks like a secret, by its name or by its value."""
    return bool(_SECRET.search(name) or _SECRET_VALUE.search(value))


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
