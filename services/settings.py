"""Settings: one documented tree, from the environment, `.env`, a profile and defaults.

`python -m services.settings` prints what is in force and where each value came from. A variable is
the path of its key in capitals with two underscores between the parts: `chat.model` is
`BENTOVOX_CHAT__MODEL`. Lists and tables are JSON. An unknown `BENTOVOX_…` variable is an error
that names the nearest one that exists.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from services.admission import Limits
from services.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PREFIX = "BENTOVOX_"
_PROFILES = Path(__file__).with_name("profiles.toml")
_MIB = 1 << 20


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RoleSettings(_Section):
    """What every role has: how much it takes on at once."""

    slots: int = Field(16, ge=1, description="Requests at work at the same time.")
    queue: int = Field(32, ge=0, description="Requests that may wait for a slot; past them 429.")
    deadline_s: float = Field(30, gt=0, description="Longest wait for a slot, seconds; then 429.")
    body_limit_mib: float = Field(8, gt=0, description="Largest request body, MiB; above it 413.")

    @property
    def limits(self) -> Limits:
        """Return the admission limits."""
        return Limits(self.slots, self.queue, self.deadline_s)

    @property
    def body_limit_bytes(self) -> int:
        """Return the largest request body in bytes."""
        return int(self.body_limit_mib * _MIB)


class ChatSettings(RoleSettings):
    """The chat role: vLLM's OpenAI server, mounted in process."""

    model: str = Field(
        "bentovox-demo",
        description="A model directory, a Hugging Face id, or `bentovox-demo`, which is shipped.",
    )
    served_model_name: str = Field(
        "", description="The name clients ask for; empty: the id, or a directory's own name."
    )
    revision: str = Field("", description="Commit or tag of a Hugging Face model; empty: main.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where vLLM computes; auto takes a GPU when there is one."
    )
    dtype: str = Field("auto", description="vLLM's --dtype.")
    max_model_len: int = Field(0, ge=0, description="Longest context, tokens; 0: the model's own.")
    kv_cache_memory: str = Field(
        "", description="vLLM's --kv-cache-memory-bytes, such as 64M; empty: by its memory probe."
    )
    enforce_eager: bool = Field(
        default=False, description="Skip compilation and CUDA graphs: quick start, slower tokens."
    )
    tool_parser: str = Field(
        "", description="vLLM's --tool-call-parser, such as hermes; empty: no automatic tool calls."
    )
    reasoning_parser: str = Field(
        "", description="vLLM's --reasoning-parser, such as qwen3; empty: thoughts stay in text."
    )
    args: list[str] = Field(
        default_factory=list,
        description="Further arguments of `vllm serve`, as a JSON list; replaces the profile's.",
    )
    shutdown_s: int = Field(20, ge=0, description="Seconds that running answers get at SIGTERM.")


class SpeechSettings(RoleSettings):
    """The speech role."""

    engine: str = Field("espeak", description="The engine: espeak (embedded, no download, no GPU).")
    models: list[str] = Field(
        ["tts-1", "tts-1-hd", "gpt-4o-mini-tts"],
        description="Model names it answers to, as a JSON list, beside the engine's own.",
    )
    voices: dict[str, str] = Field(
        default_factory=dict,
        description="OpenAI's or your own voice names and the engine's voice each stands for.",
    )


class GatewaySettings(RoleSettings):
    """The gateway: the one front door."""

    slots: int = Field(512, ge=1, description="Requests at work at the same time.")
    queue: int = Field(512, ge=0, description="Requests that may wait for a slot; past them 429.")
    body_limit_mib: float = Field(
        32, gt=0, description="Largest request body or upload, MiB; above it 413."
    )
    chat: list[str] = Field(
        default_factory=list, description="URLs of chat backends; empty: beside it, in one stack."
    )
    speech: list[str] = Field(
        default_factory=list, description="URLs of speech backends; empty: beside it, in one stack."
    )
    keys: SecretStr = Field(
        SecretStr(""),
        description="API keys as `name:sha256-hash`, comma-separated; made by "
        "`python -m services.gateway.keys`. Empty here and in keys_file: open to all.",
    )
    keys_file: str = Field("", description="A file of such keys, one a line; # begins a comment.")
    cors_origins: list[str] = Field(
        default_factory=list, description="Origins that browsers may call from; `*` allows all."
    )
    connect_timeout_s: float = Field(5, gt=0, description="Longest wait to reach a backend.")
    answer_timeout_s: float = Field(
        600, gt=0, description="Longest wait for a backend's first byte; then 504."
    )
    probe_interval_s: float = Field(1, gt=0, description="Seconds between backend probes.")


