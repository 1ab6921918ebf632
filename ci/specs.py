"""`bentofile.yaml`: what a bento is, read and checked before anything is made of it.

BentoML writes some of a bentofile's values into a Dockerfile as they are (CVE-2026-24123 and later
ones), so a bentofile is read here as data: unknown keys, values that could carry a second
instruction, secrets and floating versions are refused, each by its key.

What BentoML has no key for stands in `labels`, all of them text:

    bentovox.platforms   the platforms that it is built for, the first is the bentofile's own
    bentovox.base        which stage of bentos/bases/Dockerfile it stands on
    bentovox.budget-mib  what the image may add to its base, compressed, in MiB

The last two may differ by platform: `bentovox.base.cpu` wins over `bentovox.base` there.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Final

import yaml

from ci.errors import CiError
from ci.paths import BENTOS, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STACK: Final = "stack"
LABEL: Final = "bentovox."

_KEYS: Final[dict[str, type]] = {
    "service": str,
    "name": str,
    "description": str,
    "labels": dict,
    "include": list,
    "exclude": list,
    "envs": list,
    "docker": dict,
    "python": dict,
}
_DOCKER: Final[dict[str, type]] = {"base_image": str, "python_version": str, "setup_script": str}
_PYTHON: Final[dict[str, type]] = {"requirements_txt": str, "lock_packages": bool}
_BASE: Final = f"{LABEL}base"
_BUDGET: Final = f"{LABEL}budget-mib"
_PLATFORMS: Final = f"{LABEL}platforms"
_WORDS: Final = {str: "text", dict: "a table", list: "a list", bool: "true or false"}
_SERVICE: Final = re.compile(r"services(\.\w+)+:[A-Z]\w*")
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_IMAGE: Final = re.compile(r"[a-z0-9][a-z0-9._/:-]*(@sha256:[0-9a-f]{64})?")
_VERSION: Final = re.compile(r"3\.\d{1,2}")
_PATH: Final = re.compile(r"[\w./*-]+")
_LABEL_NAME: Final = re.compile(r"[a-z][a-z0-9._-]*")
_PLATFORM_NAMES: Final = re.compile(r"[a-z0-9]+( [a-z0-9]+)*")
_FLOATING: Final = re.compile(r"(.*/)?[^/:@]+(:latest)?")
_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_VALUE: Final = re.compile(r"[\w ./:,@=+-]*")
_SECRET: Final = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|PRIVATE|(^|_)KEYS?(_|$)")
_SECRET_VALUE: Final = re.compile(
    r"\b(hf_\w{8,}|sk-[\w-]{8,}|gh[pousr]_\w{8,}|github_pat_\w{8,}|AKIA[A-Z0-9]{12,})|://[^/]*:[^/]*@"
)
_PINNED: Final = re.compile(r"[a-z0-9][a-z0-9._-]*==[A-Za-z0-9.!+_-]+( ?;.*)?")


@dataclasses.dataclass(frozen=True)
class Spec:
    """One bento as its bentofile says it, checked.

    `bento` is BentoML's name for it, `platforms` are those it is built for, `lock` is the path of
    the first platform's lock, `data` is the bentofile.
    """

    name: str
    bento: str
    path: Path
    service: str
    platforms: tuple[str, ...]
    lock: str
    data: dict[str, Any]

    def base(self, platform: str) -> str:
        """Return which stage of bentos/bases/Dockerfile it stands on there."""
        return self._label(_BASE, platform)

    def budget_mib(self, platform: str) -> int:
        """Return what its image may add to its base there, compressed, in MiB."""
        return int(self._label(_BUDGET, platform))

    def _label(self, key: str, platform: str) -> str:
        labels: dict[str, str] = self.data["labels"]
        return labels.get(f"{key}.{platform}", labels[key])

    def lock_path(self, platform: str) -> Path:
        """Return where the lock of a platform is, or will be: the platform's name is in it."""
        return ROOT / self.lock.replace(f".{self.platforms[0]}.", f".{platform}.")

    def lock_for(self, platform: str) -> Path:
        """Return the lock of a platform.

        Raises:
            CiError: the bento is not built for that platform, or was not locked for it.
        """
        if platform not in self.platforms:
            known = ", ".join(self.platforms)
            raise CiError(f"{self.name} is not built for {platform}; its platforms are {known}")
        path = self.lock_path(platform)
        if not path.is_file():
            raise CiError(
                f"{self.name} has no lock for {platform}: {_short(path)} is missing; "
                f"make it with `nox -s lock`"
            )
        return path

    def requirements(self, platform: str) -> dict[str, str]:
        """Return what the lock of a platform installs: each name with its one version.

        Raises:
            CiError: there is no lock, a line is not `name==version`, or a name comes twice.
        """
        return read_lock(self.lock_for(platform))


def names() -> list[str]:
    """Return the names of all bentos: the folders of bentos/ with a bentofile, and the stack."""
    return [*sorted(path.parent.name for path in BENTOS.glob("*/bentofile.yaml")), STACK]


def path_of(name: str) -> Path:
    """Return where a bento's bentofile is.

    Raises:
        CiError: there is no bento of that name.
    """
    if name not in names():
        raise CiError(f"there is no bento {name!r}; there are {', '.join(names())}")
    return ROOT / "bentofile.yaml" if name == STACK else BENTOS / name / "bentofile.yaml"


def load(name: str, path: Path | None = None) -> Spec:
    """Return a bento's spec.

    Raises:
        CiError: it is not what a bentofile may be; the message names the first key at fault.
    """
    path = path or path_of(name)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise CiError(f"{_short(path)}: {' '.join(str(error).split())}") from error
    for fault in faults(data):
        raise CiError(f"{_short(path)}: {fault}")
    return Spec(
        name=name,
        bento=data["name"],
        path=path,
        service=data["service"],
        platforms=tuple(data["labels"][_PLATFORMS].split()),
        lock=data["python"]["requirements_txt"],
        data=data,
    )


