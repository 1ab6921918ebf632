"""The one table of speech engines, loaded by name and only when asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from services.errors import ConfigurationError

if TYPE_CHECKING:
    from services.speech.engines.protocol import SpeechEngine


@dataclass(frozen=True)
class EngineEntry:
    """Where an engine is and what installs its library.

    Attributes:
        target: `module:Class`.
        extra: the extra of this distribution that brings the library; None when none is needed.
    """

    target: str
    extra: str | None


ENGINES: Final[dict[str, EngineEntry]] = {
    "cosyvoice": EngineEntry(
        "services.speech.engines.cosyvoice.engine:CosyVoiceEngine", "cosyvoice"
    ),
    "espeak": EngineEntry("services.speech.engines.espeak:EspeakEngine", "espeak"),
    "fake": EngineEntry("services.speech.engines.fake:FakeEngine", None),
    "vllm_omni": EngineEntry("services.speech.engines.vllm_omni:VllmOmniEngine", "speech"),
}


def create_engine(name: str, **options: Any) -> SpeechEngine:
    """Return a new engine, not started; `options` go to its constructor.

    Every engine takes `voices`, a mapping of further voice names to its own voices.

    Raises:
        ConfigurationError: no such engine, or its library is not installed; the message says what
            to write or to install.
    """
    entry = ENGINES.get(name)
    if entry is None:
        raise ConfigurationError(
            f"speech engine {name!r} is unknown; choose one of {', '.join(sorted(ENGINES))}",
            param="engine",
        )
    module, _, class_name = entry.target.partition(":")
    try:
        engine: SpeechEngine = getattr(importlib.import_module(module), class_name)(**options)
    except ImportError as error:
        if entry.extra is None or (error.name or "").startswith("services"):
            raise  # ours, not a missing library
        raise ConfigurationError(
            f"speech engine {name!r} needs {error.name or error}: "
            f"pip install 'bentovox[{entry.extra}]'",
            param="engine",
        ) from error
    return engine
