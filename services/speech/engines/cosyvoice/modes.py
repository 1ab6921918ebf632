"""What each of upstream's modes gives the two models beside the text.

They are those of upstream's frontend: preset speaker, zero-shot, cross-lingual, instructions for a
preset (family 1) or a recording (2 and 3), conversion. The request decides which.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch

from services.speech.engines.cosyvoice import features
from services.speech.engines.cosyvoice.text import (
    cleaned,
    guess_language,
    instruction,
    normalise,
    prompt_text,
)
from services.speech.engines.protocol import Capability

if TYPE_CHECKING:
    from services.speech.engines.cosyvoice.checkpoint import Checkpoint
    from services.speech.engines.cosyvoice.text import Language
    from services.speech.engines.protocol import ConversionRequest, SynthesisRequest

_ALWAYS: Final = {
    Capability.LANGUAGE,
    Capability.SEED,
}
_CLONES: Final = {Capability.REFERENCE, Capability.CONVERSION}
_NO_TOKENS: Final = torch.zeros(1, 0, dtype=torch.int32)


def capabilities(family: int, model: str) -> frozenset[Capability]:
    """Return what a model can do; family 1's three checkpoints are told apart by their names."""
    can = set(_ALWAYS)
    name = model.lower()
    if family > 1:
        can |= {*_CLONES, Capability.INSTRUCTIONS}
    elif "instruct" in name:
        can.add(Capability.INSTRUCTIONS)
    elif "sft" not in name:
        can |= _CLONES
    return frozenset(can)


@dataclass(frozen=True)
class Prompt:
    """What the two models are given beside a text's tokens, in upstream's terms.

    Attributes:
        flow_embedding: the speaker as the flow hears it, float32 [1, 192].
        text: of the prompt or the instruction, int32 [1, T].
        lm_speech: speech tokens that the language model continues, int32 [1, T].
        lm_embedding: the speaker as the language model hears it, float32 [1, 192] or [0, 192].
        flow_speech: speech tokens that the flow continues.
        flow_mel: their mel, float32 [1, M, 80].
    """

    flow_embedding: torch.Tensor
    text: torch.Tensor = _NO_TOKENS
    lm_speech: torch.Tensor = _NO_TOKENS
    lm_embedding: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 192))
    flow_speech: torch.Tensor = _NO_TOKENS
    flow_mel: torch.Tensor = field(default_factory=lambda: torch.zeros(1, 0, 80))


def prompt(checkpoint: Checkpoint, request: SynthesisRequest, language: Language | None) -> Prompt:
    """Return what goes with the text of a request."""
    told = None
    if request.instructions:
        wanted = instruction(checkpoint.family, cleaned(request.instructions).strip())
        told = _encoded(checkpoint, wanted)
    if request.reference is None:
        return _preset(checkpoint.speakers[request.voice or ""], told)
    heard = features.of(checkpoint, request.reference)
    flow = {
        "flow_speech": heard.tokens,
        "flow_mel": heard.mel,
        "flow_embedding": heard.embedding,
        "lm_embedding": heard.embedding,
    }
    if told is not None:
        return Prompt(text=told, **flow)
    if request.reference.text is None:
        return Prompt(**flow)
    transcript = normalise(
        request.reference.text, language or guess_language(request.reference.text)
    )
    said = _encoded(checkpoint, prompt_text(checkpoint.family, transcript))
    return Prompt(text=said, lm_speech=heard.tokens, **flow)


def conversion(checkpoint: Checkpoint, request: ConversionRequest) -> tuple[Prompt, list[int]]:
    """Return what goes with the speech tokens of a recording, and those tokens."""
    heard = features.of(checkpoint, request.reference)
    said = features.source_tokens(checkpoint, request.samples, request.sample_rate_hz)
    return Prompt(heard.embedding, flow_speech=heard.tokens, flow_mel=heard.mel), said


def _preset(speaker: dict[str, torch.Tensor], told: torch.Tensor | None) -> Prompt:
    if "embedding" not in speaker:  # one that was registered with upstream's add_zero_shot_spk
        return Prompt(
            text=speaker["prompt_text"] if told is None else told,
            lm_speech=speaker["llm_prompt_speech_token"][:, : 0 if told is not None else None],
            lm_embedding=speaker["llm_embedding"],
            flow_speech=speaker["flow_prompt_speech_token"],
            flow_mel=speaker["prompt_speech_feat"],
            flow_embedding=speaker["flow_embedding"],
        )
    embedding = speaker["embedding"]
    if told is None:
        return Prompt(lm_embedding=embedding, flow_embedding=embedding)
    # The embedding would tell the language model how to speak, against the instruction.
    return Prompt(text=told, flow_embedding=embedding)


def _encoded(checkpoint: Checkpoint, text: str) -> torch.Tensor:
    return torch.tensor([checkpoint.encode(text)], dtype=torch.int32)


def is_cross_lingual(request: SynthesisRequest) -> bool:
    """Return whether segments carry the family's mark: there is no prompt text to carry it."""
    reference = request.reference
    return reference is not None and reference.text is None and not request.instructions
