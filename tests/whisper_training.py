"""Trains the model of `tests/whisper.py` on the spectrograms of windows made from clips.

Two things make it quick, both because the time of each word is known from espeak-ng: the encoder
learns to name the spoken word, and a head of the decoder learns to attend to its next word, from
which word times are read as well. Most steps use windows of a few seconds, which cost a tenth; the
last use all thirty.
"""

from __future__ import annotations

import copy
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import transformers
from ctranslate2.converters.transformers import WhisperLoader
from faster_whisper.feature_extractor import FeatureExtractor
from torch.nn.functional import cross_entropy
from transformers import WhisperConfig, WhisperForConditionalGeneration

from tests.parrot import MELS, POSITIONS, Shape, save, tokenizer, vocabulary
from tests.whisper import RATE_HZ, SENTENCES, TRANSLATIONS, Clip, clips

if TYPE_CHECKING:
    from pathlib import Path

SHAPE: Final = Shape(width=64, layers=2, heads=4)  # the encoder has one layer
LANGUAGES: Final = tuple(SENTENCES)
_FRAMES_PER_S: Final = 100
_STEP: Final = 10  # tokens of times a step
_STEP_S: Final = 0.2  # times are told this roughly: they are quicker to learn
# Length of the windows in frames, windows of a step, steps, the highest learning rate, and whether
# the decoder learns too.
_STAGES: Final = (
    (800, 16, 200, 1e-2, False),
    (800, 16, 400, 4e-3, True),
    (3000, 6, 180, 2e-3, True),
)
_PLACES: Final = 1500  # positions of the encoder
_HEAD: Final = (1, 0)  # the layer and head of the decoder that looks at its word


@dataclass(frozen=True)
class Example:
    """A window and its targets.

    Attributes:
        features: its spectrogram, [mels, frames].
        inputs: the decoder's tokens.
        labels: the next token for each of them, -100 where it does not matter.
        places: for each label, the encoder's positions that hear it: begin, past the end.
        spoken: the word at each of the encoder's positions, 0 for none.
    """

    features: Any
    inputs: list[int]
    labels: list[int]
    places: list[tuple[int, int]]
    spoken: Any


@dataclass(frozen=True)
class Said:
    """A sentence in a window, and the part of it in the transcript."""

    clip: Clip
    text: str
    start_s: float
    end_s: float


