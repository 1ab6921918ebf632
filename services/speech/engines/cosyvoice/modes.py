"""What each of upstream's modes gives the two models beside the text.

They are those of upstream's frontend: preset speaker, zero-shot, cross-lingual, instructions for a
preset (family 1) and for a recording (2 and 3). Which one it is follows from the request.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Final

import torch

from services.speech.engines.cosyvoice import features, prompts
from services.speech.engines.cosyvoice.prompt import Prompt
from services.speech.engines.cosyvoice.text import cleaned, guess_language, normalise
from services.speech.engines.protocol import Capability

if TYPE_CHECKING:
    from services.speech.engines.cosyvoice.checkpoint import Checkpoint
    from services.speech.engines.cosyvoice.features import Features
    from services.speech.engines.cosyvoice.text import Language, Rules
    from services.speech.engines.protocol import SynthesisRequest, VoiceReference

_REMEMBERED: Final = 64  # voices, about half a megabyte each

_ALWAYS: Final = {Capability.LANGUAGE, Capability.SPEED, Capability.STREAMING_TEXT}
_CLONES: Final = {Capability.REFERENCE, Capability.CONVERSION}


def capabilities(family: int, model: str, *, seeded: bool) -> frozenset[Capability]:
    """Return what a model can do; family 1's three checkpoints are told apart by their names."""
    can = set(_ALWAYS)
    if seeded:
        can.add(Capability.SEED)
    name = model.lower()
    if family > 1:
        can |= {*_CLONES, Capability.INSTRUCTIONS}
    elif "instruct" in name:
        can.add(Capability.INSTRUCTIONS)
    elif "sft" not in name:
        can |= _CLONES
    return frozenset(can)


class Voices:
    """The features of recordings: in memory, in the voice's folder, or computed."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._known: OrderedDict[str, Features] = OrderedDict()
        self._guard = Lock()

    def features(self, reference: VoiceReference) -> Features:
        """Return a recording's features; a registered voice's are computed once and kept.

        Raises:
            InvalidRequestError: the recording does not suit the encoders.
        """
        if reference.id is None:
            return features.compute(self._checkpoint, reference)
        with self._guard:
            known = self._known.get(reference.id)
            if known is not None:
                self._known.move_to_end(reference.id)
                return known
        path = None
        if reference.features is not None:
            path = reference.features / f"cosyvoice-{self._checkpoint.fingerprint}.safetensors"
        found = features.read(path, self._checkpoint.device) if path else None
        if found is None:
            found = features.compute(self._checkpoint, reference)
            if path is not None:
                features.save(found, path)
        with self._guard:
            self._known[reference.id] = found
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return found

    def forget(self, voice_id: str) -> None:
        """Drop a voice's features from memory."""
        with self._guard:
            self._known.pop(voice_id, None)


def prompt(
    checkpoint: Checkpoint,
    voices: Voices,
    request: SynthesisRequest,
    language: Language | None,
    rules: Rules,
) -> Prompt:
    """Return what goes with the text of a request; computes features where they are not known.

    Raises:
        InvalidRequestError: as `Voices.features`.
    """
    instruction = None
    if request.instructions:
        wanted = prompts.instruction(checkpoint.family, cleaned(request.instructions).strip())
        instruction = _encoded(checkpoint, wanted)
    if request.reference is None:
        return _preset(checkpoint.speakers[request.voice or ""], instruction)
    heard = voices.features(request.reference)
    flow = {
        "flow_speech": heard.tokens,
        "flow_mel": heard.mel,
        "flow_embedding": heard.embedding,
        "lm_embedding": heard.embedding,
    }
    if instruction is not None:
        return Prompt(text=instruction, **flow)
    if request.reference.text is None:
        return Prompt(**flow)
    transcript = normalise(
        request.reference.text, language or guess_language(request.reference.text), rules
    )
    said = _encoded(checkpoint, prompts.prompt_text(checkpoint.family, transcript))
    return Prompt(text=said, lm_speech=heard.tokens, **flow)


def _preset(speaker: dict[str, torch.Tensor], instruction: torch.Tensor | None) -> Prompt:
    if "embedding" not in speaker:  # one that was registered with upstream's add_zero_shot_spk
        return Prompt(
            text=speaker["prompt_text"] if instruction is None else instruction,
            lm_speech=speaker["llm_prompt_speech_token"][
                :, : 0 if instruction is not None else None
            ],
            lm_embedding=speaker["llm_embedding"],
            flow_speech=speaker["flow_prompt_speech_token"],
            flow_mel=speaker["prompt_speech_feat"],
            flow_embedding=speaker["flow_embedding"],
        )
    embedding = speaker["embedding"]
    if instruction is None:
        return Prompt(lm_embedding=embedding, flow_embedding=embedding)
    # The embedding would tell the language model how to speak, against the instruction.
    return Prompt(text=instruction, flow_embedding=embedding)


def _encoded(checkpoint: Checkpoint, text: str) -> torch.Tensor:
    return torch.tensor([checkpoint.encode(text)], dtype=torch.int32)


def is_cross_lingual(request: SynthesisRequest) -> bool:
    """Return whether a segment carries the family's mark: there is no prompt text to hold it."""
    reference = request.reference
    return reference is not None and reference.text is None and not request.instructions
