"""Live translation through the gateway: the audio roles' real sockets, fake engines, a rule."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from services.conversation.live import translation, translation_hearing
from services.conversation.live.translation_hearing import (
    LONGEST_S,
    MOST_LAG_S,
    MOST_SPEED,
    Pace,
)
from services.conversation.speech_translation.stages import Segment, into_sentences
from services.openai.paths import LIVE_TRANSLATION
from tests.fakes.transcription_engine import _characters
from tests.hearing_app import said
from tests.live_app import QUIET, RATE_HZ, Talk, spoken, until
from tests.sounds import to_bytes
from tests.talking_app import Rig
from tests.translating_app import TranslatingChat, text_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class Interpreted(Talk):
    """The client's side of a live translation."""

    async def append(self, data: bytes) -> None:
        audio = base64.b64encode(data).decode()
        await self.say("session.input_audio_buffer.append", audio=audio)

    async def update(self, event_id: str | None = None, **session: Any) -> None:
        await self.say("session.update", session=session, event_id=event_id)

    async def close(self) -> list[dict[str, Any]]:
        """Close the session; return the events up to its end."""
        await self.say("session.close")
        return await self.until("session.closed")


@asynccontextmanager
async def interpreted(
    rig: Rig, query: str = "?model=gpt-realtime-translate", **session: Any
) -> AsyncIterator[Interpreted]:
    """Open a session, and update it if there is something to update."""
    url = rig.door.url.replace("http", "ws") + LIVE_TRANSLATION + query
    async with connect(url, proxy=None, max_size=None, close_timeout=1) as connection:
        talk = Interpreted(connection)
        await talk.event("session.created")
        if session:
            await talk.update(**session)
            await talk.event("session.updated")
        yield talk


@pytest.fixture
async def rig(serve: Any, door: Any) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    rigs: list[Rig] = []

    async def start(**rules: Any) -> Rig:
        rigs.append(Rig(TranslatingChat()))
        await rigs[-1].start(serve, door, **rules)
        return rigs[-1]

    yield start
    for one in rigs:
        one.chat.free.set()


GERMAN = {"audio": {"output": {"language": "de"}}}
TOLD = {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}


def told(events: list[dict[str, Any]], what: str) -> str:
    return "".join(one["delta"] for one in events if one["type"] == f"session.{what}.delta")


def heard(events: list[dict[str, Any]]) -> str:
    """Return what the fake ear hears in the translation."""
    kind = "session.output_audio.delta"
    sound = [base64.b64decode(one["delta"]) for one in events if one["type"] == kind]
    samples = np.frombuffer(b"".join(sound), dtype="<i2").astype(np.float32) / 32768
    thirds = samples.reshape(-1, 3)[:, :2].reshape(-1)  # 24 kHz to 16 kHz, near enough
    return "".join(one or " " for one in _characters([thirds])).strip()


def faults(events: list[dict[str, Any]]) -> list[str]:
    return [one["error"]["code"] for one in events if one["type"] == "error"]


async def metric(rig: Rig, name: str) -> float:
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"{rig.door.url}/metrics")).text
    found = [line for line in text.splitlines() if line.startswith(f'{name}{{role="conversation"')]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


# What comes out


async def test_what_is_said_is_spoken_in_another_language(rig: Any) -> None:
    one = await rig()
    before = await metric(one, "bentovox_translation_lag_seconds_count")
    async with interpreted(one, **GERMAN) as talk:
        await talk.speak(spoken("hello there"))
        events = await talk.until("output_audio.delta")
        await talk.speak(spoken("how are you"))
        events += await talk.close()
        assert await talk.close_code() == 1000
    assert faults(events) == []
    assert told(events, "output_transcript") == "HELLO THERE HOW ARE YOU"
    assert told(events, "input_transcript") == ""
    assert heard(events).replace("  ", "") == "HELLO THEREHOW ARE YOU"
    assert "into German" in one.chat.asked[0]["messages"][0]["content"]
    assert len(one.chat.asked[1]["messages"]) == 4  # the sentence before goes along
    sound = next(event for event in events if event["type"] == "session.output_audio.delta")
    assert (sound["format"], sound["sample_rate"], sound["channels"]) == ("pcm16", RATE_HZ, 1)
    assert 1600 <= sound["elapsed_ms"] <= 2000
    assert await metric(one, "bentovox_translation_lag_seconds_count") == before + 2