def faults(data: Any) -> Iterator[str]:
    """Yield what is wrong with a bentofile, a line each; nothing if it may be built."""
    if not isinstance(data, dict):
        yield "is no table of keys"
        return
    wrong = [*_typed("", data, _KEYS, optional={"exclude", "envs"})]
    for key, table in (("docker", _DOCKER), ("python", _PYTHON)):
        if isinstance(data.get(key), dict):
            wrong += _typed(f"{key}.", data[key], table, optional={"setup_script"})
    if wrong:
        yield from wrong
        return
    yield from _matching("service", data["service"], _SERVICE, "services.ROLE.service:Name")
    yield from _matching("name", data["name"], _NAME, "lower-case letters, digits and dashes")
    if "\n" in data["description"].strip():
        yield "description: is more than one line"
    yield from _docker(data["docker"])
    yield from _python(data["python"])
    for key in ("include", "exclude"):
        for entry in data.get(key, []):
            yield from _matching(key, entry, _PATH, "paths and wildcards")
    yield from _labels(data["labels"])
    yield from _lock_name(data["python"]["requirements_txt"], data["labels"])
    for entry in data.get("envs", []):
        yield from _environment(entry)


def _docker(docker: dict[str, Any]) -> Iterator[str]:
    yield from _matching("docker.base_image", docker["base_image"], _IMAGE, "an image's reference")
    if _FLOATING.fullmatch(docker["base_image"]):
        yield f"docker.base_image: {docker['base_image']!r} floats; name a tag that does not"
    yield from _matching("docker.python_version", docker["python_version"], _VERSION, "like 3.12")
    yield from _matching("docker.setup_script", docker.get("setup_script", "x"), _PATH, "a path")


def _python(python: dict[str, Any]) -> Iterator[str]:
    yield from _matching("python.requirements_txt", python["requirements_txt"], _PATH, "a path")
    if python["lock_packages"]:
        yield "python.lock_packages: must be false; what `nox -s lock` locked is what is built"


def _lock_name(lock: str, labels: dict[Any, Any]) -> Iterator[str]:
    platform, *_ = [*str(labels.get(_PLATFORMS, "")).split(), ""]
    if platform and lock.count(f".{platform}.") != 1:
        yield (
            f"python.requirements_txt: {lock!r} has no .{platform}. in its name, so that "
            "other platforms' locks cannot be found"
        )


def read_lock(path: Path) -> dict[str, str]:
    """Return what a lock installs: each name with its one version.

    Raises:
        CiError: a line is not `name==version`, or a name comes twice.
    """
    return read_lock_text(path.read_text(encoding="utf-8"), path)


def read_lock_text(content: str, path: Path) -> dict[str, str]:
    """Return what a lock's content installs; see `read_lock`."""
    found: dict[str, str] = {}
    for number, line in enumerate(content.splitlines(), 1):
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


def _typed(
    where: str, data: dict[Any, Any], table: dict[str, type], optional: set[str]
) -> Iterator[str]:
    for key, value in data.items():
        if key not in table:
            yield f"{where}{key}: is no key that is known here; there are {', '.join(table)}"
        elif not isinstance(value, table[key]):
            yield f"{where}{key}: {value!r} is not {_WORDS[table[key]]}"
    for key in table:
        if key not in data and key not in optional:
            yield f"{where}{key}: is missing"


def _matching(key: str, value: object, pattern: re.Pattern[str], wanted: str) -> Iterator[str]:
    if not isinstance(value, str) or not pattern.fullmatch(value) or ".." in value.split("/"):
        yield f"{key}: {value!r} is not {wanted}"


def _labels(labels: dict[Any, Any]) -> Iterator[str]:
    for key, value in labels.items():
        if not isinstance(value, str):
            yield f"labels.{key}: {value!r} is not text; put it in quotes"
            return
        yield from _matching("labels", key, _LABEL_NAME, "a label's name")
        yield from _matching(f"labels.{key}", value, _VALUE, "plain text")
        if str(key).startswith(_BUDGET) and not value.isdecimal():
            yield f"labels.{key}: {value!r} is no number of MiB"
    for key in (_PLATFORMS, _BASE, _BUDGET):
        if key not in labels:
            yield f"labels.{key}: is missing"
    platforms = labels.get(_PLATFORMS, "cpu")
    yield from _matching(f"labels.{_PLATFORMS}", platforms, _PLATFORM_NAMES, "platforms' names")
    ends = ("", *(f".{platform}" for platform in platforms.split()))
    ours = {_PLATFORMS, *(f"{key}{end}" for key in (_BASE, _BUDGET) for end in ends)}
    for key in labels:
        if str(key).startswith(LABEL) and key not in ours:
            yield f"labels.{key}: is no label of ours; there are {', '.join(sorted(ours))}"


def _environment(entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict) or not {"name", "value"} <= entry.keys() <= {"name", "value"}:
        yield f"envs: {entry!r} is not a name and a value"
        return
    name, value = entry["name"], entry["value"]
    yield from _matching("envs", name, _VARIABLE, "a variable's name")
    yield from _matching(f"envs.{name}", value, _VALUE, "plain text")
    if is_secret(str(name), str(value)):
        yield (
            f"envs.{name}: looks like a secret, and whoever has an image can read its environment; "
            "hand it over when the container starts, as a file"
        )


def is_secret(name: str, value: str) -> bool:
    """Tell whether a variable looks like a secret, by its name or by its value."""
    return bool(_SECRET.search(name) or _SECRET_VALUE.search(value))


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
