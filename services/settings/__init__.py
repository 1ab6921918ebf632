"""Settings: one documented tree, from the environment, `.env`, a profile and defaults.

`python -m services.settings` prints the settings in force and where each value comes from. A
variable is its key in capitals, with two underscores between the parts: `chat.model` is
`BENTOVOX_CHAT__MODEL`. Lists and tables are JSON. An unknown `BENTOVOX_…` variable is an error that
names the nearest existing one. Some settings have another name too (`DOCUMENTED`).
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from dotenv import dotenv_values
from pydantic import BaseModel, Field, ValidationError

from services.errors import ConfigurationError
from services.settings.sections import (
    DOCUMENTED,
    ChatSettings,
    ConversationSettings,
    GatewaySettings,
    LogSettings,
    RaySettings,
    Section,
    SpeechSettings,
    TranscriptionSettings,
)

PREFIX = "BENTOVOX_"
_HERE = "environment"


class Settings(Section):
    """All settings of all roles."""

    profile: str = "demo"
    """A profile of services/settings/profiles.toml."""
    strict: bool = False
    """Refuse unknown fields, which are else ignored and named in x-ignored-fields."""
    hosts: list[str] = Field([])
    """Public names by which the server may be called where it asks for no key, as a JSON list; `*`
    allows all."""
    drain_s: float = Field(0, ge=0, le=20)
    """Seconds for which a server that is told to end serves on and says `draining` at /readyz, so
    that gateways and load balancers turn to others first."""
    chat: ChatSettings = ChatSettings()
    speech: SpeechSettings = SpeechSettings()
    transcription: TranscriptionSettings = TranscriptionSettings()
    conversation: ConversationSettings = ConversationSettings()
    gateway: GatewaySettings = GatewaySettings()
    ray: RaySettings = RaySettings()
    log: LogSettings = LogSettings()


def profiles() -> dict[str, dict[str, Any]]:
    """Return every profile by name."""
    return tomllib.loads(Path(__file__).with_name("profiles.toml").read_text(encoding="utf-8"))


def profile(name: str) -> dict[str, Any]:
    """Return one profile's values as a tree; ConfigurationError if there is no such profile."""
    known = profiles()
    if name not in known:
        raise ConfigurationError(
            f"BENTOVOX_PROFILE={name!r} is no profile{_nearest(name, [*known])}; "
            f"there are {', '.join(sorted(known))}."
        )
    return known[name]


def leaves(model: type[BaseModel] = Settings, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting as its dotted key and its pydantic field."""
    for name, field in model.model_fields.items():
        key = f"{path}.{name}" if path else name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from leaves(field.annotation, key)
        else:
            yield key, field


def variable(key: str) -> str:
    """Return the environment variable of a dotted key."""
    return PREFIX + key.upper().replace(".", "__")


def load() -> Settings:
    """Return the settings in force; ConfigurationError with one line that names the fix."""
    here = given()
    chosen = here.get(variable("profile"))
    tree: Any = {**profile(chosen.value if chosen else "demo")}
    del tree["description"]
    # One entry of a table counts more than the whole table from the same source.
    for name, one in sorted(here.items(), key=lambda item: (item[1].source == _HERE, item[0])):
        tree = over(tree, _branch(name, one))
    try:
        return Settings.model_validate(tree)
    except ValidationError as exc:
        fault = exc.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])  # includes the index in a list
        key = next((key for key, _ in leaves() if f"{place}.".startswith(f"{key}.")), place)
        name = variable(key)
        name = here[name].name if name in here else name
        raise ConfigurationError(f"{name}: {fault['msg']}.") from exc


@cache
def settings() -> Settings:
    """Return the settings of this process, read once."""
    return load()


class Given(NamedTuple):
    """A value, the name that it was given by, and where."""

    value: str
    name: str
    source: str


def given() -> dict[str, Given]:
    """Return what is set, by variable, whatever name it was given by; the environment wins.

    ConfigurationError if a source gives a setting two values, by two names.
    """
    return _ours(dotenv_values(".env"), ".env") | _ours(os.environ, _HERE)


def provenance(key: str) -> str:
    """Return where the value of a dotted key comes from: a variable, `.env`, a profile, default."""
    name = variable(key)
    for other, one in given().items():
        if other == name or other.startswith(name + "__"):
            return f"{one.source} {one.name if other == name else name}"
    node: Any = profile(settings().profile)
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return "default" if node is None else f"profile {settings().profile}"


def _ours(names: Mapping[str, str | None], source: str) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for given_name, value in names.items():
        name = given_name.upper()
        key = DOCUMENTED.get(name)
        if not (key or name.startswith(PREFIX)):
            continue
        one = Given(value or "", name, source)
        there = found.setdefault(variable(key) if key else name, one)
        if there.value != one.value:
            raise ConfigurationError(
                f"{there.name}={there.value} and {one.name}={one.value} are the same setting; "
                "leave one out."
            )
    return found


def _branch(name: str, one: Given) -> Any:
    """Return the tree of one variable: of a setting, or of one entry of a table."""
    known = {variable(key): (key, field.annotation) for key, field in leaves()}
    whole = next((k for k in known if name == k or name.startswith(f"{k}__")), "")
    key, kind = known.get(whole, ("", str))
    entry = name.removeprefix(whole).lower().split("__")[1:]
    if not key or (entry and get_origin(kind) is not dict):
        elsewhere = f"__{name.partition('__')[2]}"  # the same setting, of another role
        alike = [one for one in known if one.endswith(elsewhere)] or [*known]
        raise ConfigurationError(
            f"{name} ({one.source}) is not a setting{_nearest(name, alike)}; "
            "`python -m services.settings` lists them all."
        )
    value: Any = one.value
    if get_origin(kind) in {dict, list} and not (entry and get_args(kind)[1] is str):
        try:
            value = json.loads(value)
        except ValueError as exc:
            raise ConfigurationError(
                f'{name}={value!r} is not JSON; a list looks like ["a", "b"], '
                'a table like {"a": "b"}.'
            ) from exc
    for part in reversed([*key.split("."), *entry]):
        value = {part: value}
    return value


def over(below: Any, above: Any) -> Any:
    """Return `above`, and where both are tables, also what only `below` has."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {name: over(below.get(name), one) for name, one in above.items()}


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""
