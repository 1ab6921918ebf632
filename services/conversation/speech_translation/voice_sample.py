"""Keeps the speaker's voice: finds a stretch of the recording that speech can clone."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from services.audio.decode import excerpt
from services.audio.encode import to_wav
from services.openai.speech import TRANSCRIPT_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    from services.conversation.speech_translation.stages import Segment

SHORTEST_S: Final = 3.0
LONGEST_S: Final = 10.0
PATIENCE_S: Final = 60.0
"""How much of a recording is searched for a good stretch."""

_APART_S: Final = 0.5  # a longer pause ends a stretch
_LONGEST_ALONE_S: Final = 29.0  # of one segment: the longest that speech accepts
_MOST_RATE_HZ: Final = 24_000


async def sampled(
    segments: AsyncIterator[Segment],
    recording: bytes,
    consent: str,
    voice: asyncio.Future[Mapping[str, Any]],
) -> AsyncGenerator[Segment, None]:
    """Yield the segments, and set `voice` to the fields with a sample of the speaker's voice.

    They are held back until they contain a stretch of 3 to 10 s of clear speech: before that, the
    queues between the stages could fill and block.
    """
    held: list[Segment] = []
    clear: list[Segment] = []
    async for segment in segments:
        held.append(segment)
        if segment.clear:
            clear.append(segment)
        if segment.end_s > PATIENCE_S or (clear and _seconds(_longest(clear)) >= SHORTEST_S):
            break
    if held:
        voice.set_result(await _fields(recording, _longest(clear or held), consent))
    for segment in held:
        yield segment
    async for segment in segments:
        yield segment


def _seconds(segment: Segment) -> float:
    return segment.end_s - segment.start_s


def _longest(segments: Sequence[Segment]) -> Segment:
    """Return the longest stretch of consecutive segments, joined.

    It is at most `LONGEST_S` long, unless a single segment is longer: its text cannot be cut.
    """
    stretches = []
    for first, begin in enumerate(segments):
        stretch = begin
        for segment in segments[first + 1 :]:
            apart = segment.start_s - stretch.end_s > _APART_S
            if apart or segment.end_s - begin.start_s > LONGEST_S:
                break
            stretch = replace(stretch, end_s=segment.end_s, text=stretch.text + segment.text)
        stretches.append(stretch)
    return max(stretches, key=_seconds)


async def _fields(recording: bytes, stretch: Segment, consent: str) -> Mapping[str, Any]:
    end_s = min(stretch.end_s, stretch.start_s + _LONGEST_ALONE_S)

    def wav() -> bytes:
        sound = excerpt(recording, stretch.start_s, end_s, max_rate_hz=_MOST_RATE_HZ)
        return to_wav(sound.samples, sound.sample_rate_hz)

    data = base64.b64encode(await asyncio.to_thread(wav)).decode("ascii")
    return {
        "ref_audio": f"data:audio/wav;base64,{data}",
        "ref_text": stretch.text.strip()[:TRANSCRIPT_CHARACTERS],
        "consent": consent,
    }
