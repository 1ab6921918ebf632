from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import numpy as np
import pytest

from services.errors import (
    ConfigurationError,
    EngineError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from services.speech.engines.protocol import (
    Capability,
    ConversionRequest,
    SpeechEngine,
    SynthesisRequest,
)
from services.speech.engines.vllm_omni import client
from services.speech.engines.vllm_omni.client import server_name
from services.speech.engines.vllm_omni.engine import VllmOmniEngine
from tests.ports import free_port
from tests.vllm_omni import (
    CHARACTER,
    StandIn,
    asked,
    heard,
    hurried,
    reference,
    server_elsewhere,
    spoken,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from services.audio.pcm import Samples
    from services.speech.engines.protocol import VoiceReference


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    hurried(monkeypatch)


@pytest.fixture
async def engine(server: StandIn) -> AsyncIterator[VllmOmniEngine]:
    engine = VllmOmniEngine(url=server.url)
    await engine.start()
    server.switch(reset=True)
    yield engine
    await engine.close()


# What is said


async def test_a_text_is_said_in_float32_frames_at_24_khz(engine: VllmOmniEngine) -> None:
    contract: SpeechEngine = engine
    frames = [frame async for frame in contract.synthesise(asked("hello world"))]
    assert all(frame.dtype == np.float32 and frame.ndim == 1 and frame.size for frame in frames)
    said = np.concatenate(frames)
    assert said.size == 11 * CHARACTER
    assert heard(said) == "hello world"


async def test_segments_are_asked_for_in_turn_and_joined_without_a_gap(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    said = await spoken(engine, asked("The first sentence. The second sentence. The third one."))
    texts = [request["input"] for request in server.tell()["requests"]]
    assert texts == ["The first sentence.", "The second sentence.", "The third one."]
    assert said.size == sum(map(len, texts)) * CHARACTER


async def test_text_may_come_in_pieces_and_is_said_before_its_end(engine: VllmOmniEngine) -> None:
    more = asyncio.Event()

    async def pieces() -> AsyncIterator[str]:
        yield "the first sentence is "
        yield "this one. "
        await more.wait()
        yield "and this is the last"

    said = []
    async with aclosing(engine.synthesise(asked(pieces()))) as frames:
        async for frame in frames:
            said.append(frame)
            if sum(map(len, said)) >= 31 * CHARACTER:
                more.set()
    whole = heard(np.concatenate(said))
    assert whole.startswith("the first sentence is this one")
    assert whole.endswith("and this is the last")


async def test_the_first_frame_comes_long_before_the_last_is_made(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    server.switch(delay_s=0.3)
    began = time.monotonic()
    async with aclosing(engine.synthesise(asked("a" * 60))) as frames:
        await anext(frames)
        first_s = time.monotonic() - began
        assert [frame async for frame in frames]
    assert first_s < (time.monotonic() - began) / 2


async def test_the_next_segment_is_made_while_the_last_is_played_and_no_more_than_that(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    async with aclosing(
        engine.synthesise(asked("First of all. Second of all. Third of all."))
    ) as f:
        await anext(f)
        await asyncio.to_thread(lambda: _until_asked(server, 2))
        assert [request["input"] for request in server.tell()["requests"]] == [
            "First of all.",
            "Second of all.",
        ]


def _until_asked(server: StandIn, count: int) -> None:
    deadline = time.monotonic() + 5
    while len(server.tell()["requests"]) < count:
        assert time.monotonic() < deadline
    time.sleep(0.2)  # a request too many would be there by now


async def test_speed_changes_the_tempo_of_a_stream_though_the_server_refuses_it(
    engine: VllmOmniEngine,
) -> None:
    said = await spoken(engine, asked("a" * 20, speed=2.0))
    assert abs(said.size - 10 * CHARACTER) <= 1
    assert heard(said[CHARACTER:-CHARACTER]) == "a" * 8


async def test_markers_that_steer_the_model_are_taken_out(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    ref = reference(text="Shout!<|endofprompt|>Good morning.")
    await spoken(engine, asked("one<|endofprompt|>two", ref=ref))
    request = server.tell()["requests"][0]
    assert request["input"] == "one two"
    assert request["ref_text"] == "Shout! Good morning."


async def test_eight_at_once_are_all_said(engine: VllmOmniEngine, server: StandIn) -> None:
    server.switch(delay_s=0.1)
    texts = [chr(ord("a") + number) * 14 for number in range(8)]
    said = await asyncio.gather(*(spoken(engine, asked(text)) for text in texts))
    assert [heard(samples) for samples in said] == texts
    assert server.tell()["most_active"] == 8
    assert not engine._work


# Refusals


def test_what_the_server_would_ignore_is_not_offered() -> None:
    assert VllmOmniEngine.capabilities == {
        Capability.REFERENCE,
    }


def unstarted() -> VllmOmniEngine:
    return VllmOmniEngine(url="http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("request_", "param", "code"),
    [
        (asked(instructions="softly"), "instructions", "unsupported_parameter"),
        (asked(seed=1), "seed", "unsupported_parameter"),
        (asked(language="en"), "language", "unsupported_parameter"),
        (asked("  …"), "input", "blank_input"),
        (asked(ref=reference(text=None)), "ref_text", "missing_required_parameter"),
        (asked(ref=reference(text=" ")), "ref_text", "missing_required_parameter"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    request_: SynthesisRequest, param: str, code: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        unstarted().check(request_)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_voice_without_a_recording_is_not_found_and_the_message_says_how_to_add_one() -> None:
    with pytest.raises(NotFoundError, match="POST /v1/audio/voices") as caught:
        unstarted().check(SynthesisRequest("hello", "alloy"))
    assert (caught.value.param, caught.value.code) == ("voice", "voice_not_found")


async def test_conversion_is_refused() -> None:
    request = ConversionRequest(np.zeros(9, dtype=np.float32), 16_000, reference())
    with pytest.raises(InvalidRequestError):
        await anext(unstarted().convert(request))


def test_the_model_is_known_by_its_id_and_its_short_name() -> None:
    assert unstarted().models == (
        "FunAudioLLM/Fun-CosyVoice3-0.5B-2512",
        "Fun-CosyVoice3-0.5B-2512",
    )


@pytest.mark.parametrize("url", ["", "gpu-box:8091"])
def test_without_a_url_the_error_names_the_setting_and_how_to_start_a_server(url: str) -> None:
    with pytest.raises(ConfigurationError, match="vllm-omni serve") as caught:
        VllmOmniEngine(url=url)
    assert "BENTOVOX_SPEECH__VLLM_OMNI__URL" in caught.value.message


async def test_before_the_start_and_after_the_end_it_is_unavailable(server: StandIn) -> None:
    engine = VllmOmniEngine(url=server.url)
    with pytest.raises(UnavailableError):
        await anext(engine.synthesise(asked()))
    await engine.start()
    await engine.close()
    assert not engine.ready
    with pytest.raises(UnavailableError):
        await anext(engine.synthesise(asked()))


# What goes wrong


async def test_what_the_server_refuses_is_the_clients_error_in_its_words(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    server.switch(refuse="The input is over 2048 tokens")
    with pytest.raises(InvalidRequestError, match="over 2048 tokens"):
        await spoken(engine, asked())
    assert engine.ready


async def test_a_stream_that_breaks_off_is_an_error_after_what_was_heard(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    server.switch(cut_after=2, delay_s=0.05)
    said = []
    frames = engine.synthesise(asked("a" * 40))
    with pytest.raises(EngineError):
        await _take(frames, said)
    assert sum(map(len, said)) >= 6 * CHARACTER
    server.switch(reset=True)
    assert heard(await spoken(engine, asked())) == "abc"


async def _take(frames: AsyncIterator[Samples], said: list[Samples]) -> None:
    async for frame in frames:
        said.append(frame)  # noqa: PERF401  kept although it breaks off


async def test_a_stream_without_a_sample_is_an_error(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    server.switch(silent=True)
    with pytest.raises(EngineError, match="no audio"):
        await spoken(engine, asked())


async def test_a_server_that_falls_silent_is_unavailable(
    engine: VllmOmniEngine, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SILENT_S", 0.5)
    server.switch(delay_s=30)
    began = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        await spoken(engine, asked())
    assert caught.value.retry_after_s
    assert time.monotonic() - began < 15


async def test_hanging_up_stops_the_server(engine: VllmOmniEngine, server: StandIn) -> None:
    server.switch(delay_s=1.0)
    frames = engine.synthesise(asked("a" * 190))
    await anext(frames)
    began = time.monotonic()
    await frames.aclose()
    assert not engine._work
    while server.tell()["active"]:
        assert time.monotonic() - began < 5
    assert server.tell()["aborted"] == 1


async def test_hanging_up_before_the_first_frame_stops_the_server_too(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    server.switch(delay_s=30)
    waiting = asyncio.create_task(spoken(engine, asked()))
    while not (await asyncio.to_thread(server.tell))["active"]:
        pass
    waiting.cancel()
    began = time.monotonic()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    while server.tell()["active"]:
        assert time.monotonic() - began < 5
    assert not engine._work


async def test_closing_the_engine_ends_what_is_said(server: StandIn) -> None:
    engine = VllmOmniEngine(url=server.url)
    await engine.start()
    server.switch(delay_s=0.1)
    frames = engine.synthesise(asked("a" * 190))
    await anext(frames)
    await engine.close()
    with pytest.raises(UnavailableError):
        async for _ in frames:
            pass
    assert not engine._work


async def test_an_iterator_of_text_that_fails_carries_its_own_error(engine: VllmOmniEngine) -> None:
    async def pieces() -> AsyncIterator[str]:
        yield "hello"
        raise LookupError("the language model is gone")

    with pytest.raises(LookupError):
        await spoken(engine, asked(pieces()))


async def test_a_text_that_never_comes_can_be_hung_up_on(engine: VllmOmniEngine) -> None:
    closed = asyncio.Event()

    async def pieces() -> AsyncIterator[str]:
        try:
            await asyncio.sleep(3600)
            yield ""
        finally:
            closed.set()

    waiting = asyncio.create_task(spoken(engine, asked(pieces())))
    await until(lambda: engine._work, 1, "it waits for text")
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert closed.is_set()
    assert not engine._work


# Voices


async def test_a_registered_voice_is_uploaded_once_and_its_features_are_computed_once(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    ref = reference(voice_id="Voice/1")
    await engine.prepare(ref)
    await asyncio.gather(*(spoken(engine, asked(ref=ref)) for _ in range(4)))
    told = server.tell()
    assert told["voices"] == [server_name("Voice/1")]
    assert told["features_computed"] == 1
    assert all(request["by_name"] for request in told["requests"])
    assert {request["ref_text"] for request in told["requests"]} == {"Good morning."}


async def test_a_recording_of_one_request_is_sent_with_it_and_not_kept(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    await spoken(engine, asked())
    told = server.tell()
    assert told["voices"] == []
    assert [request["by_name"] for request in told["requests"]] == [False]
    assert told["requests"][0]["ref_samples"] == 48_000


async def test_a_recording_of_48_khz_is_sent_at_24(engine: VllmOmniEngine, server: StandIn) -> None:
    ref = reference(samples=np.zeros(96_000, dtype=np.float32), sample_rate_hz=48_000)
    await spoken(engine, asked(ref=ref))
    request = server.tell()["requests"][0]
    assert (request["ref_samples"], request["ref_rate_hz"]) == (48_000, 24_000)


async def test_a_forgotten_voice_is_deleted_at_the_server(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    await engine.prepare(reference(voice_id="gone"))
    assert server.tell()["voices"]
    engine.forget("gone")
    engine.forget("never-there")
    await until(lambda: not engine._client._unwanted, 5, "the deletion is done")
    assert server.tell()["voices"] == []


async def test_a_voice_that_is_forgotten_while_it_speaks_is_not_uploaded_again(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    forgotten = asyncio.Event()

    async def text() -> AsyncIterator[str]:
        yield "the first sentence. and "
        await forgotten.wait()
        yield "the second sentence. and the third sentence. "

    request = asked(text(), ref=reference(voice_id="deleted"))
    async with aclosing(engine.synthesise(request)) as frames:
        await anext(frames)
        engine.forget("deleted")
        await until(lambda: not engine._client._unwanted, 5, "the deletion is done")
        forgotten.set()
        async for _ in frames:
            pass
    told = server.tell()
    assert [one["by_name"] for one in told["requests"]] == [True, False, False]
    assert told["voices"] == []


async def test_a_voice_that_is_forgotten_while_it_is_uploaded_does_not_stay(
    engine: VllmOmniEngine, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = engine._client
    upload = client._upload

    async def deleted_meanwhile(ref: VoiceReference, name: str) -> None:
        await upload(ref, name)
        engine.forget("brief")

    monkeypatch.setattr(client, "_upload", deleted_meanwhile)
    ref = reference(voice_id="brief")
    assert heard(await spoken(engine, asked(ref=ref))) == "abc"
    await until(lambda: not client._unwanted, 5, "the deletion is done")
    monkeypatch.setattr(client, "_upload", upload)
    for _ in range(2):  # as the next sentences of the same text would
        assert heard(await spoken(engine, asked(ref=ref))) == "abc"
    assert server.tell()["voices"] == []


async def test_a_server_that_keeps_no_voices_gets_the_recording_each_time(
    engine: VllmOmniEngine, server: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    server.switch(no_voices=True)
    ref = reference(voice_id="v")
    await engine.prepare(ref)
    assert heard(await spoken(engine, asked(ref=ref))) == "abc"
    told = server.tell()
    assert not any(request["by_name"] for request in told["requests"])
    assert caplog.text.count("sent with each request") == 1


async def test_a_voice_that_the_server_lost_is_sent_with_the_request(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    ref = reference(voice_id="lost")
    await engine.prepare(ref)
    server.delete_voice(server_name("lost"))
    assert heard(await spoken(engine, asked(ref=ref))) == "abc"
    assert heard(await spoken(engine, asked(ref=ref))) == "abc"
    assert [request["by_name"] for request in server.tell()["requests"]] == [True, False, True]
    engine.forget("lost")
    await until(lambda: not engine._client._unwanted, 5, "the deletion is done")


async def test_preparing_refuses_a_recording_that_cannot_be_cloned() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await unstarted().prepare(reference(text=None, voice_id="v"))
    assert caught.value.param == "ref_text"


async def test_preparing_while_the_server_is_down_leaves_it_to_the_first_use() -> None:
    await unstarted().prepare(reference(voice_id="v"))


# A server that fails, and comes back


@pytest.mark.parametrize("lying_health", [False, True])
async def test_a_server_without_a_live_stage_is_503_until_it_is_back(
    engine: VllmOmniEngine, server: StandIn, *, lying_health: bool
) -> None:
    server.switch(dead_stage=1, lying_health=lying_health)
    failed = 0
    while engine.ready:
        try:
            await spoken(engine, asked())
        except (EngineError, UnavailableError):
            failed += 1
        await asyncio.sleep(0.01)
    assert failed
    with pytest.raises(UnavailableError) as caught:
        await spoken(engine, asked())
    assert caught.value.retry_after_s
    server.switch(dead_stage=None)
    await until(lambda: engine.ready, 15, "it is back")
    assert heard(await spoken(engine, asked())) == "abc"


async def test_a_dead_stage_is_noticed_without_a_request(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    server.switch(dead_stage=0)
    await until(lambda: not engine.ready, 10, "it is noticed")
    assert "503" in engine.lack


async def test_a_look_that_fails_in_an_unexpected_way_is_not_the_last_one(
    engine: VllmOmniEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise RuntimeError("of a library")

    with monkeypatch.context() as patch:
        patch.setattr(engine._client, "health", broken)
        await until(lambda: not engine.ready, 10, "it is noticed")
    await until(lambda: engine.ready, 10, "it is looked at again")


async def test_one_request_that_breaks_off_is_no_reason_to_be_down(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    server.switch(cut_after=0)
    with pytest.raises(EngineError):
        await spoken(engine, asked())
    looks = server.tell()["health_checks"]
    await until(lambda: server.tell()["health_checks"] > looks + 1, 10, "two looks at it")
    assert engine.ready


async def test_a_server_that_ends_fails_requests_at_once_and_knows_no_voice_when_it_is_back(
    tmp_path: Path,
) -> None:
    port, ref = free_port(), reference(voice_id="v")
    engine = VllmOmniEngine(url=f"http://127.0.0.1:{port}")
    await engine.start()
    assert not engine.ready, "nobody is there yet"
    assert "cannot be reached" in engine.lack
    assert "127.0.0.1" not in engine.lack  # clients read it
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        with server_elsewhere(tmp_path / folder, port) as url:
            await until(lambda: engine.ready, 15, "it is there")
            await engine.prepare(ref)
            assert StandIn(url).tell()["voices"] == [server_name("v")]
            StandIn(url).switch(delay_s=0.1)
            frames = engine.synthesise(asked("a" * 190, ref=ref))
            await anext(frames)
        began = time.monotonic()
        with pytest.raises((EngineError, UnavailableError)):
            await _take(frames, [])
        assert time.monotonic() - began < 5
        await until(lambda: not engine.ready, 10, "it is noticed")
    await engine.close()


async def test_a_server_with_another_rate_is_told_at_start(server: StandIn) -> None:
    server.switch(rate_hz=44_100)
    engine = VllmOmniEngine(url=server.url)
    with pytest.raises(ConfigurationError, match="44100 Hz"):
        await engine.start()


async def test_a_server_that_refuses_the_trial_is_told_at_start(server: StandIn) -> None:
    server.switch(refuse="The model does not support Speech API")
    engine = VllmOmniEngine(url=server.url)
    with pytest.raises(ConfigurationError, match="does not support"):
        await engine.start()


# Nothing leaks


async def test_a_hundred_requests_leave_no_task_no_connection_and_no_file_behind(
    engine: VllmOmniEngine, server: StandIn
) -> None:
    async def one(number: int) -> None:
        frames = engine.synthesise(asked("a" * 20))
        if number % 3 == 0:
            await anext(frames)
            await frames.aclose()
        elif number % 3 == 1:
            await spoken(engine, asked("b"))
        else:
            with pytest.raises(InvalidRequestError):
                engine.check(asked(seed=1))

    await asyncio.gather(*(one(number) for number in range(8)))
    before = (len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")))  # noqa: PTH208
    for begin in range(0, 100, 10):
        await asyncio.gather(*(one(number) for number in range(begin, begin + 10)))
    await asyncio.sleep(0.1)
    gc.collect()
    assert not engine._work
    assert len(asyncio.all_tasks()) <= before[0]
    assert len(os.listdir("/proc/self/fd")) <= before[1]  # noqa: PTH208
    assert server.tell()["active"] == 0


async def test_closing_leaves_no_task_behind(server: StandIn) -> None:
    before = asyncio.all_tasks()
    engine = VllmOmniEngine(url=server.url)
    await engine.start()
    await spoken(engine, asked(ref=reference(voice_id="v")))
    engine.forget("v")
    await engine.close()
    assert asyncio.all_tasks() == before
