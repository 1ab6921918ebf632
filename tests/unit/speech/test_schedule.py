"""Which pieces of sound are made next."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import OverloadedError
from services.server.admission import Admission, Limits
from services.speech.engines.cosyvoice import schedule
from services.speech.engines.cosyvoice.schedule import (
    PATIENCE_S,
    Costs,
    Meter,
    Piece,
    longest_gap_s,
    streams_held,
    together,
)

RATE, ROWS = 25, 16
PIECES = st.lists(
    st.builds(
        Piece,
        is_first=st.booleans(),
        due_s=st.floats(0, 100),
        size=st.integers(1, 400),
        kind=st.booleans(),
    ),
    min_size=1,
)


def piece(due_s: float, *, is_first: bool = False) -> Piece:
    return Piece(due_s=due_s, size=100, is_first=is_first)


def test_whose_listener_runs_dry_first_goes_first() -> None:
    later, soon, late = piece(9.0), piece(1.0), piece(-2.0)
    assert together([later, soon, late], 1) == [late]
    assert together([later, soon], 8) == [soon, later]


def test_a_first_piece_goes_alone_of_later_ones_and_after_those_due_before_it() -> None:
    new, dry, later = piece(PATIENCE_S, is_first=True), piece(0.1), piece(4.0)
    assert together([new, later], 8) == [new]
    assert together([new, dry, later], 8) == [dry, later]


@given(pieces=PIECES, most=st.integers(1, 16))
def test_what_is_made_together_is_the_most_urgent_and_what_is_like_it(
    pieces: list[Piece], most: int
) -> None:
    batch = together(pieces, most)
    assert 1 <= len(batch) <= most
    assert batch[0].due_s == min(one.due_s for one in pieces)
    assert len({(one.kind, one.is_first) for one in batch}) == 1
    assert min(one.size for one in batch) >= 0.75 * max(one.size for one in batch)


def test_a_machine_holds_as_many_streams_as_it_makes_sound_for() -> None:
    # A part is made of all before it: 45 seconds of tokens for ten of sound, 1125 tokens.
    for token_s in (1e-3, 4e-4, 2e-4):
        held = streams_held(Costs(0.0, 0.0, 0.0, token_s, 0.0), RATE, ROWS)
        most = 10 / (1125 * token_s)
        assert 0.2 * most < held <= 0.7 * most


def test_a_machine_that_is_slower_than_speech_holds_none() -> None:
    assert streams_held(Costs(0.05, 0.0, 0.0, 0.0, 0.0), RATE, ROWS) == 0
    assert streams_held(Costs(0.0, 0.0, 20.0, 0.0, 0.0), RATE, ROWS) == 0


def test_a_batch_that_costs_the_same_whatever_is_in_it_holds_more() -> None:
    alone = streams_held(Costs(0.002, 0.0, 0.1, 0.0, 0.01), RATE, 1)
    batched = streams_held(Costs(0.002, 0.0, 0.1, 0.0, 0.01), RATE, ROWS)
    assert alone >= 1
    assert batched > 2 * alone


@given(step_s=st.floats(0.001, 0.03), batch_s=st.floats(0.01, 1), token_s=st.floats(1e-5, 1e-2))
def test_a_faster_machine_holds_no_fewer(step_s: float, batch_s: float, token_s: float) -> None:
    slow = streams_held(Costs(step_s, 0.001, batch_s, token_s, 0.05), RATE, ROWS)
    fast = streams_held(Costs(step_s / 2, 0.0005, batch_s / 2, token_s / 2, 0.02), RATE, ROWS)
    assert fast >= slow


def test_costs_are_what_the_stages_took(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = 0.0
    monkeypatch.setattr(schedule.time, "monotonic", lambda: clock_s)
    meter = Meter()
    assert meter.token_s(RATE) == 0.0
    took = [("step", many, 0.01 + 0.002 * many) for many in (1, 2, 3)]
    took += [("flow", many, 0.05 + 0.001 * many) for many in (100, 200, 300)]
    took += [("sound", many, 0.02 * many) for many in (1.0, 4.0, 0.0)]
    for what, many, spent_s in took:
        with meter.timed(what, many):
            clock_s += spent_s

    costs = meter.costs()
    assert [costs.step_s, costs.line_s] == pytest.approx([0.01, 0.002])
    assert [costs.batch_s, costs.token_s] == pytest.approx([0.05, 0.001])
    assert costs.sound_s == pytest.approx(0.02)
    assert meter.token_s(RATE) == pytest.approx(0.15 / 100 + 0.02 / RATE)


def test_whoever_has_a_slot_is_heard_without_a_gap_whoever_comes_when() -> None:
    rng = random.Random(1)  # noqa: S311
    gaps = []
    for _ in range(200):
        costs = Costs(
            step_s=rng.uniform(0.001, 0.02),
            line_s=rng.uniform(0, 0.001),
            batch_s=rng.uniform(0.01, 0.3),
            token_s=10 ** rng.uniform(-5, -3),
            sound_s=rng.uniform(0.001, 0.05),
        )
        if held := streams_held(costs, RATE, ROWS):
            asked = [
                (rng.uniform(0, 20), rng.choice([3.0, 10.0, 20.0, 30.0]))
                for _ in range(rng.randint(1, 60))
            ]
            gaps.append(longest_gap_s(costs, RATE, ROWS, held, asked))

    assert len(gaps) > 100
    assert sum(gap > 0.1 for gap in gaps) <= 0.02 * len(gaps)


async def test_what_a_machine_cannot_hold_waits_and_past_the_queue_it_is_refused() -> None:
    costs = Costs(0.002, 0.0, 0.3, 1e-4, 0.01)
    held = streams_held(costs, RATE, ROWS)
    admission = Admission(Limits(64, 2, 30, lambda: held))
    asked = [asyncio.create_task(admission.acquire()) for _ in range(held + 4)]
    await asyncio.sleep(0)

    assert 2 <= held < 60
    assert (admission.in_use, admission.waiting) == (held, 2)
    refused = [one for one in asked if one.done() and one.exception()]
    assert len(refused) == 2
    for one in refused:
        with pytest.raises(OverloadedError, match=f"limit of {held} "):
            one.result()
    admission.release()
    await asyncio.sleep(0)
    assert (admission.in_use, admission.waiting) == (held, 1)
    for one in asked:
        one.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
