"""The speaker's own voice: a stretch of the recording for the speech backend to speak like."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from services.audio.decode import excerpt
from services.audio.wav import to_wav

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    from services.conversation.speech_translation.stages import Segment

SHORTEST_S: Final = 3.0
LONGEST_S: Final = 10.0
PATIENCE_S: Final = 60.0
"""How far into a recording a good stretch is looked for."""

_APART_S: Final = 0.5  # a longer pause does not belong to a sample
_LONGEST_ALONE_S: Final = 29.0  # of one segment: what speech takes of a recording
_MOST_RATE_HZ: Final = 24_000
_TEXT_CHARACTERS: Final = 1024  # what speech takes of a transcript


@dataclass(frozen=True)
class Stretch:
    """A part of the recording and what is said in it."""

    start_s: float
    end_s: float
    text: str

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end_s - self.start_s


async def sampled(
    segments: AsyncIterator[Segment],
    recording: bytes,
    consent: str,
    voice: asyncio.Future[Mapping[str, Any]],
) -> AsyncGenerator[Segment, None]:
    """Yield the segments, and settle `voice` with a sample of who is heard in them.

    They are held back until a stretch of 3 to 10 s of clear speech is among them, so that no
    bounded queue can be full before that.
    """
    held: list[Segment] = []
    async for segment in segments:
        if voice.done():
            yield segment
            continue
        held.append(segment)
        clear = [one for one in held if one.clear]
        enough = bool(clear) and _longest(clear).seconds >= SHORTEST_S
        if enough or segment.end_s > PATIENCE_S:
            voice.set_result(await _fields(recording, _longest(clear or held), consent))
            for one in held:
                yield one
            held.clear()
    if held:
        clear = [one for one in held if one.clear]
        voice.set_result(await _fields(recording, _longest(clear or held), consent))
    for one in held:
        yield one


def _longest(segments: Sequence[Segment]) -> Stretch:
    """Return the longest stretch of segments that follow each other.

    It is no longer than `LONGEST_S`, unless one segment alone is: its text cannot be cut.
    """
    stretches = []
    for first, begin in enumerate(segments):
        text, end_s = "", begin.start_s
        for segment in segments[first:]:
            alone = segment is begin
            if not alone and segment.start_s - end_s > _APART_S:
                break
            if not alone and segment.end_s - begin.start_s > LONGEST_S:
                break
            text, end_s = text + segment.text, segment.end_s
        stretches.append(Stretch(begin.start_s, end_s, text.strip()))
    return max(stretches, key=lambda one: one.seconds)


async def _fields(recording: bytes, stretch: Stretch, consent: str) -> Mapping[str, Any]:
    end_s = min(stretch.end_s, stretch.start_s + _LONGEST_ALONE_S)

    def wav() -> bytes:
        sound = excerpt(recording, stretch.start_s, end_s, max_rate_hz=_MOST_RATE_HZ)
        return to_wav(sound.samples, sound.sample_rate_hz)

    data = base64.b64encode(await asyncio.to_thread(wav)).decode("ascii")
    return {
        "ref_audio": f"data:audio/wav;base64,{data}",
        "ref_text": stretch.text[:_TEXT_CHARACTERS],
        "consent": consent,
    }
