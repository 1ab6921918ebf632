"""Which pieces of sound are made next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.speech.engines.cosyvoice.schedule import Piece, together

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
