"""The one table of transcription engines, loaded by name and only when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from services.engines import EngineEntry, create

if TYPE_CHECKING:
    from services.transcription.engines.protocol import TranscriptionEngine

ENGINES: Final[dict[str, EngineEntry]] = {
    "faster_whisper": EngineEntry(
        "services.transcription.engines.faster_whisper.engine:FasterWhisperEngine",
        "faster-whisper",
        ("faster_whisper", "ctranslate2", "onnxruntime"),
    ),
}


def create_engine(name: str, **options: Any) -> TranscriptionEngine:
    """Return a new engine, not started; `options` go to its constructor.

    Raises:
        ConfigurationError: no such engine, or its library is not installed; the message says what
            to write or to install.
    """
    engine: TranscriptionEngine = create("transcription", ENGINES, name, options)
    return engine
