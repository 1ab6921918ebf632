"""Another engine hears until the chosen one has its model, and then no more."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from services.engines import ENGINES
from services.errors import InvalidRequestError, UnavailableError
from services.settings import profile, profiles
from services.transcription.engines.protocol import (
    GuessRequest,
    TranscriptionEngine,
    TranscriptionRequest,
)
from services.transcription.engines.stand_in import WithStandIn, with_stand_in
from tests.fakes.transcription_engine import FakeEngine
from tests.hearing_app import said
from tests.live_app import MANUAL, RATE_HZ
from tests.sounds import to_bytes
from tests.whisper_engine import until

if TYPE_CHECKING:
    from collections.abc import Callable

SOUND = said("hello")


class Poor(FakeEngine):
    """Hears English only."""

    name = "poor"
    languages = frozenset({"en"})

    def __init__(self, **options: Any) -> None:
        super().__init__(translates=False, **options)
        self.models = ("poor",)


def arrive(engine: FakeEngine) -> None:
    engine.ready, engine.settled = True, False


@pytest.fixture
def chosen() -> FakeEngine:
    return FakeEngine(ready=False)


@pytest.fixture
def poor() -> Poor:
    return Poor()


@pytest.fixture
async def both(chosen: FakeEngine, poor: Poor) -> WithStandIn:
    engine = WithStandIn(chosen, poor)
    await engine.start()
    return engine


async def heard(engine: TranscriptionEngine, **options: Any) -> list[str]:
    request = TranscriptionRequest([SOUND], **options)
    return [one.text async for one in engine.transcribe(request)]


async def test_the_stand_in_hears_and_the_status_says_so_and_what_is_lacking(
    both: WithStandIn, chosen: FakeEngine, poor: Poor
) -> None:
    assert (both.ready, both.settled) == (True, True)
    assert both.status == "poor hears in fake's place: no model: this engine was told to have none"
    assert await heard(both) == [" hello"]
    assert (await both.guess(GuessRequest(SOUND))).text == "hello"
    assert (len(poor.requests), len(chosen.requests)) == (2, 0)
    assert both.models == ("fake", "poor")


@pytest.mark.parametrize("options", [{"language": "de"}, {"task": "translate"}])
async def test_what_the_stand_in_cannot_is_refused_until_the_other_is_there(
    both: WithStandIn, chosen: FakeEngine, options: dict[str, Any]
) -> None:
    request = TranscriptionRequest([SOUND], **options)
    with pytest.raises(InvalidRequestError, match="poor"):
        both.check(request)
    arrive(chosen)
    both.check(request)


async def test_the_chosen_engine_takes_over_from_the_next_request_on(
    both: WithStandIn, chosen: FakeEngine, poor: Poor
) -> None:
    poor.delay_s = 0.05
    before = asyncio.create_task(heard(both))
    await until(lambda: bool(poor.requests))
    arrive(chosen)
    assert await before == [" hello"]
    assert await heard(both) == [" hello"]
    assert (len(poor.requests), len(chosen.requests)) == (1, 1)
    assert (both.status, both.translates) == ("ready", True)


async def test_a_turn_begun_with_the_stand_in_is_ended_by_the_other_with_its_text(
    served: Callable[..., Any], both: WithStandIn, chosen: FakeEngine, poor: Poor
) -> None:
    role = await served(both)
    role.guesses = lambda: len(poor.requests)
    async with role.talk(**MANUAL) as talk:
        stable = (await talk.begin(role.guesses))[-1]["delta"]
        arrive(chosen)
        await talk.speak(to_bytes(said("|||||bye", RATE_HZ)))
        await talk.say("input_audio_buffer.commit")
        transcript = (await talk.until("completed"))[-1]["transcript"]
    assert transcript.startswith(stable)
    assert chosen.requests


async def test_without_either_it_is_unavailable() -> None:
    engine = WithStandIn(FakeEngine(ready=False), Poor(ready=False))
    await engine.start()
    assert not engine.ready
    with pytest.raises(UnavailableError, match="no model"):
        engine.check(GuessRequest(SOUND))


def test_only_the_demo_does_with_a_poor_model() -> None:
    standing_in = {
        name: profile(name).get("transcription", {}).get("stand_in") for name in profiles()
    }
    assert {name for name, stand_in in standing_in.items() if stand_in} == {"demo"}
    assert standing_in["demo"] in ENGINES["transcription"]


def test_an_engine_needs_no_stand_in_that_is_not_named_or_itself(chosen: FakeEngine) -> None:
    assert with_stand_in(chosen, "") is chosen
    assert with_stand_in(chosen, "fake") is chosen


def test_a_stand_in_that_is_not_installed_is_told_and_left_out(
    chosen: FakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entry = replace(ENGINES["transcription"]["pocketsphinx"], libraries=("no_such_library",))
    monkeypatch.setitem(ENGINES["transcription"], "pocketsphinx", entry)
    assert with_stand_in(chosen, "pocketsphinx") is chosen
    assert "bentovox[pocketsphinx]" in caplog.text
