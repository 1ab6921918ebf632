"""One Whisper model on CTranslate2: what is asked of faster-whisper's own class, and nothing else.

Its methods may be called from any thread; CTranslate2 lets the interpreter go while it computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from services.audio.pcm import Samples
    from services.transcription.engines.protocol import Task

Features = NDArray[np.float32]
"""A log-Mel spectrogram, [mels, frames of 10 ms]."""

FRAMES_PER_S: Final = 100
MOST_FRAMES: Final = 3000
_MOST_TOKENS: Final = 448
_MOST_BEFORE: Final = _MOST_TOKENS // 2 - 1  # tokens of what came before, as in OpenAI's own code
_BEST_OF: Final = 5
_PREPENDED: Final = "\"'“¿([{-"
_APPENDED: Final = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001  as faster-whisper has it


@dataclass(frozen=True)
class Decoded:
    """What a window was decoded to; `tokens` are the new ones and those of times."""

    tokens: Sequence[int]
    avg_logprob: float
    no_speech_prob: float


class Checkpoint:
    """A model in memory."""

    def __init__(self, folder: Path, *, device: str, compute_type: str, threads: int) -> None:
        """Load it; takes seconds.

        Raises:
            RuntimeError: as CTranslate2 has it; ValueError likewise.
        """
        from faster_whisper import WhisperModel  # noqa: PLC0415  heavy
        from faster_whisper.tokenizer import _LANGUAGE_CODES, Tokenizer  # noqa: PLC0415
        from faster_whisper.transcribe import get_suppressed_tokens  # noqa: PLC0415

        self._whisper = WhisperModel(
            str(folder), device=device, compute_type=compute_type, cpu_threads=threads
        )
        self._ct2 = self._whisper.model
        self.device: str = self._ct2.device
        words = self._whisper.hf_tokenizer
        self.languages: frozenset[str] = frozenset({"en"})
        if self._ct2.is_multilingual:
            self.languages = frozenset(
                code for code in _LANGUAGE_CODES if words.token_to_id(f"<|{code}|>") is not None
            )

        @cache
        def tokenizer(language: str, task: Task) -> Any:
            return Tokenizer(words, self._ct2.is_multilingual, task=task, language=language)

        self._tokenizer = tokenizer
        any_tokenizer = tokenizer(min(self.languages), "transcribe")
        self._end: int = any_tokenizer.eot
        self._suppressed = list(get_suppressed_tokens(any_tokenizer, [-1]))

    @property
    def is_multilingual(self) -> bool:
        """Whether it hears more than English."""
        return bool(self._ct2.is_multilingual)

    def features(self, samples: Samples) -> Features:
        """Return the spectrogram of at most 30 s."""
        spectrogram: Features = self._whisper.feature_extractor(samples)[:, :-1]
        return spectrogram[:, :MOST_FRAMES].astype(np.float32, copy=False)

    def encode(self, features: Sequence[Features]) -> NDArray[np.float32]:
        """Return what the encoder makes of some windows, [N, 1500, width], in the CPU's memory."""
        from ctranslate2 import DataType, StorageView  # noqa: PLC0415  heavy

        padded = np.zeros((len(features), features[0].shape[0], MOST_FRAMES), dtype=np.float32)
        for row, one in zip(padded, features, strict=True):
            row[:, : one.shape[1]] = one
        view = self._ct2.encode(StorageView.from_array(padded), to_cpu=True)
        encoded: NDArray[np.float32] = np.array(view.to(DataType.float32))
        return encoded

    def language_chances(self, encoded: NDArray[np.float32]) -> list[dict[str, float]]:
        """Return the probability of each language in each window."""
        if not self.is_multilingual:
            return [{"en": 1.0}] * len(encoded)
        return [
            {token[2:-2]: chance for token, chance in chances}
            for chances in self._ct2.detect_language(_view(encoded))
        ]

    def tokens(self, text: str) -> list[int]:
        """Return a text's tokens; what looks like a control token is left out."""
        words = self._whisper.hf_tokenizer
        ids = words.encode(text, add_special_tokens=False).ids
        return [token for token in ids if token < self._end]

    def before(self, prompt: str, keywords: Sequence[str]) -> list[int]:
        """Return the tokens that stand before a window's: keywords, and the prompt's end."""
        likely = self.tokens(" " + ", ".join(keywords).strip()) if keywords else []
        earlier = self.tokens(" " + prompt.strip()) if prompt.strip() else []
        if earlier:
            likely = likely[: _MOST_BEFORE // 2]
        likely = likely[:_MOST_BEFORE]
        return [*likely, *earlier[max(0, len(earlier) + len(likely) - _MOST_BEFORE) :]]

    def prompt(self, before: Sequence[int], language: str, task: Task, *, times: bool) -> list[int]:
        """Return what decoding begins with."""
        tokenizer = self._tokenizer(language, task)
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
        """Decode some windows together; their prompts' control tokens stand at the same places.

        With a temperature, what is likeliest of five samples is taken.
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
        results = self._ct2.generate(
            _view(encoded),
            [list(prompt) for prompt in prompts],
            max_length=_MOST_TOKENS,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=self._suppressed,
            **manner,
        )
        return [_decoded(result) for result in results]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; those of times are passed over."""
        said: str = self._whisper.hf_tokenizer.decode([t for t in tokens if t < self._end])
        return said

    def data(self, token: int) -> bytes:
        """Return a text token's bytes, which may be part of a character."""
        letters = self._whisper.hf_tokenizer.id_to_token(token) or ""
        known = _bytes()
        if all(letter in known for letter in letters):
            return bytes(known[letter] for letter in letters)
        return letters.encode()

    def split(
        self, tokens: Sequence[int], language: str, task: Task, frames: int
    ) -> tuple[list[dict[str, Any]], int]:
        """Split a window's tokens at its times.

        Returns:
            Segments with `start`, `end` and `tokens`, and how many of `frames` they account for:
            a window may end in words that lack their last time, which are to be heard again.
        """
        segments, seek, _ = self._whisper._split_segments_by_timestamps(  # noqa: SLF001
            tokenizer=self._tokenizer(language, task),
            tokens=list(tokens),
            time_offset=0.0,
            segment_size=frames,
            segment_duration=frames / FRAMES_PER_S,
            seek=0,
        )
        return segments, seek

    def add_words(
        self,
        segments: list[dict[str, Any]],
        encoded: NDArray[np.float32],
        language: str,
        task: Task,
        frames: int,
    ) -> None:
        """Give one window's segments their `words`, and times that agree with them."""
        self._whisper.add_word_timestamps(
            [segments],
            self._tokenizer(language, task),
            _view(encoded),
            frames,
            _PREPENDED,
            _APPENDED,
            0.0,
        )

    def logprobs(
        self,
        tokens: Sequence[int],
        encoded: NDArray[np.float32],
        language: str,
        task: Task,
        frames: int,
    ) -> list[float]:
        """Return the logarithm of the probability of each text token of one window."""
        if not tokens:
            return []
        aligned = self._ct2.align(
            _view(encoded), self._tokenizer(language, task).sot_sequence, [list(tokens)], frames
        )[0]
        chances = np.array(aligned.text_token_probs[: len(tokens)])
        logarithms: list[float] = np.log(np.maximum(chances, np.finfo(np.float64).tiny)).tolist()
        return logarithms

    def is_text(self, token: int) -> bool:
        """Tell text from control tokens."""
        return token < self._end


def _view(encoded: NDArray[np.float32]) -> Any:
    from ctranslate2 import StorageView  # noqa: PLC0415  heavy

    return StorageView.from_array(np.ascontiguousarray(encoded))


def _decoded(result: Any) -> Decoded:
    tokens = result.sequences_ids[0]
    # The score is the mean over the tokens; OpenAI counts the end among them.
    return Decoded(
        tokens, result.scores[0] * len(tokens) / (len(tokens) + 1), result.no_speech_prob
    )


@cache
def _bytes() -> dict[str, int]:
    """Return the byte behind each letter of a byte-level BPE, as GPT-2 has it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}
