"""The one table of engines: found by name, and loaded only when asked for."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from services.errors import ConfigurationError


@dataclass(frozen=True)
class EngineEntry:
    """Where an engine is, and what it needs."""

    target: str  # module:Class
    extra: str  # ours, which installs its library
    libraries: tuple[str, ...] = ()  # imported only when it starts


ENGINES: Final[dict[str, dict[str, EngineEntry]]] = {
    "speech": {
        "cosyvoice": EngineEntry(
            "services.speech.engines.cosyvoice.engine:CosyVoiceEngine",
            "cosyvoice",
            ("torch", "transformers", "onnxruntime", "hyperpyyaml", "whisper", "wetext"),
        ),
        "espeak": EngineEntry("services.speech.engines.espeak.engine:EspeakEngine", "espeak"),
        "kokoro": EngineEntry(
            "services.speech.engines.kokoro.engine:KokoroEngine",
            "kokoro",
            ("huggingface_hub", "inflect", "misaki", "onnxruntime"),
        ),
        "vllm_omni": EngineEntry(
            "services.speech.engines.vllm_omni.engine:VllmOmniEngine", "speech"
        ),
    },
    "transcription": {
        "faster_whisper": EngineEntry(
            "services.transcription.engines.faster_whisper.engine:FasterWhisperEngine",
            "faster-whisper",
            ("faster_whisper", "ctranslate2", "onnxruntime"),
        ),
        "pocketsphinx": EngineEntry(
            "services.transcription.engines.pocketsphinx:PocketsphinxEngine",
            "pocketsphinx",
            ("pocketsphinx", "faster_whisper", "ctranslate2", "onnxruntime"),
        ),
    },
}
"""The engines of each role, by the name that its setting `engine` has."""


def create(role: str, name: str, **options: Any) -> Any:
    """Return a new engine of `role`, not started; `options` go to its constructor.

    It is a `SpeechEngine` or a `TranscriptionEngine`. ConfigurationError if there is no such
    engine, or its library is not installed; the message says what to set or install.
    """
    engines = ENGINES[role]
    entry = engines.get(name)
    if entry is None:
        raise ConfigurationError(
            f"{role} engine {name!r} is unknown; choose one of {', '.join(sorted(engines))}"
        )
    try:
        for library in entry.libraries:
            if find_spec(library) is None:
                raise ImportError(f"No module named {library!r}", name=library)  # noqa: TRY301
        return pkgutil.resolve_name(entry.target)(**options)
    except ImportError as error:
        if (error.name or "").startswith("services"):
            raise  # ours, not a missing library
        raise ConfigurationError(
            f"{role} engine {name!r} needs {error.name or error}: "
            f"pip install 'bentovox[{entry.extra}]'"
        ) from error