class Windows:
    """Makes random windows with their targets."""

    def __init__(self, seed: int) -> None:
        self.words = tokenizer(
            [*(f" {one}" for each in SENTENCES.values() for one in each), *TRANSLATIONS.values()],
            LANGUAGES,
        )
        self.size = len(vocabulary(self.words))
        self.names: dict[str, int] = {}  # of words, each in its sentence
        self._rng = np.random.default_rng(seed)
        self._extractor = FeatureExtractor()
        self._clips = {
            language: [(clip, self._power(clip.samples)) for clip in every]
            for language in LANGUAGES
            if (every := [clip for clip in clips() if clip.language == language])
        }
        noise = self._rng.standard_normal(31 * RATE_HZ).astype(np.float32)
        self._noise = self._power(noise)

    def token(self, name: str) -> int:
        return int(self.words.token_to_id(f"<|{name}|>"))

    def batch(self, count: int, frames: int, place: int) -> list[Example]:
        """Return windows of `frames`, whose times begin at one of the encoder's positions."""
        return [self._one(frames, place) for _ in range(count)]

    def _one(self, frames: int, place: int) -> Example:
        rng = self._rng
        language = LANGUAGES[int(rng.random() < 0.35)]
        task = "translate" if rng.random() < (0.1, 0.5)[language != "en"] else "transcribe"
        power = np.zeros((MELS, frames), dtype=np.float32)
        if rng.random() < 0.8:
            loudness = 10 ** rng.uniform(-5, -2.5)
            begin = int(rng.integers(0, 90))
            power += loudness**2 * self._noise[:, begin : begin + frames]
        said = self._fill(power, language) if rng.random() < 0.9 else []
        end_s = said[-1].end_s if said else rng.uniform(0.5, frames / _FRAMES_PER_S)
        content = min(frames, round(_FRAMES_PER_S * end_s) + int(rng.integers(8, 108)))
        spoken = self._spoken(said, frames)
        if said and rng.random() < 0.25:
            said, content = self._cut_short(said)
        spoken[content // 2 :] = 0
        times = bool(rng.random() < 0.6)
        prompt = self._prompt(language, task, times=times)
        first = self.token("notimestamps") + 1 + place if times else None
        text, places = self._tokens(said, task, content, first)
        labels = [-100] * (len(prompt) - 1) + text
        start = prompt.index(self.token("startoftranscript"))
        labels[start] = self.token(language) if said else self.token("nospeech")
        return Example(
            _log(power, content),
            [*prompt, *text][:-1],
            labels,
            [(0, frames // 2)] * (len(prompt) - 1) + places,
            spoken,
        )

    def _fill(self, power: Any, language: str) -> list[Said]:
        """Put sentences into a window; return each with its times."""
        rng = self._rng
        said: list[Said] = []
        at = int(rng.integers(0, 100)) if rng.random() < 0.8 else 0
        gain = 10 ** rng.uniform(-0.7, 0.2)
        most = 1 + int(rng.exponential(2))
        while len(said) < most:
            clip, sound = self._clips[language][int(rng.integers(len(self._clips[language])))]
            end = at + sound.shape[1]
            if end > power.shape[1]:
                break
            power[:, at:end] += gain**2 * sound
            said.append(Said(clip, clip.text, at / _FRAMES_PER_S, end / _FRAMES_PER_S))
            at = end + int(rng.integers(15, 120))
        return said

    def _cut_short(self, said: list[Said]) -> tuple[list[Said], int]:
        """End the window within its last sentence, after what is whole of it."""
        last = said[-1]
        cut_s = float(self._rng.uniform(0.2, last.end_s - last.start_s))
        known = [position for position, end_s in last.clip.words if end_s <= cut_s + 0.08]
        end_s = last.start_s + cut_s
        said = said[:-1]
        if known:
            said = [*said, Said(last.clip, last.clip.text[: known[-1]], last.start_s, end_s)]
        return said, max(20, round(end_s * _FRAMES_PER_S))

    def _prompt(self, language: str, task: str, *, times: bool) -> list[int]:
        rng = self._rng
        prompt = [self.token("startoftranscript"), self.token(language), self.token(task)]
        if not times:
            prompt.append(self.token("notimestamps"))
        if rng.random() > 0.15:
            return prompt
        every = [one for each in SENTENCES.values() for one in each]
        earlier = self._encode(every[int(rng.integers(len(every)))])
        return [self.token("startofprev"), *earlier[int(rng.integers(len(earlier))) :], *prompt]

    def _tokens(
        self, said: list[Said], task: str, content: int, first: int | None
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Return what is to be written, and where in the sound each token of it is.

        `first` is the token of the window's begin; None writes no times.
        """
        tokens: list[int] = []
        places: list[tuple[int, int]] = []
        end = 0
        for one in said:
            written, at = self._written(one, task)
            if not written:
                continue
            if first is not None:
                # A time is never before the last one, as decoding has it.
                begin = max(first + _STEP * int(one.start_s / _STEP_S), end)
                end = first + _STEP * int(np.ceil(one.end_s / _STEP_S))
                written = [begin, *written, end]
                at = [at[0], *at, _place(one.end_s - 0.2, one.end_s)]
            tokens += written
            places += at
        if first is not None and not tokens:
            tokens, places = [first, first + 25], [(0, content // 2), (0, content // 2)]
        end_s = content / _FRAMES_PER_S
        return [*tokens, self.token("endoftext")], [*places, _place(end_s - 0.2, end_s)]

    def _written(self, one: Said, task: str) -> tuple[list[int], list[tuple[int, int]]]:
        if task == "translate" and one.clip.language != "en":
            if one.text not in TRANSLATIONS:
                return [], []  # nobody knows what half a sentence means
            tokens = self._encode(TRANSLATIONS[one.text])
            return tokens, [_place(one.start_s, one.end_s)] * len(tokens)
        tokens = self._encode(one.text)
        places = []
        written = ""
        for token in tokens:
            written += str(self.words.decode([token]))
            index = next(
                index
                for index, (position, _) in enumerate(one.clip.words)
                if position >= len(written) - 1  # it begins with a space
            )
            places.append(_place(*self._word_s(one, index)))
        return tokens, places

    def _word_s(self, one: Said, index: int) -> tuple[float, float]:
        begin_s = one.clip.words[index - 1][1] if index else 0.0
        return one.start_s + begin_s, one.start_s + one.clip.words[index][1]

    def _spoken(self, said: list[Said], frames: int) -> Any:
        spoken = np.zeros(frames // 2, dtype=np.int64)
        for one in said:
            for index in range(len(one.clip.words)):
                begin, end = _place(*self._word_s(one, index))
                name = f"{one.clip.text} {index}"
                spoken[begin:end] = self.names.setdefault(name, len(self.names) + 1)
        return spoken

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.words.encode(f" {text}", add_special_tokens=False).ids
        return ids

    def _power(self, samples: Any) -> Any:
        """Return the power in each mel band, [mels, frames], before its logarithm."""
        extractor = self._extractor
        window = np.hanning(extractor.n_fft + 1)[:-1].astype(np.float32)
        found = extractor.stft(
            samples, extractor.n_fft, extractor.hop_length, window=window, return_complex=True
        )
        return (extractor.mel_filters @ (np.abs(found[..., :-1]) ** 2)).astype(np.float32)


def _place(start_s: float, end_s: float) -> tuple[int, int]:
    """Return positions of the encoder, of which there are fifty a second."""
    begin = max(0, int(start_s * _FRAMES_PER_S / 2))
    return begin, max(begin + 1, int(end_s * _FRAMES_PER_S / 2))


def _log(power: Any, content: int) -> Any:
    """Return a spectrogram as faster-whisper makes it: what follows the sound is zero."""
    known = np.log10(np.maximum(power[:, :content], 1e-10))
    known = (np.maximum(known, known.max() - 8) + 4) / 4
    padded = np.zeros(power.shape, dtype=np.float32)
    padded[:, :content] = known
    return padded


def _network(size: int, frames: int) -> Any:
    network = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=size,
            d_model=SHAPE.width,
            encoder_layers=1,
            decoder_layers=SHAPE.layers,
            encoder_attention_heads=SHAPE.heads,
            decoder_attention_heads=SHAPE.heads,
            encoder_ffn_dim=2 * SHAPE.width,
            decoder_ffn_dim=2 * SHAPE.width,
            max_source_positions=frames // 2,
            max_target_positions=POSITIONS,
            num_mel_bins=MELS,
            init_std=0.1,  # the default is for a width of a thousand
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=0,
            attn_implementation="eager",  # which tells where it looks
        )
    )
    quick = copy.copy(network.config)
    quick._attn_implementation = "sdpa"
    for layer in network.model.encoder.layers:
        layer.self_attn.config = quick
    return network


def _look_around(attention: Any, sines: torch.Tensor) -> None:
    """Let each head of the encoder begin by looking at what was a little earlier or later.

    Positions are sines and cosines, which a rotation shifts in time.
    """
    half = SHAPE.width // 2
    size = SHAPE.width // SHAPE.heads
    query, key = torch.zeros(SHAPE.width, SHAPE.width), torch.zeros(SHAPE.width, SHAPE.width)
    rates = torch.asin(sines[1, :half])  # radians a position; the first ones are fast
    for head, shift in enumerate((-14, -5, 5, 14)):
        for pair in range(size // 2):
            wave = 2 + pair
            row = head * size + 2 * pair
            turn = shift * rates[wave]
            key[row, wave] = key[row + 1, half + wave] = 1
            query[row, wave] = query[row + 1, half + wave] = 2.5 * torch.cos(turn)
            query[row, half + wave] = 2.5 * torch.sin(turn)
            query[row + 1, wave] = -2.5 * torch.sin(turn)
    attention.q_proj.weight.data = query
    attention.k_proj.weight.data = key


def _losses(
    network: Any,
    namer: torch.nn.Linear,
    examples: list[Example],
    windows: Windows,
    *,
    whole: bool,
) -> list[torch.Tensor]:
    """Return how wrong the encoder's names of words are, and if `whole`, what the decoder says and
    where it looks."""
    encoded = network.model.encoder(
        torch.from_numpy(np.stack([one.features for one in examples]))
    ).last_hidden_state
    spoken = torch.from_numpy(np.stack([one.spoken for one in examples]))
    named = cross_entropy(namer(encoded).flatten(0, 1), spoken.flatten())
    if not whole:
        return [named]
    length = max(len(one.inputs) for one in examples)
    end = windows.token("endoftext")
    inputs = torch.tensor([[*one.inputs, *[end] * (length - len(one.inputs))] for one in examples])
    labels = torch.tensor([[*one.labels, *[-100] * (length - len(one.labels))] for one in examples])
    looks = torch.zeros(len(examples), length, spoken.shape[1])
    for row, one in enumerate(examples):
        for column, (begin, past) in enumerate(one.places):
            looks[row, column, begin:past] = 1
    answer = network(encoder_outputs=(encoded,), decoder_input_ids=inputs, output_attentions=True)
    layer, head = _HEAD
    seen = (answer.cross_attentions[layer][:, head] * looks).sum(-1)[labels >= 0]
    return [
        named,
        cross_entropy(answer.logits.flatten(0, 1), labels.flatten(), ignore_index=-100),
        -(seen + 1e-4).log().mean(),
    ]


def train(folder: Path, seed: int) -> None:
    """Train the model and write it."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)  # two are slower for what is so small, on a busy machine by far
    torch.manual_seed(seed)
    windows = Windows(seed)
    network: Any = None
    namer = torch.nn.Linear(SHAPE.width, 128)
    sines = _network(windows.size, 2 * _PLACES).model.encoder.embed_positions.weight.data
    for frames, count, steps, rate, whole in _STAGES:
        before, network = network, _network(windows.size, frames)
        _look_around(network.model.encoder.layers[0].self_attn, sines)
        if before is not None:
            weights = before.state_dict()
            weights.pop(
                "model.encoder.embed_positions.weight"
            )  # sines: they hang on the place alone
            network.load_state_dict(weights, strict=False)
        parameters = [*network.parameters(), *namer.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=steps + 1, pct_start=0.1
        )
        began = time.monotonic()
        for step in range(steps):
            # A short window is a part of a long one, so that every place is known early.
            places = network.config.max_source_positions
            place = 25 * int(torch.randint(0, (_PLACES - places) // 25 + 1, ())) * (step % 2)
            network.model.encoder.embed_positions.weight.data = sines[place : place + places]
            losses = _losses(
                network, namer, windows.batch(count, frames, place), windows, whole=whole
            )
            optimizer.zero_grad()
            sum(losses).backward()  # type: ignore[union-attr]
            torch.nn.utils.clip_grad_norm_(parameters, 3.0)
            optimizer.step()
            schedule.step()
            if step % 20 == 0 or step == steps - 1:
                told = ", ".join(f"{loss.item():.3f}" for loss in losses)
                print(  # noqa: T201
                    f"{frames} frames, step {step}: losses {told}, "
                    f"{time.monotonic() - began:.0f} s",
                    file=sys.stderr,
                )
    network.eval()
    spec = WhisperLoader().get_model_spec(network)
    save(spec, folder, windows.words, LANGUAGES, [_HEAD])
