"""A turn's text from an engine with arbitrary answers."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    WINDOW_S,
    GuessRequest,
    Hypothesis,
    Segment,
)
from services.transcription.live.session import Session
from services.transcription.live.transcriber import Transcriber
from services.transcription.live.turns import PIECE_SAMPLES, Turn
from tests.fakes.transcription_engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from services.transcription.engines.protocol import TranscriptionRequest

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, SAMPLE_RATE_HZ // 2).astype(np.float32)
TEXTS = st.lists(st.sampled_from(["a", "b", "a,", "ab", "私", "の"]), max_size=6).map(" ".join)


class Teller(FakeEngine):
    """Returns fixed texts, one after another, whether they match the prefix or not."""

    def __init__(self, guesses: list[str], finals: list[str], *, obeys: bool) -> None:
        super().__init__()
        self.guesses = guesses
        self.finals = finals
        self.obeys = obeys

    async def guess(self, request: GuessRequest) -> Hypothesis:
        self.requests.append(request)
        text = self.guesses[len(self.requests) % len(self.guesses)]
        if self.obeys and not text.startswith(request.prefix):
            text = request.prefix + " " + text
        return Hypothesis(text, "en")

    async def transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[Segment, None]:
        self.requests.append(request)
        text = self.finals[len(self.requests) % len(self.finals)]
        if text:
            yield Segment(0, 1, f" {text}", "en")


@asynccontextmanager
async def _slot() -> AsyncIterator[None]:
    yield


async def told(engine: Teller, halves: int) -> list[dict[str, Any]]:
    """Return what is told of a turn of so many half seconds, each heard before the next comes."""
    events: list[dict[str, Any]] = []

    async def send(text: str) -> None:
        events.append(json.loads(text))

    transcriber = Transcriber(engine, send, _slot, lambda _seconds: None)
    turn = Turn(Session("sess_1", "fake"), audible=True)
    async with asyncio.timeout(5), transcriber.working():
        transcriber.begin(turn)
        for _ in range(halves):
            turn.add(NOISE, speech=True)
            for _ in range(12):
                await asyncio.sleep(0)
        turn.end()
    assert turn.held == 0
    return events


@settings(deadline=None)
@given(
    guesses=st.lists(TEXTS, min_size=1, max_size=8),
    finals=st.lists(TEXTS, min_size=1, max_size=3),
    obeys=st.booleans(),
    halves=st.sampled_from([1, 4, 8, 70, 130]),
)
def test_deltas_are_the_beginning_of_the_final_text_whatever_the_engine_says(
    guesses: list[str],
    finals: list[str],
    obeys: bool,  # noqa: FBT001
    halves: int,
) -> None:
    engine = Teller(guesses, finals, obeys=obeys)
    *deltas, final = asyncio.run(told(engine, halves))
    assert final["type"].endswith("completed")
    assert all(event["type"].endswith("delta") and event["delta"] for event in deltas)
    assert "".join(event["delta"] for event in deltas) == final["transcript"]
    assert final["usage"]["seconds"] == halves / 2


def test_text_is_told_before_a_turn_ends_and_the_engine_is_held_to_it() -> None:
    engine = Teller(["one two three", "one two tree", "one to"], ["uno dos"], obeys=True)
    events = asyncio.run(told(engine, 8))
    assert events[0]["delta"] == "one"
    assert events[-1]["transcript"].startswith("one ")
    guesses = [one for one in engine.requests if isinstance(one, GuessRequest)]
    assert guesses[0].prefix == ""
    assert guesses[-1].prefix.startswith("one")
    assert {one.language for one in guesses[3:]} == {"en"}  # what the text was found to be in


def test_a_turn_without_a_pause_is_cut_before_a_window_is_full() -> None:
    engine = Teller(["a b"], ["a b"], obeys=True)
    events = asyncio.run(told(engine, 150))
    assert events[-1]["transcript"] == "a b a b a b"
    sizes = [one.samples.size for one in engine.requests if isinstance(one, GuessRequest)]
    assert PIECE_SAMPLES - SAMPLE_RATE_HZ < max(sizes) <= WINDOW_S * SAMPLE_RATE_HZ
    prompts = {one.prompt for one in engine.requests}
    assert prompts == {"", "a b", "a b a b"}


class Slots:
    """Notes what becomes of the slot, and what is told of turns."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.is_free = asyncio.Event()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        self.notes.append("taken")
        self.is_free.clear()
        try:
            yield
        finally:
            self.notes.append("given back")
            self.is_free.set()

    async def send(self, text: str) -> None:
        await asyncio.sleep(0)
        self.notes.append(json.loads(text)["type"].rpartition(".")[2])


def spoken() -> Turn:
    """Return a turn that has ended."""
    turn = Turn(Session("sess_1", "fake"), audible=False)
    turn.add(NOISE, speech=True)
    turn.end()
    return turn


def test_the_slot_is_kept_while_turns_wait_and_free_while_none_does() -> None:
    async def notes() -> list[str]:
        slots = Slots()
        engine = Teller(["a"], [""], obeys=True)
        transcriber = Transcriber(engine, slots.send, slots.slot, lambda _seconds: None)
        later = Turn(Session("sess_1", "fake"), audible=False)
        async with asyncio.timeout(60), transcriber.working():
            for turn in (spoken(), spoken(), later):
                transcriber.begin(turn)
            await slots.is_free.wait()
            later.add(NOISE, speech=True)
            later.end()
        return slots.notes

    kept = ["taken", "completed", "completed", "given back"]
    assert asyncio.run(notes()) == [*kept, "taken", "completed", "given back"]


@pytest.mark.parametrize("began", [False, True])
def test_a_turn_that_waits_and_is_dropped_keeps_no_slot(began: bool) -> None:  # noqa: FBT001
    async def notes() -> list[str]:
        slots = Slots()
        waiting = spoken()

        async def send(text: str) -> None:
            if began:  # the task of the turn that waits
                await slots.send(text)
            transcriber.drop(waiting)

        engine = Teller(["a"], [""], obeys=True)
        transcriber = Transcriber(engine, send, slots.slot, lambda _seconds: None)
        async with asyncio.timeout(60), transcriber.working():
            transcriber.begin(spoken())
            transcriber.begin(waiting)
            await slots.is_free.wait()
        return [note for note in slots.notes if note != "completed"]

    assert asyncio.run(notes()) == ["taken", "given back"]
