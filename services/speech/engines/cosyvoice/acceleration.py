"""What speeds CosyVoice up on a GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Acceleration:
    """What speeds inference up on a GPU; everything is off unless asked for.

    Attributes:
        fp16: half precision where upstream has it: half the memory, slightly other audio.
        tensorrt: run the flow's estimator in TensorRT; its plan is built for this GPU at the first
            start (minutes) and needs the model directory to be writable.
        tensorrt_contexts: requests that may be in it at once; each takes GPU memory.
        vllm: generate tokens with vLLM; drops repetition-aware sampling and the seed, and takes a
            fifth of the GPU's memory (upstream issues 1355, 1601, 1316: artefacts).
    """

    fp16: bool = False
    tensorrt: bool = False
    tensorrt_contexts: int = 1
    vllm: bool = False

    @property
    def names(self) -> str:
        """Return what is switched on, for a log line."""
        switched = {"fp16": self.fp16, "TensorRT": self.tensorrt, "vLLM": self.vllm}
        return ", ".join(name for name, on in switched.items() if on) or "none"
