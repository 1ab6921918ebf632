"""Voices for an engine that has none: spoken once by another engine, and stored as built in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from services.errors import ConfigurationError
from services.speech.speakers import BuiltInVoices
from services.speech.voices import VoiceStore
from tests.fakes.speech_engine import FakeEngine
from tests.speech_app import Served, fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


ORIGIN = "spoken by a fake"


class Kokoro(FakeEngine):
    """Lends two voices once the test says that it is ready."""

    def __init__(self) -> None:
        super().__init__({"sage": "echo", "nova": "echo"})


class Cloner(FakeEngine):
    """An engine that clones and has no voices."""

    def __init__(self) -> None:
        super().__init__()
        self._voices = ()


@pytest.fixture
def store(tmp_path: Path) -> VoiceStore:
    return VoiceStore(tmp_path / "store")


@pytest.fixture
def kokoro() -> Kokoro:
    return Kokoro()


@pytest.fixture
async def served(store: VoiceStore, kokoro: Kokoro) -> AsyncIterator[Served]:
    built_in = BuiltInVoices(lambda: kokoro, ORIGIN, store, ())
    served = Served(Cloner(), store, built_in=built_in)
    await served.engine.start()
    async with served.client:
        yield served


async def made(served: Served, store: VoiceStore, kokoro: FakeEngine, *taken: str) -> BuiltInVoices:
    built_in = BuiltInVoices(lambda: kokoro, ORIGIN, store, taken)
    await built_in.make(served.engine)
    return built_in


async def test_a_name_of_openais_speaks_with_a_voice_that_another_engine_lent(
    served: Served, store: VoiceStore, kokoro: Kokoro
) -> None:
    await made(served, store, kokoro)
    assert (await served.speech(voice="nova")).status_code == 200
    reference = served.engine.requests[-1].reference
    assert reference is not None
    assert reference.text
    assert {one.id for one in served.engine.prepared} == {one.id for one in store.voices()}
    assert not kokoro.ready  # it is closed


async def test_the_card_says_where_it_comes_from_and_names_no_consent(
    served: Served, store: VoiceStore, kokoro: Kokoro
) -> None:
    await made(served, store, kokoro)
    listed = (await served.client.get("/v1/audio/voices")).json()
    assert {voice["name"] for voice in listed["data"]} == {"sage", "nova"}
    assert listed["uploaded_voices"] == []
    for voice in listed["data"]:
        assert (voice["consent"], voice["origin"]) == (None, f"{ORIGIN}, voice Echo")
        refused = await served.client.delete(f"/v1/audio/voices/{voice['id']}")
        assert fault(refused) == (400, "voice", "voice_not_deletable")


async def test_they_are_made_once_and_not_for_names_that_the_operator_has_given(
    served: Served, store: VoiceStore, kokoro: Kokoro
) -> None:
    await made(served, store, kokoro, "sage")
    assert [voice.name for voice in store.voices()] == ["nova"]
    asked = len(kokoro.requests)
    await made(served, store, kokoro, "sage")
    assert len(kokoro.requests) == asked


async def test_a_registered_voice_takes_the_place_of_a_built_in_one(
    served: Served, store: VoiceStore, kokoro: Kokoro
) -> None:
    await made(served, store, kokoro)
    built_in = store.find("sage")
    assert built_in is not None
    own = (await served.register(name="sage")).json()
    assert own["origin"] is None
    assert served.engine.forgotten == [built_in.id], "the engine keeps nothing of it"
    (alloy,) = [voice for voice in store.voices() if voice.name == "sage"]
    assert alloy.id == own["id"]
    again = await served.register(name="sage")
    assert fault(again) == (409, "name", "voice_exists")
    await made(served, store, kokoro)
    assert store.find("sage") == alloy


async def test_until_they_are_there_a_request_hears_how_far_they_are(
    store: VoiceStore, kokoro: Kokoro
) -> None:
    kokoro.lack = "downloading 43 %"
    built_in = BuiltInVoices(lambda: kokoro, ORIGIN, store, ())
    served = Served(Cloner(), store, built_in=built_in)
    await served.engine.start()
    making = asyncio.create_task(built_in.make(served.engine))
    async with served.client, asyncio.timeout(30):
        while not built_in.missing:  # noqa: ASYNC110
            await asyncio.sleep(0)
        refused = await served.speech(voice="sage")
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert "downloading 43 %" in refused.text
        assert fault(await served.speech(voice="nobody"))[0] == 404
        kokoro.lack = ""
        await making
        assert (await served.speech(voice="sage")).status_code == 200


async def test_without_the_other_engine_there_are_none_and_the_log_says_so(
    store: VoiceStore, caplog: pytest.LogCaptureFixture
) -> None:
    def create() -> FakeEngine:
        raise ConfigurationError("speech engine 'kokoro' needs onnxruntime")

    with caplog.at_level("INFO"):
        await BuiltInVoices(create, ORIGIN, store, ()).make(Cloner())
    assert "no built-in voices: speech engine 'kokoro' needs onnxruntime" in caplog.text
    assert store.voices() == []


async def test_an_engine_with_voices_gets_none(store: VoiceStore, kokoro: Kokoro) -> None:
    await BuiltInVoices(lambda: kokoro, ORIGIN, store, ()).make(FakeEngine())
    assert store.voices() == []