class LogSettings(_Section):
    """Logging."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level.")
    access: bool = Field(default=True, description="One line a request.")


class Settings(BaseSettings):
    """All settings of all roles."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",  # what is unknown is refused by name in `load`, with the nearest key
        frozen=True,
    )

    profile: str = Field("demo", description="A profile of services/profiles.toml.")
    chat: ChatSettings = ChatSettings()
    speech: SpeechSettings = SpeechSettings()
    gateway: GatewaySettings = GatewaySettings()
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
        return env_settings, dotenv_settings, _ProfileSource(settings_cls)


class _ProfileSource(PydanticBaseSettingsSource):
    """The values of the chosen profile."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the base class wants it; __call__ gives all at once

    def __call__(self) -> dict[str, Any]:
        name = self.current_state.get("profile", "demo")
        return {key: value for key, value in profile(str(name)).items() if key != "description"}


def profiles() -> dict[str, dict[str, Any]]:
    """Return every profile by name."""
    return tomllib.loads(_PROFILES.read_text(encoding="utf-8"))


def profile(name: str) -> dict[str, Any]:
    """Return one profile's values as a tree.

    Raises:
        ConfigurationError: there is none of that name.
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
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Section):
            yield from leaves(field.annotation, key)
        else:
            yield key, field


def variable(key: str) -> str:
    """Return the environment variable of a dotted key."""
    return PREFIX + key.upper().replace(".", "__")


def load() -> Settings:
    """Return the settings in force.

    Raises:
        ConfigurationError: an unknown key or profile, or a value that does not fit; the message
            is one line and names the fix.
    """
    for source, given in _given().items():
        for name, value in given.items():
            _check(name, value, source)
    try:
        return Settings()
    except ValidationError as exc:
        fault = exc.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])  # with the index in a list
        key = next((key for key, _ in leaves() if f"{place}.".startswith(f"{key}.")), place)
        raise ConfigurationError(f"{variable(key)}: {fault['msg']}.") from exc


@cache
def settings() -> Settings:
    """Return the settings of this process, read once."""
    return load()


def provenance(key: str) -> str:
    """Return where the value of a dotted key comes from: a variable, `.env`, a profile, default."""
    name = variable(key)
    for source, given in _given().items():
        if any(other == name or other.startswith(name + "__") for other in given):
            return f"{source} {name}"
    node: Any = profile(settings().profile)
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return "default" if node is None else f"profile {settings().profile}"


def _given() -> dict[str, dict[str, str]]:
    """Return our variables of each source, in the order in which they win."""

    def ours(names: Mapping[str, str | None]) -> dict[str, str]:
        return {
            name.upper(): value or ""
            for name, value in names.items()
            if name.upper().startswith(PREFIX)
        }

    return {"environment": ours(os.environ), ".env": ours(dotenv_values(".env"))}


def _check(name: str, value: str, source: str) -> None:
    known = {variable(key): str(field.annotation) for key, field in leaves()}
    for known_name, annotation in known.items():
        if name == known_name:
            if annotation.startswith(("dict", "list")):
                _check_json(name, value)
            return
        if name.startswith(known_name + "__") and annotation.startswith("dict"):
            return
    raise ConfigurationError(
        f"{name} ({source}) is not a setting{_nearest(name, known)}; "
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


def table() -> list[dict[str, str]]:
    """Return every setting as key, variable, value, source and description; secrets masked."""
    rows = []
    for key, field in leaves():
        node: Any = settings()
        for part in key.split("."):
            node = getattr(node, part)
        if isinstance(node, SecretStr):
            node = "********" if node.get_secret_value() else ""
        rows.append(
            {
                "key": key,
                "variable": variable(key),
                "value": node if isinstance(node, str) else json.dumps(node, ensure_ascii=False),
                "source": provenance(key),
                "description": str(field.description),
            }
        )
    return rows


def main() -> int:
    """Print the settings in force."""
    parser = argparse.ArgumentParser(prog="python -m services.settings", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    as_json: bool = parser.parse_args().json
    try:
        rows = table()
    except ConfigurationError as error:
        print(f"bentovox: {error.message}", file=sys.stderr)  # noqa: T201
        return 2
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))  # noqa: T201
        return 0
    for row in rows:
        print(f"{row['variable']} = {row['value']}")  # noqa: T201
        print(f"    {row['description']}  ({row['source']})")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
