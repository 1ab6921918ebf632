"""Which pieces of sound are made next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.speech.engines.cosyvoice.schedule import Costs, Piece, streams_held, together

PIECES = st.lists(
    st.builds(
        Piece,
        owner=st.uuids(),
        is_first=st.booleans(),
        due_s=st.floats(0, 100),
        size=st.integers(1, 400),
        kind=st.booleans(),
    ),
    min_size=1,
)


def piece(name: str, due_s: float, size: int = 100, *, is_first: bool = False) -> Piece:
    return Piece(name, is_first, due_s, size)


def chosen(*pieces: Piece, most: int = 8) -> list[str]:
    return [one.owner for one in together(pieces, most)]


def test_whose_listener_runs_dry_first_goes_first() -> None:
    assert chosen(piece("later", 9.0), piece("soon", 1.0), piece("late", -2.0), most=1) == ["late"]
    assert chosen(piece("later", 9.0), piece("soon", 1.0)) == ["soon", "later"]


def test_a_first_piece_goes_before_any_later_one_and_alone_of_those() -> None:
    assert chosen(piece("dry", -5.0), piece("new", 3.0, is_first=True)) == ["new"]


@given(pieces=PIECES, most=st.integers(1, 16))
def test_what_is_made_together_is_the_most_urgent_and_what_is_like_it(
    pieces: list[Piece], most: int
) -> None:
    batch = together(pieces, most)
    assert 1 <= len(batch) <= most
    assert batch[0] == min(pieces, key=lambda one: one.order)
    assert len({(one.kind, one.is_first) for one in batch}) == 1
    assert min(one.size for one in batch) >= 0.75 * max(one.size for one in batch)


def test_a_machine_holds_as_many_streams_as_it_makes_sound_for() -> None:
    # A part is made of all before it: 62 seconds of tokens for ten of sound, 1550 tokens.
    for token_s in (1e-3, 2e-4, 1e-4):
        held = streams_held(Costs(0.0, 0.0, token_s, 0.0), 25, 16)
        most = 10 / (1550 * token_s)
        assert 0.4 * most < held <= most


def test_a_machine_that_is_slower_than_speech_holds_none() -> None:
    assert streams_held(Costs(0.05, 0.0, 0.0, 0.0), 25, 16) == 0
    assert streams_held(Costs(0.0, 20.0, 0.0, 0.0), 25, 16) == 0


def test_a_batch_that_costs_the_same_whatever_is_in_it_holds_more() -> None:
    alone = streams_held(Costs(0.002, 0.5, 0.0, 0.01), 25, 1)
    batched = streams_held(Costs(0.002, 0.5, 0.0, 0.01), 25, 16)
    assert alone >= 1
    assert batched >= 4 * alone


@given(step_s=st.floats(0.001, 0.03), batch_s=st.floats(0.01, 1), token_s=st.floats(1e-5, 1e-2))
def test_a_faster_machine_holds_no_fewer(step_s: float, batch_s: float, token_s: float) -> None:
    slow = streams_held(Costs(step_s, batch_s, token_s, 0.05), 25, 16)
    fast = streams_held(Costs(step_s / 2, batch_s / 2, token_s / 2, 0.02), 25, 16)
    assert fast >= slow