async def test_what_was_said_is_told_only_if_it_is_asked_for(rig: Any) -> None:
    one = await rig()
    async with interpreted(one, **TOLD) as talk:
        await talk.speak(spoken("hello there"))
        await talk.speak(spoken("how are you"))
        events = await talk.close()
    assert told(events, "input_transcript") == "hello there how are you"


async def test_the_translation_begins_while_the_speaker_goes_on(rig: Any) -> None:
    """As they do not pause, the sentence is cut after `LONGEST_S`."""
    one = await rig()
    words = "and so on " * 20
    assert len(words) / 10 > 2 * LONGEST_S
    async with interpreted(one) as talk:
        await talk.append(to_bytes(said("|" * 8, RATE_HZ)))
        for begin in range(0, len(words), 5):
            guesses = len(one.ear.requests)
            await talk.append(to_bytes(said(words[begin : begin + 5], RATE_HZ)))
            if begin >= 10:
                await until(lambda: len(one.ear.requests) > guesses)  # noqa: B023
        events = await talk.until("output_audio.delta")  # nobody has been silent yet
        await talk.append(QUIET)
        events += await talk.close()
    assert told(events, "output_transcript").split() == words.upper().split()
    assert all(len(text_of(body)) <= 10 * (LONGEST_S + 1) for body in one.chat.asked)


async def test_close_translates_what_was_not_yet_ended(rig: Any) -> None:
    one = await rig()
    async with interpreted(one) as talk:
        await talk.append(spoken("hello")[: -len(QUIET)])
        events = await talk.close()
    assert heard(events) == "HELLO"
    async with interpreted(one) as talk:
        assert [event["type"] for event in await talk.close()] == ["session.closed"]


async def test_the_language_may_change_on_the_way(rig: Any) -> None:
    one = await rig()
    async with interpreted(one, **GERMAN) as talk:
        await talk.speak(spoken("hello"))
        await talk.until("output_audio.delta")
        await talk.update(audio={"output": {"language": "fr-CA"}})
        updated = (await talk.until("session.updated"))[-1]
        assert updated["session"]["audio"]["output"]["language"] == "fr"
        await talk.speak(spoken("there"))
        await talk.close()
    ways = [body["messages"][0]["content"] for body in one.chat.asked]
    assert ["into German" in ways[0], "into French" in ways[1]] == [True, True]
    assert len(one.chat.asked[1]["messages"]) == 2  # no German goes along
    assert [(one.voice, one.language) for one in one.voice.requests] == [
        ("alloy", "de"),
        ("echo", "fr"),  # the only one that speaks French
    ]


async def test_a_voice_and_the_source_can_be_named(rig: Any) -> None:
    one = await rig()
    transcription = {"model": "whisper-1", "language": "fr"}
    audio = {"input": {"transcription": transcription}, "output": {"voice": "echo"}}
    async with interpreted(one, audio=audio) as talk:
        await talk.speak(spoken("hello"))
        await talk.close()
    assert one.voice.requests[-1].voice == "echo"
    assert "from French into English" in one.chat.asked[0]["messages"][0]["content"]


