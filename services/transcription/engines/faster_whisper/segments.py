"""From a window's tokens to segments and words, at their times in the recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from services.transcription.engines.faster_whisper.checkpoint import FRAMES_PER_S
from services.transcription.engines.protocol import Segment, Token, Word

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.transcription.engines.faster_whisper.checkpoint import Checkpoint
    from services.transcription.engines.faster_whisper.decoder import DecodedWindow
    from services.transcription.engines.windows import Timeline

_LEAST_REST: Final = 10  # frames, a tenth of a second: less is not decoded again
_MOST_ROUNDS: Final = 8


def segments(
    model: Checkpoint,
    heard: DecodedWindow,
    timeline: Timeline,
    *,
    words: bool,
    logprobs: bool,
) -> tuple[list[Segment], int]:
    """Return a window's segments, and the frame from which it has to be decoded again.

    That is its last frame, unless the window ended in words without their last time.
    """
    job, decoded, encoded, language = heard.job, heard.decoded, heard.encoded, heard.language
    task = job.requester.options.task
    frames = job.features.shape[1]
    if decoded.is_silence:
        return [], frames
    found, seek = model.split(decoded.tokens, language, task, frames)
    if not 0 < seek <= frames - _LEAST_REST or job.rounds >= _MOST_ROUNDS:
        if 0 <= seek < frames and sum(len(one["tokens"]) for one in found) < len(decoded.tokens):
            found = [*found, _rest(decoded.tokens, found, frames)]
        seek = frames
    # Judged by the model's own times: those of words may coincide where there is text.
    found = [
        one for one in found if one["start"] != one["end"] and model.text(one["tokens"]).strip()
    ]
    if words and found:
        model.add_words(found, encoded, language, task, frames)
        _keep_apart(found)
    chances: Iterator[float] = iter(())
    if logprobs:
        spoken = [token for one in found for token in one["tokens"] if model.is_text(token)]
        chances = iter(model.logprobs(spoken, encoded, language, task, frames))
    offset_s = job.offset / FRAMES_PER_S
    made = []
    for one in found:
        spoken = [token for token in one["tokens"] if model.is_text(token)]
        start_s, end_s = _times(one, offset_s, timeline)
        made.append(
            Segment(
                start_s=start_s,
                end_s=end_s,
                text=model.text(spoken),
                language=language,
                tokens=tuple(one["tokens"]),
                avg_logprob=decoded.avg_logprob,
                compression_ratio=decoded.compression_ratio,
                no_speech_prob=decoded.no_speech_prob,
                temperature=decoded.temperature,
                seek=round(timeline.start_s(offset_s) * FRAMES_PER_S),
                words=[_word(word, offset_s, timeline) for word in one.get("words", ())],
                logprobs=[
                    Token(model.text([token]), model.data(token), chance)
                    for token, chance in zip(spoken, chances, strict=False)
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


def _rest(tokens: Any, found: list[dict[str, Any]], frames: int) -> dict[str, Any]:
    """Return what follows the last time, as a segment that ends with the window."""
    count = sum(len(one["tokens"]) for one in found)
    start = found[-1]["end"] if found else 0.0
    return {
        "seek": 0,
        "start": start,
        "end": max(frames / FRAMES_PER_S, start),
        "tokens": list(tokens[count:]),
    }


def _times(one: dict[str, Any], offset_s: float, timeline: Timeline) -> tuple[float, float]:
    """Return a segment's times; it never ends after the audio does."""
    if one.get("words"):
        inside = [_word(word, offset_s, timeline) for word in one["words"]]
        return inside[0].start_s, inside[-1].end_s
    begin_s, end_s = offset_s + float(one["start"]), offset_s + float(one["end"])
    if begin_s < timeline.duration_s:
        end_s = min(end_s, timeline.duration_s)
    return round(timeline.start_s(begin_s), 3), round(timeline.end_s(end_s), 3)


def _word(word: dict[str, Any], offset_s: float, timeline: Timeline) -> Word:
    start_s, end_s = timeline.inside_s(
        offset_s + float(word["start"]), offset_s + float(word["end"])
    )
    return Word(round(start_s, 3), round(end_s, 3), word["word"])
