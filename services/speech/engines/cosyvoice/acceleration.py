"""What speeds CosyVoice up on a GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Acceleration:
    """What was switched on, as `CosyVoiceSettings` describes it; everything is off by default."""

    fp16: bool = False
    tensorrt: bool = False
    tensorrt_contexts: int = 1
    vllm: bool = False

    @property
    def names(self) -> str:
        """Return what is switched on, for a log line."""
        switched = {"fp16": self.fp16, "TensorRT": self.tensorrt, "vLLM": self.vllm}
        return ", ".join(name for name, on in switched.items() if on) or "none"
