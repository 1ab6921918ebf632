"""The one table of speech engines, loaded by name and only when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from services.engines import EngineEntry, create

if TYPE_CHECKING:
    from services.speech.engines.protocol import SpeechEngine

ENGINES: Final[dict[str, EngineEntry]] = {
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
    "vllm_omni": EngineEntry("services.speech.engines.vllm_omni.engine:VllmOmniEngine", "speech"),
}


def create_engine(name: str, **options: Any) -> SpeechEngine:
    """Return a new engine, not started; `options` go to its constructor.

    Every engine takes `voices`, a mapping of further voice names to its own voices.

    Raises:
        ConfigurationError: no such engine, or its library is not installed; the message says what
            to write or to install.
    """
    engine: SpeechEngine = create("speech", ENGINES, name, options)
    return engine
