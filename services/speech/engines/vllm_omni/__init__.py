"""Fun-CosyVoice3 through a vLLM-Omni server: `VllmOmniEngine`."""

from services.speech.engines.vllm_omni.engine import VllmOmniEngine

__all__ = ["VllmOmniEngine"]
