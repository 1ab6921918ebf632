"""Turns of /v1/realtime with the shell and a real uvicorn; the engine hears tones."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import av
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from services.audio.pcm import to_int16
from services.server.admission import Limits
from services.transcription import realtime
from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    WINDOW_S,
    GuessRequest,
    TranscriptionRequest,
)
from services.transcription.live.transcriber import HELD_SAMPLES
from services.transcription.live.turns import Turn
from tests.fakes.transcription_engine import FakeEngine
from tests.hearing_app import said
from tests.live_app import (
    MANUAL,
    PATH,
    PAUSE,
    PIECE,
    QUIET,
    RATE_HZ,
    TEXT,
    VAD_TURN,
    Served,
    deltas,
    kinds,
    of_turn,
    spoken,
    until,
)
from tests.sounds import to_bytes

# A turn


async def test_text_comes_while_somebody_still_speaks(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        events = await talk.begin(role.guesses, TEXT[:24])  # the rest is not even sent yet
        await talk.speak(to_bytes(said(TEXT[24:] + "|" * 8, RATE_HZ)))
        events += await talk.until("completed")
    assert of_turn(events) == VAD_TURN
    assert events[0]["audio_start_ms"] == 500
    stopped = events[[one["type"] for one in events].index(VAD_TURN[1])]
    assert stopped["audio_end_ms"] == 4512  # 4 s, and the frames that make 500 ms
    assert deltas(events) == TEXT
    final = events[-1]
    assert final["transcript"] == TEXT
    assert final["usage"] == {"type": "duration", "seconds": 4.012}
    assert role.seconds == [pytest.approx(4.012)]
    (item_id,) = {event["item_id"] for event in events if "item_id" in event}
    added = next(event for event in events if event["type"] == "conversation.item.added")
    assert added["item"]["id"] == item_id
    assert added["item"]["content"] == [{"type": "input_audio", "transcript": None}]
    before = kinds(events).index("input_audio_buffer.speech_stopped")
    assert len(deltas(events[:before]).split()) >= 4  # of seven words


async def test_text_that_wavers_is_never_taken_back(served: Any) -> None:
    role = await served(FakeEngine(wavering=True))
    async with role.talk() as talk:
        events = await talk.begin(role.guesses)
        await talk.speak(QUIET)
        events += await talk.until("completed")
    assert "delta" in kinds(events[: kinds(events).index("input_audio_buffer.speech_stopped")])
    assert deltas(events) == events[-1]["transcript"] == TEXT


async def test_a_final_text_that_contradicts_what_was_said_continues_it_instead(
    served: Any,
) -> None:
    class SecondThoughts(FakeEngine):
        async def transcribe(self, request: Any) -> Any:
            async for segment in super().transcribe(request):
                yield replace(segment, text=segment.text.upper())

    role = await served(SecondThoughts())
    async with role.talk() as talk:
        events = await talk.begin(role.guesses)
        await talk.speak(QUIET)
        events += await talk.until("completed")
        await talk.speak(spoken("Hi"))  # too short for a guess
        assert (await talk.until("completed"))[-1]["transcript"] == "HI"
    assert deltas(events) == events[-1]["transcript"] == TEXT


async def test_a_guess_that_does_not_come_back_holds_nobody_up(served: Any) -> None:
    class Pensive(FakeEngine):
        async def guess(self, request: Any) -> Any:
            self.requests.append(request)
            await asyncio.Event().wait()

    role = await served(Pensive())
    async with role.talk() as talk:
        await talk.speak(spoken(TEXT))
        assert (await talk.until("completed"))[-1]["transcript"] == TEXT
    assert isinstance(role.engine.requests[0], GuessRequest)


async def test_one_turn_after_another_in_their_order(served: Any) -> None:
    role = await served(FakeEngine(delay_s=0.02))
    async with role.talk() as talk:
        for text in ("one", "two", "three"):
            await talk.speak(spoken(text))
        events = []
        for _ in range(3):
            events += await talk.until("completed")
    done = [event for event in events if event["type"].endswith("completed")]
    assert [event["transcript"] for event in done] == ["one", "two", "three"]
    committed = [event for event in events if event["type"].endswith("committed")]
    ids = [event["item_id"] for event in committed]
    assert [event["previous_item_id"] for event in committed] == [None, *ids[:2]]
    assert [event["item_id"] for event in done] == ids
    # who speaks is told at once, whatever is still being heard
    assert (
        kinds(events).index("completed") > kinds(events).index("input_audio_buffer.committed") + 2
    )


async def test_silence_is_no_turn(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        await talk.speak(to_bytes(said("|" * 50, RATE_HZ)))
        await talk.configure()
    assert role.engine.requests == []


async def test_logprobs_come_with_the_final_text(served: Any) -> None:
    role = await served()
    async with role.talk(include=["item.input_audio_transcription.logprobs"]) as talk:
        await talk.speak(spoken("ab"))
        events = await talk.until("completed")
    delta, final = events[-2:]
    assert final["logprobs"] == delta["logprobs"]
    assert "".join(token["token"] for token in final["logprobs"]) == " ab"
    assert final["logprobs"][1] == {"token": "a", "bytes": [97], "logprob": -0.1}
    assert deltas(events) == "ab"


@pytest.mark.parametrize(
    ("live_format", "law"), [("audio/pcmu", "pcm_mulaw"), ("audio/pcma", "pcm_alaw")]
)
async def test_telephones_are_heard(served: Any, live_format: str, law: str) -> None:
    role = await served()
    encoder = av.CodecContext.create(law, "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8_000, "mono", "s16"
    samples = to_int16(said("|" * 8 + "hello world" + "|" * 13, 8_000))[np.newaxis]
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = 8_000
    data = b"".join(bytes(packet) for packet in encoder.encode(frame))
    async with role.talk(format={"type": live_format}, **MANUAL) as talk:
        await talk.speak(data)
        await talk.say("input_audio_buffer.commit")
        # Where a tone begins and ends it rings, which is heard as another.
        assert "hello world" in (await talk.until("completed"))[-1]["transcript"]


# Turns that the client commits


async def test_without_turn_detection_the_client_commits(served: Any) -> None:
    role = await served()
    async with role.talk(**MANUAL) as talk:
        events = await talk.begin(role.guesses)  # before it is committed
        await talk.say("input_audio_buffer.commit")
        events += await talk.until("completed")
        assert of_turn(events) == VAD_TURN[2:]
        assert deltas(events) == events[-1]["transcript"] == TEXT
        assert events[-1]["usage"]["seconds"] == pytest.approx(0.8 + len(TEXT) / 10)
        await talk.speak(to_bytes(said("and more", RATE_HZ)))
        await talk.say("input_audio_buffer.commit")
        assert (await talk.until("completed"))[-1]["transcript"] == "and more"


async def test_a_commit_needs_a_tenth_of_a_second(served: Any) -> None:
    role = await served()
    async with role.talk(**MANUAL) as talk:
        await talk.say("input_audio_buffer.commit")
        assert (await talk.fault())[1] == "input_audio_buffer_commit_empty"
        await talk.append(to_bytes(said("a", RATE_HZ))[: PIECE // 2])
        await talk.say("input_audio_buffer.commit", event_id="mine")
        error = (await talk.event("error"))["error"]
        assert error["event_id"] == "mine"
        assert "50 ms" in error["message"]
    async with role.talk() as talk:  # and with turn detection, somebody who speaks
        await talk.append(bytes(PIECE))
        await talk.say("input_audio_buffer.commit")
        assert (await talk.fault())[1] == "input_audio_buffer_commit_empty"


async def test_a_commit_ends_a_turn_that_goes_on(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        await talk.speak(to_bytes(said("|" * 8 + "abcdefgh" * 2, RATE_HZ)))
        await talk.event(VAD_TURN[0])
        await talk.say("input_audio_buffer.commit")
        events = await talk.until("completed")
        assert of_turn(events) == VAD_TURN[2:]
        assert events[-1]["transcript"].startswith("abcdefghabcdefg")
        await talk.speak(to_bytes(said("more" + "|" * 8, RATE_HZ)))
        assert of_turn(await talk.until("completed")) == VAD_TURN


@pytest.mark.parametrize("config", [{}, MANUAL])
async def test_what_is_cleared_is_forgotten(served: Any, config: dict[str, Any]) -> None:
    role = await served(FakeEngine(delay_s=0.01))
    async with role.talk(**config) as talk:
        await talk.begin(role.guesses)
        await talk.say("input_audio_buffer.clear")
        await talk.until("input_audio_buffer.cleared")
        await until(lambda: (role.engine.active, role.shell.admission.in_use) == (0, 0))
        await talk.speak(spoken("now"))
        if config:
            await talk.say("input_audio_buffer.commit")
        events = await talk.until("completed")
    assert events[-1]["transcript"] == "now"
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1


async def test_silence_before_speech_is_not_kept_for_the_commit(served: Any) -> None:
    role = await served()
    async with role.talk(**MANUAL) as talk:
        for _ in range(4):
            await talk.append(bytes(60 * RATE_HZ * 2))
        await talk.configure(**MANUAL)
        assert role.shell.admission.in_use == 0
        await talk.speak(to_bytes(said("hello", RATE_HZ)))
        await talk.say("input_audio_buffer.commit")
        final = (await talk.until("completed"))[-1]
    assert final["transcript"] == "hello"
    assert final["usage"]["seconds"] == pytest.approx(240.5, abs=0.01)
    assert sizes(role) < 1.6  # a second of silence, and what was said


# Turns without end, clients ahead of their time


def sizes(role: Served) -> float:
    """Return the seconds of the longest piece that the engine was given."""
    found = [
        one.samples.size if isinstance(one, GuessRequest) else sum(a.size for a in one.audio)
        for one in role.engine.requests
    ]
    return max(found) / SAMPLE_RATE_HZ


@pytest.mark.parametrize("config", [{}, MANUAL])
async def test_a_turn_of_minutes_is_heard_in_pieces(served: Any, config: dict[str, Any]) -> None:
    role = await served()
    words = [f"{one}{two}{one}{two}" for one in "abcdefgh" for two in "abcdefgh"]
    # Each 0.4 s of a word is followed by 0.4 s of silence, less than ends a turn.
    speech = to_bytes(said("|" * 8 + "".join(f"{word}||||" for word in words) + "||||", RATE_HZ))
    async with role.talk(**config) as talk:
        await talk.speak(speech)
        if config:
            await talk.say("input_audio_buffer.commit")
        events = await talk.until("completed")
    # A cut falls between two tones; its neighbours last longer, and where they ring is another.
    heard = events[-1]["transcript"].split()
    assert [[one for one in dict.fromkeys(word) if one in "abcdefgh"] for word in heard] == [
        list(dict.fromkeys(word)) for word in words
    ]
    assert deltas(events) == events[-1]["transcript"]
    assert sizes(role) <= WINDOW_S
    assert len([one for one in role.engine.requests if isinstance(one, TranscriptionRequest)]) == 3


async def test_silence_is_not_asked_about(served: Any) -> None:
    role = await served()
    async with role.talk(**MANUAL) as talk:
        await talk.begin(role.guesses)
        for _ in range(10):  # the speaker has ended, and the client commits much later
            await talk.speak(QUIET)
        await talk.say("input_audio_buffer.commit")
        events = await talk.until("completed")
    assert events[-1]["transcript"] == TEXT
    guesses = [one.samples.size for one in role.engine.requests if isinstance(one, GuessRequest)]
    assert max(guesses) < (1 + 0.8 + len(TEXT) / 10 + 2 * 0.5) * SAMPLE_RATE_HZ
    assert len([one for one in role.engine.requests if isinstance(one, TranscriptionRequest)]) == 1


async def test_silence_at_the_end_of_a_long_turn_is_no_text(served: Any) -> None:
    role = await served()
    speech = "abcdefg " * 23 + "abcdefgh"  # 19.2 s, and a pause when it is time to cut
    async with role.talk(
        turn_detection={"type": "server_vad", "silence_duration_ms": 3000}
    ) as talk:
        await talk.speak(to_bytes(said(PAUSE + speech + PAUSE * 4, RATE_HZ)))
        events = await talk.until("completed")
    assert events[-1]["transcript"] == speech
    heard = [one for one in role.engine.requests if isinstance(one, TranscriptionRequest)]
    assert len(heard) == 1
    assert events[-1]["usage"]["seconds"] > 22


async def test_a_client_far_ahead_is_held_back(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    add = Turn.add

    def adding(item: Turn, samples: Any, *, speech: bool) -> None:
        add(item, samples, speech=speech)
        held.append(item.held)

    monkeypatch.setattr(Turn, "add", adding)
    role = await served(FakeEngine(delay_s=0.15))
    speech = to_bytes(said("|" * 8 + "abcdefg " * 250 + "|" * 8, RATE_HZ))  # 200 s, at once
    async with role.talk() as talk:
        await talk.append(speech)
        events = await talk.until("completed")
    assert len(events[-1]["transcript"]) > 1900
    assert sum(held) > 0
    assert max(held) < HELD_SAMPLES + SAMPLE_RATE_HZ


async def test_twenty_sessions_speak_to_one_engine_at_once(served: Any) -> None:
    role = await served(limits=Limits(slots=20, queue=0, deadline_s=30))
    texts = [f"speaker {chr(97 + one)} says what only {chr(97 + one)} says" for one in range(20)]
    began = asyncio.Barrier(len(texts))

    async def session(text: str) -> list[dict[str, Any]]:
        def guesses() -> int:
            return sum(one.prompt == text for one in role.engine.requests)

        async with role.talk(transcription={"prompt": text}) as talk:
            events: list[dict[str, Any]] = await talk.begin(guesses, text[:24])
            await began.wait()
            await talk.speak(to_bytes(said(text[24:] + "|" * 8, RATE_HZ)))
            return events + await talk.until("completed")

    async with asyncio.timeout(30):
        found = await asyncio.gather(*map(session, texts))
    for text, events in zip(texts, found, strict=True):
        assert of_turn(events) == VAD_TURN
        assert deltas(events) == events[-1]["transcript"] == text
    await until(lambda: role.shell.admission.in_use == 0)


# Slots, hang-ups, faults, the end


async def test_an_open_session_holds_no_slot_until_somebody_speaks(served: Any) -> None:
    role = await served(limits=Limits(1, 1, 30))
    async with role.talk() as first, role.talk() as second:
        for talk in (first, second):
            await talk.append(bytes(RATE_HZ))
            await talk.configure()
        assert role.shell.admission.in_use == 0
        await first.speak(to_bytes(said("|" * 8 + "abcdefgh", RATE_HZ)))
        await first.event(VAD_TURN[0])
        await until(lambda: role.shell.admission.in_use == 1)
        await second.speak(spoken("two"))
        await until(lambda: role.shell.admission.waiting == 1)
        assert of_turn(await second.until("item.done")) == VAD_TURN[:5]
        await first.speak(bytes(RATE_HZ * 2))
        await first.until("completed")
        await second.until("completed")
        await until(lambda: role.shell.admission.in_use == 0)


async def test_a_turn_without_a_slot_is_told_and_closed_with_1013(served: Any) -> None:
    role = await served(limits=Limits(1, 0, 30))
    async with role.talk() as first, role.talk() as second:
        await first.speak(to_bytes(said("|" * 8 + "abcdefgh", RATE_HZ)))
        await first.event(VAD_TURN[0])
        await until(lambda: role.shell.admission.in_use == 1)
        await second.speak(to_bytes(said("|" * 8 + "abcdefgh", RATE_HZ)))
        assert (await second.until("error"))[-1]["error"]["code"] == "rate_limit_exceeded"
        assert await second.close_code() == 1013


@pytest.mark.parametrize("moment", ["while it lasts", "after it"])
@pytest.mark.parametrize("hang_up", ["close", "vanish"])
async def test_a_client_that_leaves_frees_the_slot_and_stops_the_engine(
    served: Any, hang_up: str, moment: str
) -> None:
    role = await served(FakeEngine(delay_s=30))
    async with role.talk() as talk:
        await talk.speak(
            spoken("hello") if moment == "after it" else to_bytes(said("|" * 8 + TEXT, RATE_HZ))
        )
        await talk.until("item.done" if moment == "after it" else "speech_started")
        await until(lambda: (role.engine.active, role.shell.admission.in_use) == (1, 1))
        if hang_up == "close":
            await talk.connection.close()
        else:
            talk.connection.transport.abort()
        await until(lambda: (role.engine.active, role.shell.admission.in_use) == (0, 0))
    await until(lambda: role.shell.open_sockets == 0)


class Broken(FakeEngine):
    """An engine with a bug."""

    async def transcribe(self, request: Any) -> Any:
        yield None
        raise KeyError(request.language)


@pytest.mark.parametrize("engine", [FakeEngine(fail_at="bad"), Broken()])
async def test_a_turn_on_which_the_engine_fails_is_told_and_the_session_goes_on(
    served: Any, engine: FakeEngine
) -> None:
    role = await served(engine)
    async with role.talk() as talk:
        await talk.speak(spoken("bad"))
        events = await talk.until("failed")
        assert of_turn(events) == [*VAD_TURN[:-1], "failed"]
        assert events[-1]["error"]["code"] == "engine_failed"
        assert events[-1]["error"]["type"] == "server_error"
        if isinstance(engine, Broken):
            return
        await talk.speak(spoken("good"))
        assert (await talk.until("completed"))[-1]["transcript"] == "good"
    assert (role.engine.active, role.shell.admission.in_use) == (0, 0)


async def test_a_guess_that_fails_ends_its_turn_only(served: Any) -> None:
    class Stumbling(FakeEngine):
        stumbles = False

        async def guess(self, request: Any) -> Any:
            if self.stumbles:
                raise KeyError("a bug")
            return await super().guess(request)

    role = await served(Stumbling())
    async with role.talk() as talk:
        await talk.begin(role.guesses)
        role.engine.stumbles = True
        await talk.speak(to_bytes(said("and more", RATE_HZ)))
        await talk.until("failed")
        await until(lambda: role.shell.admission.in_use == 0)
        role.engine.stumbles = False
        await talk.speak(QUIET)
        await talk.speak(spoken("good"))
        events = await talk.until("completed")
    assert events[-1]["transcript"] == "good"
    assert of_turn(events) == [*VAD_TURN[1:5], *VAD_TURN]


async def test_an_engine_that_is_not_ready_is_503_before_accept_and_says_why(served: Any) -> None:
    role = await served(FakeEngine(ready=False))
    with pytest.raises(InvalidStatus) as refused:
        await connect(role.url.replace("http", "ws") + PATH, proxy=None)
    assert refused.value.response.status_code == 503
    message = json.loads(refused.value.response.body or b"")["error"]["message"]
    assert message == role.engine.status


async def test_an_engine_that_is_gone_meanwhile_ends_the_session(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        await role.engine.close()
        await talk.speak(spoken("hello"))
        assert (await talk.until("failed"))[-1]["error"]["code"] == "service_unavailable"
        await talk.event("error")
        assert await talk.close_code() == 1013


async def test_a_client_that_says_nothing_is_closed_with_3008(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime, "IDLE_S", 0.05)
    async with (await served()).talk() as talk:
        assert (await talk.fault())[1] == "idle_timeout"
        assert await talk.close_code() == 3008


async def test_silence_in_a_turn_ends_it_with_what_was_said(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime, "TURN_S", 0.05)
    role = await served()
    async with role.talk() as talk:
        await talk.speak(to_bytes(said("|" * 8 + "hello there ", RATE_HZ)))
        events = await talk.until("completed")
        assert events[-1]["transcript"].startswith("hello ther")
        assert (await talk.fault())[1] == "idle_timeout"
        assert await talk.close_code() == 3008
    assert role.shell.admission.in_use == 0


async def test_at_shutdown_the_turn_is_heard_to_its_end_and_1012_follows(served: Any) -> None:
    role = await served()
    async with role.talk() as talk, role.talk() as idle:
        events = await talk.begin(role.guesses)
        for protocol in role.protocols:
            protocol.shutdown()
        assert await idle.close_code() == 1012
        events += await talk.until("completed")
        assert TEXT.startswith(events[-1]["transcript"])  # the last of it may not have come
        assert deltas(events) == events[-1]["transcript"]
        assert await talk.close_code() == 1012
