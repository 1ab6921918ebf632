"""Finds and creates an engine by its name, for the roles' registries."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from services.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class EngineEntry:
    """Where an engine is, and what it needs.

    Attributes:
        target: `module:Class`.
        extra: our extra that installs its library; None if none is needed.
        libraries: packages that it imports only when it starts.
    """

    target: str
    extra: str | None
    libraries: tuple[str, ...] = ()


def create(
    role: str, engines: Mapping[str, EngineEntry], name: str, options: Mapping[str, Any]
) -> Any:
    """Return a new engine of `role`; `options` go to its constructor.

    Raises:
        ConfigurationError: there is no such engine, or its library is not installed; the message
            says what to set or install.
    """
    entry = engines.get(name)
    if entry is None:
        raise ConfigurationError(
            f"{role} engine {name!r} is unknown; choose one of {', '.join(sorted(engines))}",
            param="engine",
        )
    module, _, class_name = entry.target.partition(":")
    try:
        for library in entry.libraries:
            if find_spec(library) is None:
                raise ImportError(f"No module named {library!r}", name=library)  # noqa: TRY301
        return getattr(importlib.import_module(module), class_name)(**options)
    except ImportError as error:
        if entry.extra is None or (error.name or "").startswith("services"):
            raise  # ours, not a missing library
        raise ConfigurationError(
            f"{role} engine {name!r} needs {error.name or error}: "
            f"pip install 'bentovox[{entry.extra}]'",
            param="engine",
        ) from error