# Errors


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"audio": {"output": {"language": "qq"}}}, "session.audio.output.language"),
        ({"audio": {"output": {"language": 7}}}, "session.audio.output.language"),
        ({"audio": {"output": {"voice": "nobody"}}}, "session.audio.output.voice"),
        (
            {"audio": {"input": {"transcription": {"model": "nobody"}}}},
            "session.audio.input.transcription.model",
        ),
        (
            {"audio": {"input": {"noise_reduction": {"type": "magic"}}}},
            "session.audio.input.noise_reduction.type",
        ),
        ({"type": "realtime"}, "session.type"),
        ({"model": "another"}, "session.model"),
        ({"audi": {}}, "session.audi"),
    ],
)
async def test_a_setting_that_will_not_do_is_named_and_changes_nothing(
    rig: Any, session: dict[str, Any], param: str
) -> None:
    one = await rig()
    async with interpreted(one, **GERMAN) as talk:
        wrong = {"audio": {"output": {"language": "fr"}}, **session}
        if "output" not in wrong["audio"]:
            wrong["audio"] = {**wrong["audio"], "output": {"language": "fr"}}
        await talk.update("mine", **wrong)
        error = (await talk.event("error"))["error"]
        assert (error["param"], error["event_id"]) == (param, "mine")
        await talk.update()
        shown = (await talk.event("session.updated"))["session"]
        assert shown["audio"]["output"] == {"language": "de", "voice": None}
        assert shown["audio"]["input"]["transcription"] is None


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        ("session.input_audio_buffer.append", {"audio": "?"}, "audio"),
        ("session.input_audio_buffer.append", {}, "audio"),
        ("input_audio_buffer.append", {"audio": ""}, "type"),
        ("response.create", {}, "type"),
        ("session.update", {}, "session"),
    ],
)
async def test_a_mistake_is_named_and_the_session_goes_on(
    rig: Any, kind: str, fields: dict[str, Any], param: str
) -> None:
    one = await rig()
    async with interpreted(one) as talk:
        await talk.say(kind, **fields)
        assert (await talk.fault())[0] == param
        await talk.connection.send(b"\x00")
        assert (await talk.fault())[1] == "invalid_message"
        await talk.speak(spoken("hello"))
        assert heard(await talk.close()) == "HELLO"


async def test_an_engine_that_fails_costs_a_sentence(rig: Any) -> None:
    one = await rig()
    one.chat.say = lambda text: "x\u2620" if text == "mute" else text.upper()
    async with interpreted(one) as talk:
        await talk.speak(spoken("failing"))  # to be heard
        events = await talk.until("error")
        one.chat.status, one.chat.error = 500, {"message": "no", "code": "broken"}
        await talk.speak(spoken("lost"))  # to be translated
        events += await talk.until("error")
        one.chat.status = 200
        await talk.speak(spoken("mute"))  # to be spoken
        events += await talk.until("error")
        assert faults(events) == ["engine_failed", "broken", "bad_gateway"]
        await talk.speak(spoken("hello"))
        assert heard(await talk.close()) == "HELLO"


async def test_an_ear_that_breaks_is_opened_again(rig: Any) -> None:
    one = await rig()
    async with interpreted(one) as talk:
        await talk.speak(spoken("hello"))
        await talk.until("output_audio.delta")
        one.ear.ready = False
        await talk.speak(spoken("lost"))
        await talk.until("error")
        one.ear.ready = True
        await talk.speak(spoken("there"))
        events = await talk.close()
    assert "THERE" in heard(events)
    last = [one["elapsed_ms"] for one in events if one["type"].endswith("output_audio.delta")][-1]
    assert last > 2000 * 2  # it counts on from where the first ear was lost


async def test_a_client_that_hangs_up_stops_everything(rig: Any) -> None:
    one = await rig()
    one.voice.delay_s = 0.01
    one.chat.say = lambda text: text * 50
    async with interpreted(one) as talk:
        await talk.speak(spoken("hello"))
        await talk.until("output_audio.delta")
        one.chat.free.clear()
        one.chat.arrived.clear()
        await talk.speak(spoken("there"))
        await asyncio.wait_for(one.chat.arrived.wait(), 5)
    await until(lambda: one.chat.cut == 1 and one.idle())


async def test_too_many_sessions_are_429_and_an_unknown_model_404(rig: Any) -> None:
    one = await rig(realtime={"sessions": 1})
    async with interpreted(one):
        with pytest.raises(InvalidStatus) as error:
            async with interpreted(one):
                pass
        assert error.value.response.status_code == 429
    with pytest.raises(InvalidStatus) as error:
        async with interpreted(one, "?model=nobody"):
            pass
    assert error.value.response.status_code == 404


async def test_a_silent_client_is_told_to_go(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "IDLE_S", 0.05)
    one = await rig()
    async with interpreted(one) as talk:
        assert (await talk.fault())[1] == "idle_timeout"
        assert await talk.close_code() == 3008


