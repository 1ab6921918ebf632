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
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dotenv import dotenv_values
from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

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

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PREFIX = "BENTOVOX_"
_PROFILES = Path(__file__).with_name("profiles.toml")
_MOVED = {
    "gateway.translation.slots": "conversation.slots",
    "gateway.translation.queue": "conversation.queue",
    "gateway.translation": "conversation.translation",
}
"""Former keys, or beginnings of keys, and their present ones; the first match counts."""


class Settings(BaseSettings):
    """All settings of all roles."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",  # `load` refuses unknown keys and names the nearest one
        frozen=True,
    )

    profile: str = Field("demo", description="A profile of services/settings/profiles.toml.")
    strict: bool = Field(
        default=False,
        description="Refuse unknown fields, which are else ignored and named in x-ignored-fields.",
    )
    hosts: list[str] = Field(
        default_factory=list,
        description="Public names by which the server may be called where it asks for no key, as a "
        "JSON list; `*` allows all.",
    )
    drain_s: float = Field(
        0,
        ge=0,
        le=20,
        description="Seconds for which a server that is told to end serves on and says `draining` "
        "at /readyz, so that gateways and load balancers turn to others first.",
    )
    chat: ChatSettings = ChatSettings()
    speech: SpeechSettings = SpeechSettings()
    transcription: TranscriptionSettings = TranscriptionSettings()
    conversation: ConversationSettings = ConversationSettings()
    gateway: GatewaySettings = GatewaySettings()
    ray: RaySettings = RaySettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: environment, `.env`, profile."""
        del init_settings, file_secret_settings
        for source in (env_settings, dotenv_settings):
            if isinstance(source, EnvSettingsSource):
                source.env_vars = {
                    name.lower(): one.value for name, one in _ours(source.env_vars).items()
                }
        return env_settings, dotenv_settings, _ProfileSource(settings_cls)


class _ProfileSource(PydanticBaseSettingsSource):
    """The values of the chosen profile."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the base class requires it; __call__ returns all at once

    def __call__(self) -> dict[str, Any]:
        name = self.current_state.get("profile", "demo")
        return {key: value for key, value in profile(str(name)).items() if key != "description"}


def profiles() -> dict[str, dict[str, Any]]:
    """Return every profile by name."""
    return tomllib.loads(_PROFILES.read_text(encoding="utf-8"))


def profile(name: str) -> dict[str, Any]:
    """Return one profile's values as a tree.

    Raises:
        ConfigurationError: there is no profile of that name.
    """
    known = profiles()
    if name not in known:
        raise ConfigurationError(
            f"BENTOVOX_PROFILE={name!r} is no profile{_nearest(name, known)}; "
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
    """Return the settings in force.

    Raises:
        ConfigurationError: an unknown key or profile, or an invalid value; the message is one line
            and names the fix.
    """
    for source, found in _given().items():
        for name, one in found.items():
            _check(name, one, source)
    try:
        return Settings()
    except ValidationError as exc:
        fault = exc.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])  # includes the index in a list
        key = next((key for key, _ in leaves() if f"{place}.".startswith(f"{key}.")), place)
        name = variable(key)
        name = given()[name].name if name in given() else name
        raise ConfigurationError(f"{name}: {fault['msg']}.") from exc


@cache
def settings() -> Settings:
    """Return the settings of this process, read once."""
    return load()


class Given(NamedTuple):
    """A value, and the name that it was given by."""

    name: str
    value: str


def given() -> dict[str, Given]:
    """Return what is set, by variable, whatever name it was given by."""
    by_source = reversed(_given().values())
    return {name: one for found in by_source for name, one in found.items()}


def provenance(key: str) -> str:
    """Return where the value of a dotted key comes from: a variable, `.env`, a profile, default."""
    name = variable(key)
    for source, found in _given().items():
        for other, one in found.items():
            if other == name or other.startswith(name + "__"):
                return f"{source} {one.name if other == name else name}"
    node: Any = profile(settings().profile)
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return "default" if node is None else f"profile {settings().profile}"


def _given() -> dict[str, dict[str, Given]]:
    """Return our variables from each source, by precedence.

    Raises:
        ConfigurationError: a source gives a setting two values, by two names.
    """
    return {"environment": _ours(os.environ), ".env": _ours(dotenv_values(".env"))}


def _ours(names: Mapping[str, str | None]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for given_name, value in names.items():
        name = given_name.upper()
        key = DOCUMENTED.get(name)
        if not (key or name.startswith(PREFIX)):
            continue
        one = Given(name, value or "")
        there = found.setdefault(variable(key) if key else name, one)
        if there.value != one.value:
            raise ConfigurationError(
                f"{there.name}={there.value} and {one.name}={one.value} are the same setting; "
                "leave one out."
            )
    return found


def _check(name: str, given_as: Given, source: str) -> None:
    known = {variable(key): str(field.annotation) for key, field in leaves()}
    for known_name, annotation in known.items():
        if name == known_name:
            if annotation.startswith(("dict", "list")):
                _check_json(name, given_as.value)
            return
        if name.startswith(known_name + "__") and annotation.startswith("dict"):
            return
    now = name
    for old, new in _MOVED.items():
        now = now.replace(variable(old), variable(new))
    raise ConfigurationError(
        f"{name} ({source}) is not a setting{_nearest(now, known)}; "
        "`python -m services.settings` lists them all."
    )


def _check_json(name: str, value: str) -> None:
    try:
        json.loads(value)
    except ValueError as exc:
        raise ConfigurationError(
            f'{name}={value!r} is not JSON; a list looks like ["a", "b"], '
            'a table like {"a": "b"}.'
        ) from exc


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""
