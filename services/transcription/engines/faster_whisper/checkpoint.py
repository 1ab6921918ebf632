"""One Whisper model on CTranslate2, with faster-whisper's own class and tokenizer.

Its methods may be called from any thread; CTranslate2 releases the GIL while it computes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.audio.pcm import Samples
from services.transcription.engines.protocol import Task

Features = NDArray[np.float32]
"""A log-Mel spectrogram, [mels, frames of 10 ms]."""

FRAMES_PER_S: Final = 100
MOST_FRAMES: Final = 3000
_MOST_TOKENS: Final = 448
_MOST_BEFORE: Final = _MOST_TOKENS // 2 - 1  # tokens of what came before, as in OpenAI's own code
_BEST_OF: Final = 5
_MOST_COMPRESSION: Final = 2.4
_LEAST_LOGPROB: Final = -1.0
_MOST_NO_SPEECH: Final = 0.6


@dataclass(frozen=True)
class Decoded:
    """What a window was decoded to at one temperature."""

    temperature: float  # of sampling
    tokens: Sequence[int]  # those of text and those of times
    text: str  # of the tokens, without spaces around it
    avg_logprob: float  # mean logarithm of the tokens' probability
    no_speech_prob: float  # probability that nobody spoke

    @property
    def compression_ratio(self) -> float:
        """How many times shorter the text is when compressed."""
        data = self.text.encode()
        return len(data) / len(zlib.compress(data))

    @property
    def repeats(self) -> bool:
        """Whether the text says the same thing again and again."""
        return self.compression_ratio > _MOST_COMPRESSION

    @property
    def is_unlikely(self) -> bool:
        """Whether the tokens are improbable."""
        return self.avg_logprob < _LEAST_LOGPROB

    @property
    def is_silence(self) -> bool:
        """Whether nobody spoke."""
        return self.no_speech_prob > _MOST_NO_SPEECH and self.is_unlikely


class Checkpoint:
    """A model in memory; `is_multilingual` if it hears more than English."""

    def __init__(self, folder: Path, *, device: str, compute_type: str, threads: int) -> None:
        """Load the model, which takes seconds."""
        from faster_whisper import WhisperModel  # noqa: PLC0415  heavy
        from faster_whisper.tokenizer import _LANGUAGE_CODES, Tokenizer  # noqa: PLC0415
        from faster_whisper.transcribe import get_suppressed_tokens  # noqa: PLC0415

        self.whisper = WhisperModel(
            str(folder), device=device, compute_type=compute_type, cpu_threads=threads
        )
        self.ct2 = self.whisper.model
        self.device: str = self.ct2.device
        self.is_multilingual: bool = self.ct2.is_multilingual
        words = self.whisper.hf_tokenizer
        self.languages: frozenset[str] = frozenset({"en"})
        if self.is_multilingual:
            self.languages = frozenset(
                code for code in _LANGUAGE_CODES if words.token_to_id(f"<|{code}|>") is not None
            )

        @cache
        def tokenizer(language: str, task: Task) -> Any:
            return Tokenizer(words, self.is_multilingual, task=task, language=language)

        self.tokenizer = tokenizer
        any_tokenizer = tokenizer(min(self.languages), "transcribe")
        self.end: int = any_tokenizer.eot  # the first token that is no text
        self._suppressed = list(get_suppressed_tokens(any_tokenizer, [-1]))

    def features(self, samples: Samples) -> Features:
        """Return the spectrogram of at most 30 s."""
        spectrogram: Features = self.whisper.feature_extractor(samples)[:, :-1]
        return spectrogram[:, :MOST_FRAMES].astype(np.float32, copy=False)

    def encode(self, features: Sequence[Features]) -> NDArray[np.float32]:
        """Return the encoder's output for some windows, [N, 1500, width], in the CPU's memory."""
        from ctranslate2 import DataType  # noqa: PLC0415  heavy
        from faster_whisper.audio import pad_or_trim  # noqa: PLC0415

        padded = np.stack([pad_or_trim(one, MOST_FRAMES) for one in features])
        view = self.ct2.encode(storage(padded), to_cpu=True)
        encoded: NDArray[np.float32] = np.array(view.to(DataType.float32))
        return encoded

    def language_chances(self, encoded: NDArray[np.float32]) -> list[dict[str, float]]:
        """Return the probability of each language, for each window."""
        if not self.is_multilingual:
            return [{"en": 1.0}] * len(encoded)
        return [
            {token[2:-2]: chance for token, chance in chances}
            for chances in self.ct2.detect_language(storage(encoded))
        ]

    def tokens(self, text: str) -> list[int]:
        """Return a text's tokens, without those of anything that looks like a control token."""
        words = self.whisper.hf_tokenizer
        ids = words.encode(text, add_special_tokens=False).ids
        return [token for token in ids if token < self.end]

    def before(self, prompt: str, keywords: Sequence[str]) -> list[int]:
        """Return the tokens that precede a window's: keywords, and the end of the prompt."""
        likely = self.tokens(" " + ", ".join(keywords).strip()) if keywords else []
        earlier = self.tokens(" " + prompt.strip()) if prompt.strip() else []
        if earlier:
            likely = likely[: _MOST_BEFORE // 2]
        likely = likely[:_MOST_BEFORE]
        return [*likely, *earlier[max(0, len(earlier) + len(likely) - _MOST_BEFORE) :]]

    def prompt(self, before: Sequence[int], language: str, task: Task, *, times: bool) -> list[int]:
        """Return the tokens that decoding begins with."""
        tokenizer = self.tokenizer(language, task)
        earlier = [tokenizer.sot_prev, *before] if before else []
        return [*earlier, *tokenizer.sot_sequence, *([] if times else [tokenizer.no_timestamps])]

    def generate(
        self,
        encoded: NDArray[np.float32],
        prompts: Sequence[Sequence[int]],
        *,
        temperature: float,
        beam_size: int,
    ) -> list[Decoded]:
        """Decode some windows together; their prompts have control tokens in the same places.

        With a temperature, the likeliest of five samples is taken.
        """
        if temperature > 0:
            manner = {
                "beam_size": 1,
                "num_hypotheses": _BEST_OF,
                "sampling_topk": 0,
                "sampling_temperature": temperature,
            }
        else:
            manner = {"beam_size": beam_size}
        results = self.ct2.generate(
            storage(encoded),
            [list(prompt) for prompt in prompts],
            max_length=_MOST_TOKENS,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=self._suppressed,
            **manner,
        )
        decoded = []
        for result in results:
            tokens = result.sequences_ids[0]
            # The score is the mean over the tokens; OpenAI counts the end token, too.
            logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
            text = self.text(tokens).strip()
            decoded.append(Decoded(temperature, tokens, text, logprob, result.no_speech_prob))
        return decoded

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without those of times."""
        said: str = self.whisper.hf_tokenizer.decode([t for t in tokens if t < self.end])
        return said

    def data(self, token: int) -> bytes:
        """Return a text token's bytes, which may be part of a character."""
        letters = self.whisper.hf_tokenizer.id_to_token(token) or ""
        known = _bytes()
        if all(letter in known for letter in letters):
            return bytes(known[letter] for letter in letters)
        return letters.encode()


def storage(array: NDArray[np.float32]) -> Any:
    """Return an array as CTranslate2 takes it."""
    from ctranslate2 import StorageView  # noqa: PLC0415  heavy

    return StorageView.from_array(np.ascontiguousarray(array))


@cache
def _bytes() -> dict[str, int]:
    """Return the byte that each letter of a byte-level BPE stands for, as in GPT-2."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}