async def test_a_session_ends_when_its_time_is_up(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translation, "LASTS_S", 0)
    one = await rig()
    async with interpreted(one) as talk:
        await talk.speak(spoken("hello"))
        await talk.until("session.closed")


# Lag


async def test_what_would_be_heard_too_late_is_left_out(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await rig()
    before = await metric(one, "bentovox_translation_left_out_total")
    late = [MOST_LAG_S + 1]
    monkeypatch.setattr(Pace, "lag_s", lambda *_: late[0])
    async with interpreted(one) as talk:
        await talk.speak(spoken("lost"))
        events = await talk.until("error")
        late[0] = MOST_LAG_S - 1
        await talk.speak(spoken("hello"))
        events += await talk.close()
    assert faults(events) == ["translation_too_late"]
    assert heard(events) == "HELLO"
    assert [text_of(body) for body in one.chat.asked] == ["hello"]
    assert await metric(one, "bentovox_translation_left_out_total") == before + 1


async def test_a_translation_that_comes_too_late_is_not_spoken(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await rig()
    monkeypatch.setattr(Pace, "lag_s", lambda *_: MOST_LAG_S + 1 if one.chat.asked else 0.0)
    async with interpreted(one) as talk:
        await talk.speak(spoken("lost"))
        events = await talk.close()
    assert faults(events) == ["translation_too_late"]
    assert told(events, "output_transcript") == "LOST"
    assert not one.voice.requests


async def test_the_voice_is_faster_while_sound_waits_to_be_played(rig: Any) -> None:
    one = await rig()
    one.chat.say = lambda text: text * 30
    async with interpreted(one) as talk:
        await talk.speak(spoken("hello"))
        await talk.until("output_audio.delta")
        await talk.speak(spoken("there"))
        await talk.close()
    assert [request.speed for request in one.voice.requests] == [1.0, MOST_SPEED]


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(translation_hearing.time, "monotonic", lambda: self.now)


def test_lag_is_what_a_listener_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pace = Clock(monkeypatch), Pace()
    for _ in range(10):
        clock.now += 0.2
        pace.hear(0.2)
    clock.now += 3
    assert pace.lag_s(2) == pytest.approx(3)
    assert pace.lag_s(1) == pytest.approx(4)
    pace.speak(5)  # which is played first
    assert pace.lag_s(2) == pytest.approx(8)


def test_a_recording_sent_at_once_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pace = Clock(monkeypatch), Pace()
    for _ in range(600):
        pace.hear(0.2)
    clock.now += 40  # the engines take their time
    assert pace.lag_s(120) == 0
    pace.speak(120)
    assert pace.lag_s(120) == pytest.approx(40.2)
    assert pace.speed(120) == MOST_SPEED  # and only now is the listener behind


def test_a_client_that_paused_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pace = Clock(monkeypatch), Pace()
    clock.now += 1
    pace.hear(1)
    clock.now += 60
    pace.hear(1)
    assert pace.lag_s(2) == pytest.approx(0)


def test_the_voice_hurries_only_for_what_waits_to_be_played(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, pace = Clock(monkeypatch), Pace()
    clock.now += 10
    pace.hear(10)
    clock.now += 8  # a slow engine
    assert pace.speed(10) == 1
    pace.speak(3.5)
    assert 1 < pace.speed(10) < MOST_SPEED
    pace.speak(10)
    assert pace.speed(10) == MOST_SPEED


@given(
    pieces=st.lists(st.text(st.sampled_from("abc ,.\u3001\u3002"), min_size=1), max_size=30),
    step_s=st.floats(0.1, 3),
)
async def test_speech_without_an_end_is_cut_and_nothing_is_lost(
    pieces: list[str], step_s: float
) -> None:
    async def segments() -> AsyncIterator[Segment | None]:
        for place, text in enumerate(pieces):
            yield Segment(place * step_s, (place + 1) * step_s, text)
        yield None

    found = [one async for one in into_sentences(segments(), 4.0)]
    assert "".join("".join(one.text.split()) for one in found) == "".join("".join(pieces).split())
    assert all(one.end_s - one.start_s <= 4.0 + 2 * step_s for one in found)
