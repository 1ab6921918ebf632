"""How a batch of windows is decoded and becomes segments, as in faster-whisper.

A window whose text repeats itself or is unlikely is decoded again in another batch, at a higher
temperature.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from services.transcription.engines.faster_whisper.checkpoint import (
    FRAMES_PER_S,
    Checkpoint,
    Decoded,
    Features,
    storage,
)
from services.transcription.engines.protocol import Segment, Task, Token, TranscriptionRequest, Word
from services.transcription.engines.windows import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray


FALLBACK: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The temperatures at which a window is decoded until the text is good enough."""

_LEAST_REST: Final = 10  # frames, a tenth of a second: less is not decoded again
_PREPENDED: Final = "\"'“¿([{-"
_APPENDED: Final = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001  as faster-whisper has it


@dataclass(frozen=True)
class Job:
    """A window to decode."""

    features: Features  # its spectrogram
    before: Sequence[int]  # tokens of what came before
    languages: frozenset[str]  # those to choose from
    language: str | None = None  # if it is known
    task: Task = "transcribe"
    times: bool = True  # with tokens of times and a beam; otherwise greedily
    prefix: Sequence[int] = ()  # the tokens that the text is known to begin with
    temperature: float = 0.0  # to decode at
    encoded: NDArray[np.float32] | None = None  # the encoder's output, if it was decoded before

    @property
    def kind(self) -> Hashable:
        """Equal for jobs that can be decoded together."""
        return self.times, len(self.before), self.temperature, self.encoded is None


@dataclass(frozen=True)
class DecodedWindow:
    """The result of a job: its text, the encoder's output [1, 1500, width], and its language."""

    decoded: Decoded
    encoded: NDArray[np.float32]
    language: str


def decode(model: Checkpoint, beam_size: int, jobs: Sequence[Job]) -> list[DecodedWindow]:
    """Decode jobs of one kind."""
    known = [job.encoded for job in jobs if job.encoded is not None]
    encoded = np.concatenate(known) if known else model.encode([job.features for job in jobs])
    languages = [job.language or "" for job in jobs]
    if "" in languages:
        chances = model.language_chances(encoded)
        for index, job in enumerate(jobs):
            # In a fixed order: where chances are equal, the first one wins.
            among = sorted(job.languages)
            likeliest = max(among, key=lambda code: chances[index].get(code, 0.0))
            languages[index] = languages[index] or likeliest
    prompts = [
        [*model.prompt(job.before, language, job.task, times=job.times), *job.prefix]
        for job, language in zip(jobs, languages, strict=True)
    ]
    decoded = model.generate(
        encoded,
        prompts,
        temperature=jobs[0].temperature,
        beam_size=beam_size if jobs[0].times else 1,
    )
    return [
        DecodedWindow(one, encoded[index : index + 1], languages[index])
        for index, one in enumerate(decoded)
    ]


async def decoded_well(
    job: Job,
    temperatures: Sequence[float],
    ask: Callable[[Job, bool], Awaitable[DecodedWindow]],
) -> DecodedWindow:
    """Return the result at the first of the temperatures at which it is good, or else the best.

    `ask` has a job decoded; whether it was decoded before, is its second argument.
    """
    attempts: list[Decoded] = []
    for temperature in temperatures:
        heard = await ask(replace(job, temperature=temperature), bool(attempts))
        decoded = heard.decoded
        attempts.append(decoded)
        if decoded.is_silence or not (decoded.repeats or decoded.is_unlikely):
            return heard
        job = replace(job, encoded=heard.encoded.copy(), language=heard.language)
    good = [one for one in attempts if not one.repeats] or attempts
    return replace(heard, decoded=max(good, key=lambda one: one.avg_logprob))


def segments(
    model: Checkpoint,
    request: TranscriptionRequest,
    heard: DecodedWindow,
    timeline: Timeline,
    *,
    offset: int,
    frames: int,
    is_last: bool,
) -> tuple[list[Segment], int]:
    """Return the segments in the `frames` of a window after `offset`, and how many they have.

    Those after, which ended in words without their last time, have to be decoded again. With
    `is_last` there are none.
    """
    decoded = heard.decoded
    if decoded.is_silence:
        return [], frames
    tokenizer = model.tokenizer(heard.language, request.task)
    found, seek, _ = model.whisper._split_segments_by_timestamps(  # noqa: SLF001
        tokenizer=tokenizer,
        tokens=list(decoded.tokens),
        time_offset=0.0,
        segment_size=frames,
        segment_duration=frames / FRAMES_PER_S,
        seek=0,
    )
    if is_last or not 0 < seek <= frames - _LEAST_REST:
        count = sum(len(one["tokens"]) for one in found)
        if 0 <= seek < frames and count < len(decoded.tokens):
            # What follows the last time is a segment that ends with the window.
            start = found[-1]["end"] if found else 0.0
            end = max(frames / FRAMES_PER_S, start)
            rest = {"seek": 0, "start": start, "end": end, "tokens": list(decoded.tokens[count:])}
            found = [*found, rest]
        seek = frames
    # Judged by the model's own times: those of words may coincide where there is text.
    found = [
        one for one in found if one["start"] != one["end"] and model.text(one["tokens"]).strip()
    ]
    if request.words and found:
        model.whisper.add_word_timestamps(
            [found], tokenizer, storage(heard.encoded), frames, _PREPENDED, _APPENDED, 0.0
        )
        _keep_apart(found)
    texts = [[token for token in one["tokens"] if token < model.end] for one in found]
    chances: Iterator[float] = iter(())
    if request.logprobs and found:
        spoken = [*chain(*texts)]
        (aligned,) = model.ct2.align(
            storage(heard.encoded), tokenizer.sot_sequence, [spoken], frames
        )
        known = np.maximum(aligned.text_token_probs[: len(spoken)], np.finfo(np.float64).tiny)
        chances = iter(np.log(known).tolist())
    offset_s = offset / FRAMES_PER_S
    made = []
    for one, text in zip(found, texts, strict=True):
        placed = [
            Word(*timeline.inside_s(offset_s + word["start"], offset_s + word["end"]), word["word"])
            for word in one.get("words", ())
        ]
        if placed:
            start_s, end_s = placed[0].start_s, placed[-1].end_s
        else:
            begin_s, stop_s = offset_s + one["start"], offset_s + one["end"]
            if begin_s < timeline.duration_s:  # no segment ends after the audio
                stop_s = min(stop_s, timeline.duration_s)
            start_s, end_s = timeline.start_s(begin_s), timeline.end_s(stop_s)
        made.append(
            Segment(
                start_s=start_s,
                end_s=end_s,
                text=model.text(text),
                language=heard.language,
                tokens=tuple(one["tokens"]),
                avg_logprob=decoded.avg_logprob,
                compression_ratio=decoded.compression_ratio,
                no_speech_prob=decoded.no_speech_prob,
                temperature=decoded.temperature,
                seek=round(timeline.start_s(offset_s) * FRAMES_PER_S),
                words=placed,
                logprobs=[
                    Token(model.text([token]), model.data(token), chance)
                    for token, chance in zip(text, chances, strict=False)
                ],
            )
        )
    return made, seek


def _keep_apart(found: list[dict[str, Any]]) -> None:
    """Let no word begin before the one before it ends, as the library's corrections may do."""
    end = 0.0
    for word in (word for one in found for word in one["words"]):
        word["start"] = max(word["start"], end)
        word["end"] = end = max(word["end"], word["start"])
