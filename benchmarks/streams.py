"""What a listener has of streams of audio: when it begins, and whether it ever runs dry."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

_SMOOTH_S = 0.1
"""A stream whose worst underrun stays below this counts as continuous."""


@dataclass(frozen=True)
class Stream:
    """One stream: when, in seconds after its request, how many seconds of audio came."""

    arrivals: tuple[tuple[float, float], ...]

    @property
    def first_s(self) -> float:
        """Time to the first audio."""
        return self.arrivals[0][0]

    @property
    def audio_s(self) -> float:
        """Length of the audio."""
        return sum(seconds for _, seconds in self.arrivals)

    @property
    def real_time_factor(self) -> float:
        """Seconds until the end of the stream, for each second of audio."""
        return self.arrivals[-1][0] / self.audio_s

    @property
    def worst_underrun_s(self) -> float:
        """The longest silence of a player that begins at the first audio and waits when dry."""
        worst, dry_at = 0.0, self.first_s
        for at, seconds in self.arrivals:
            worst = max(worst, at - dry_at)
            dry_at = max(dry_at, at) + seconds
        return worst


@dataclass(frozen=True)
class Turn:
    """Streams that were asked for at once, and how long it took until the last had ended."""

    wall_s: float
    streams: tuple[Stream, ...]

    @classmethod
    def of(cls, said: dict[str, Any]) -> Turn:
        """Return the turn that was reported: `wall_s` and `streams`, each a list of arrivals.

        Raises:
            ValueError: a stream has no audio.
        """
        streams = tuple(
            Stream(tuple((at, seconds) for at, seconds in arrivals if seconds > 0))
            for arrivals in said["streams"]
        )
        if not streams or not all(stream.arrivals for stream in streams):
            raise ValueError("a stream without audio")
        return cls(said["wall_s"], streams)

    @property
    def first_ms(self) -> float:
        """Median time to first audio."""
        return statistics.median(stream.first_s for stream in self.streams) * 1000

    @property
    def real_time_factor(self) -> float:
        """Median over the streams."""
        return statistics.median(stream.real_time_factor for stream in self.streams)

    @property
    def factor_of_all(self) -> float:
        """Seconds until all streams had ended, for each second of one's audio."""
        return self.wall_s / statistics.mean(stream.audio_s for stream in self.streams)

    @property
    def audio_per_s(self) -> float:
        """Seconds of audio a second, all streams together."""
        return sum(stream.audio_s for stream in self.streams) / self.wall_s


def continuity(turns: Iterable[Turn]) -> float:
    """Return the share of streams that play without an audible gap."""
    underruns = [stream.worst_underrun_s for turn in turns for stream in turn.streams]
    return sum(underrun < _SMOOTH_S for underrun in underruns) / len(underruns)


def at_once(speak: Callable[[T], Iterable[float]], asked: Sequence[T]) -> dict[str, Any]:
    """Ask for streams at once, a thread each, and return what `Turn.of` takes.

    `speak` yields the seconds of each piece of audio as it comes; of a piece of text, 0.
    """

    def listen(one: T) -> list[tuple[float, float]]:
        began = time.perf_counter()
        return [(time.perf_counter() - began, seconds) for seconds in speak(one)]

    began = time.perf_counter()
    with ThreadPoolExecutor(len(asked)) as pool:
        streams = list(pool.map(listen, asked))
    return {"wall_s": time.perf_counter() - began, "streams": streams}


def over_http(url: str, requests: Sequence[dict[str, Any]], rate_hz: int) -> Turn:
    """Post requests at once; each is answered with raw 16-bit samples."""
    import httpx  # noqa: PLC0415  workers have none

    with httpx.Client(timeout=300) as client:

        def speak(request: dict[str, Any]) -> Iterator[float]:
            with client.stream("POST", url, **request) as answer:
                if answer.is_error:
                    raise RuntimeError(f"{url}: {answer.status_code} {answer.read().decode()}")
                for piece in answer.iter_raw():
                    yield len(piece) / 2 / rate_hz

        return Turn.of(at_once(speak, requests))
