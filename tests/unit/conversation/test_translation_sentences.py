"""Segments to sentences, and the part of a recording that serves as the voice."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.conversation.speech_translation.routes import _longest, sampled
from services.conversation.speech_translation.stages import (
    MOST_CHARACTERS,
    Segment,
    fields_named,
    first_fault,
    into_sentences,
    piped,
)
from services.errors import BackendError, InvalidRequestError
from tests.hearing_app import recording

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable


async def each(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


async def sentences(*segments: Segment) -> list[tuple[float, float, str]]:
    return [(one.start_s, one.end_s, one.text) async for one in into_sentences(each(segments))]


async def test_a_segment_with_an_end_mark_is_a_sentence() -> None:
    assert await sentences(Segment(0, 2, " Hello there."), Segment(2, 3, " Bye!")) == [
        (0, 2, "Hello there."),
        (2, 3, "Bye!"),
    ]


async def test_segments_are_joined_until_the_end_mark() -> None:
    assert await sentences(
        Segment(0, 2, " I say"), Segment(2, 4, " hello."), Segment(4, 5, " So")
    ) == [
        (0, 4, "I say hello."),
        (4, 5, "So"),
    ]


async def test_several_in_one_segment_part_its_time() -> None:
    assert await sentences(Segment(1, 3, "One two. Six ten.")) == [
        (1, 2.06, "One two."),
        (2.06, 3, "Six ten."),
    ]
    chinese = ["\u4f60\u597d\u3002", "\u518d\u89c1\u3002"]
    assert [one[2] for one in await sentences(Segment(0, 9, "".join(chinese)))] == chinese


async def test_a_number_is_not_cut_and_a_quotation_mark_stays() -> None:
    texts = [one[2] for one in await sentences(Segment(0, 5, ' It is 3.5 m. "Yes." He went'))]
    assert texts == ["It is 3.5 m.", '"Yes."', "He went"]


async def test_a_pause_or_another_language_ends_a_sentence() -> None:
    found = await sentences(
        Segment(0, 1, " and", "en"), Segment(2, 3, " then", "en"), Segment(3, 4, " dann", "de")
    )
    assert [one[2] for one in found] == ["and", "then", "dann"]


async def test_a_sentence_is_given_before_the_next_segment_comes() -> None:
    async def endless() -> AsyncIterator[Segment]:
        yield Segment(0, 1, " Done.")
        await asyncio.Event().wait()

    found = into_sentences(endless())
    assert (await anext(found)).text == "Done."
    await found.aclose()


segments = st.lists(
    st.tuples(
        st.floats(0, 2), st.floats(0, 5), st.text(st.sampled_from("ab .!?\u3002"), max_size=700)
    ),
    max_size=8,
)


@given(given_=segments)
async def test_nothing_is_lost_and_times_go_on(given_: list[tuple[float, float, str]]) -> None:
    heard, now = [], 0.0
    for pause, length, text in given_:
        heard.append(Segment(now + pause, now + pause + length, text))
        now += pause + length
    found = [one async for one in into_sentences(each(heard))]
    said = "".join("".join(one.text.split()) for one in heard)
    assert "".join("".join(one.text.split()) for one in found) == said
    assert [one.number for one in found] == [*range(len(found))]
    assert all(0 < len(one.text) <= MOST_CHARACTERS for one in found)
    for before, after in pairwise(found):
        assert before.start_s <= after.start_s + 0.01


# The stretch


def test_the_longest_run_is_taken() -> None:
    run = [
        Segment(0, 1, " a"),
        Segment(2, 3, " b"),
        Segment(3.2, 4, " c"),
        Segment(6, 7, " d"),
    ]
    assert (_longest(run).start_s, _longest(run).end_s, _longest(run).text) == (2, 4, " b c")
    assert _longest(run[:1]).text == " a"


def test_a_run_is_no_longer_than_ten_seconds_unless_one_segment_is() -> None:
    assert _longest([Segment(n * 4, n * 4 + 4, f" {n}") for n in range(5)]).text == " 0 1"
    assert _longest([Segment(0, 20, " all")]).text == " all"


async def test_segments_wait_for_the_stretch_and_none_is_lost() -> None:
    loop = asyncio.get_running_loop()
    data = recording("abcdefghij" * 5)
    given_ = [Segment(n, n + 1, f" {n}") for n in range(5)]
    voice: asyncio.Future[Any] = loop.create_future()
    found = [one async for one in sampled(each(given_), data, "cons_1", voice)]
    assert found == given_
    fields = voice.result()
    assert (fields["ref_text"], fields["consent"]) == ("0 1 2", "cons_1")
    assert fields["ref_audio"].startswith("data:audio/wav;base64,")
    silent: asyncio.Future[Any] = loop.create_future()
    assert [one async for one in sampled(each([]), data, "cons_1", silent)] == []
    assert not silent.done()


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        ([Segment(0, 5, " noise", clear=False), Segment(5, 9, " clear")], "clear"),
        ([Segment(0, 5, " noise", clear=False), Segment(5, 6, " short")], "short"),
        ([Segment(0, 5, " noise", clear=False)], "noise"),
        ([Segment(0, 4, " noise", clear=False), Segment(4, 61, " on", clear=False)], "on"),
    ],
)
async def test_what_is_heard_clearly_is_spoken_like(heard: list[Segment], text: str) -> None:
    voice: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    data = recording("abcdefghij" * 10)
    assert [one async for one in sampled(each(heard), data, "cons_1", voice)] == heard
    assert voice.result()["ref_text"] == text


# Stages


async def test_a_stage_runs_ahead_only_so_far() -> None:
    made = 0

    async def count() -> Any:
        nonlocal made
        while made < 20:
            made += 1
            yield made

    async with asyncio.TaskGroup() as group:
        ahead = piped(group, count(), 3)
        assert await anext(ahead) == 1
        for _ in range(50):
            await asyncio.sleep(0)
        assert made <= 6
        assert [one async for one in ahead] == [*range(2, 21)]


async def test_the_first_fault_of_any_stage_is_what_is_raised() -> None:
    closed = asyncio.Event()

    async def endless() -> Any:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def broken(items: Any) -> Any:
        async for _ in items:
            raise BackendError("broke")
            yield

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            async for _ in piped(group, broken(piped(group, endless(), 1)), 1):
                pass

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert str(first_fault(caught.value)) == "broke"
    assert closed.is_set()


def test_a_refusal_names_the_clients_field() -> None:
    with (
        pytest.raises(InvalidRequestError) as caught,
        fields_named({"language": "source_language"}),
    ):
        raise InvalidRequestError("no", param="language")
    assert caught.value.param == "source_language"
