"""Pocketsphinx hears espeak-ng's speech, as well as it can; the real library and its model."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

pytest.importorskip("pocketsphinx", reason="the pocketsphinx extra is not installed")
pytest.importorskip("espeakng_loader", reason="the espeak extra is not installed")

from services.audio.encode import to_wav
from services.audio.resample import Resampler
from services.engines import create
from services.errors import EngineError, InvalidRequestError, UnavailableError
from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    SPEECH_ONLY,
    Cutting,
    GuessRequest,
    Segment,
    TranscriptionRequest,
)
from tests.hearing_app import Hearing
from tests.live_app import MANUAL, PIECE, RATE_HZ, Served
from tests.sounds import to_bytes
from tests.whisper import speak
from tests.whisper_engine import at_work, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from services.audio.pcm import Samples
    from services.transcription.engines.pocketsphinx import PocketsphinxEngine

SENTENCE = "I would like to book a table for two people."
VOICE = "gmw/en-US+f5"
BEFORE_S = 4.0


@pytest.fixture(scope="module")
def speech() -> Samples:
    samples: Samples = speak(SENTENCE, VOICE).samples.astype(np.float32)
    return samples


@pytest.fixture
async def engine() -> AsyncIterator[PocketsphinxEngine]:
    engine: Any = create("transcription", "pocketsphinx")
    await engine.start()
    try:
        await until(lambda: engine.ready)
        yield engine
    finally:
        await engine.close()


def silence(duration_s: float) -> Samples:
    return np.zeros(int(duration_s * SAMPLE_RATE_HZ), dtype=np.float32)


def share_of(text: str) -> float:
    wanted = SENTENCE.lower().strip(".").split()
    return sum(word in text.split() for word in wanted) / len(wanted)


async def heard(engine: PocketsphinxEngine, audio: Any, **options: Any) -> list[Segment]:
    return [one async for one in engine.transcribe(TranscriptionRequest(audio, **options))]


async def text(engine: PocketsphinxEngine, *audio: Samples) -> str:
    return "".join([one.text for one in await heard(engine, audio)])


async def test_most_words_are_heard_and_each_at_its_time(
    engine: PocketsphinxEngine, speech: Samples
) -> None:
    sound = np.concatenate([silence(BEFORE_S), speech, silence(5), speech, silence(1)])
    segments = await heard(engine, [sound], words=True, cutting=SPEECH_ONLY)
    assert all(one.language == "en" for one in segments)
    length_s = speech.size / SAMPLE_RATE_HZ
    for begin_s in (BEFORE_S, BEFORE_S + length_s + 5):
        inside = [one for one in segments if begin_s - 0.5 < one.start_s < begin_s + length_s]
        assert share_of("".join(one.text for one in inside)) > 0.6
        assert inside[0].start_s == pytest.approx(begin_s, abs=0.5)
        assert inside[-1].end_s == pytest.approx(begin_s + length_s, abs=0.5)
    for one in segments:
        assert "".join(word.text for word in one.words) == one.text
        times = [time for word in one.words for time in (word.start_s, word.end_s)]
        assert times == sorted(times)
        assert (times[0], times[-1]) == (one.start_s, one.end_s)
        assert one.avg_logprob <= 0


async def test_what_was_heard_before_changes_no_word(
    engine: PocketsphinxEngine, speech: Samples
) -> None:
    first = await text(engine, speech)
    noise = np.random.default_rng(0).normal(0, 0.3, 2 * SAMPLE_RATE_HZ).astype(np.float32)
    await text(engine, noise)
    assert await text(engine, speech[:4000], speech[4000:]) == first


async def test_many_at_once_get_what_each_gets_alone(
    engine: PocketsphinxEngine, speech: Samples
) -> None:
    sounds = [speech, speech[: speech.size // 2], speech[speech.size // 3 :]]
    alone = [await text(engine, sound) for sound in sounds]
    assert await asyncio.gather(*(text(engine, sound) for sound in sounds)) == alone


async def test_silence_and_hardly_any_sound_say_nothing(
    engine: PocketsphinxEngine, speech: Samples
) -> None:
    assert await heard(engine, [silence(40)]) == []
    assert await heard(engine, [silence(40)], cutting=Cutting()) == []
    for samples in (0, 1, 100, 500):
        assert await heard(engine, [speech[:samples]]) == []
        assert (await engine.guess(GuessRequest(speech[:samples], prefix="Hm"))).text == "Hm"


async def test_a_guess_begins_with_what_is_known(
    engine: PocketsphinxEngine, speech: Samples
) -> None:
    plain = (await engine.guess(GuessRequest(speech))).text
    assert share_of(plain) > 0.6
    known = await engine.guess(GuessRequest(speech, prefix="Well, I"))
    assert known.text == " ".join(["Well, I", *plain.split()[2:]])
    assert known.language == "en"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"language": "de"}, "language"),
        ({"languages": ("en", "fr")}, "languages"),
        ({"task": "translate"}, "model"),
        ({"logprobs": True}, "include"),
    ],
)
async def test_what_it_cannot_is_refused_by_name(
    engine: PocketsphinxEngine, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequestError, match="pocketsphinx") as refused:
        engine.check(TranscriptionRequest([], **options))
    assert refused.value.param == param


async def test_a_hangup_ends_the_reading_and_the_decoding_at_once(
    engine: PocketsphinxEngine, speech: Samples
) -> None:
    ended = threading.Event()

    def endless() -> Iterator[Samples]:
        try:
            while True:
                yield np.concatenate([speech, silence(0.5)])
        finally:
            ended.set()

    sound = endless()
    recording = asyncio.create_task(heard(engine, sound))
    await until(lambda: at_work(engine) > 0)
    recording.cancel()
    await asyncio.gather(recording, return_exceptions=True)
    assert not at_work(engine)
    sound.close()  # raises if a thread were still in it
    assert ended.is_set()
    guesses = [asyncio.create_task(engine.guess(GuessRequest(speech))) for _ in range(6)]
    await asyncio.sleep(0)
    for guess in guesses:
        guess.cancel()
    await asyncio.gather(*guesses, return_exceptions=True)
    assert not at_work(engine)
    assert share_of((await engine.guess(GuessRequest(speech))).text) > 0.6


async def test_memory_does_not_grow_with_the_length(engine: PocketsphinxEngine) -> None:
    process = psutil.Process()
    grown: list[int] = []

    def minutes() -> Iterator[Samples]:
        for minute in range(20):
            yield silence(60)
            if minute >= 5:
                grown.append(process.memory_info().rss)

    await heard(engine, minutes(), cutting=SPEECH_ONLY)
    assert grown[-1] - grown[0] < 20 << 20


async def test_closing_ends_what_is_at_work_and_it_loads_again(
    engine: PocketsphinxEngine, speech: Samples
) -> None:
    def endless() -> Iterator[Samples]:
        while True:
            yield speech

    recording = asyncio.create_task(heard(engine, endless()))
    guess = asyncio.create_task(engine.guess(GuessRequest(speech)))
    await until(lambda: at_work(engine) == 2)
    await engine.close()
    for work in (recording, guess):
        with pytest.raises(UnavailableError):
            await work
    with pytest.raises(UnavailableError):
        engine.check(GuessRequest(speech))
    await engine.start()
    await until(lambda: engine.ready)
    assert await heard(engine, [speech])


async def test_a_fault_is_told_and_the_next_is_heard(
    engine: PocketsphinxEngine, speech: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(engine._loader.model, "_found", lambda: 1 / 0)
        with pytest.raises(EngineError, match="pocketsphinx failed"):
            await heard(engine, [speech])
    assert await heard(engine, [speech])


async def test_a_file_is_answered_in_openais_shape(
    engine: PocketsphinxEngine, speech: Samples
) -> None:
    hearing: Any = Hearing(engine)  # type: ignore[arg-type]
    wav = to_wav(speech, SAMPLE_RATE_HZ)
    answer = (await hearing.post(wav, model="pocketsphinx", response_format="verbose_json")).json()
    assert answer["language"] == "english"
    assert share_of(answer["text"]) > 0.6
    refused = await hearing.post(wav, include=["logprobs"])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "include")


async def test_live_speech_has_text_before_it_ends(serve: Any, speech: Samples) -> None:
    engine: Any = create("transcription", "pocketsphinx")
    await engine.start()
    try:
        await until(lambda: engine.ready)
        served = Served(engine)
        served.url = await serve(served)
        resampler = Resampler(SAMPLE_RATE_HZ, RATE_HZ)
        live = to_bytes(np.concatenate([resampler.feed(speech), resampler.finish()]))
        async with served.talk(**MANUAL) as talk:
            told = asyncio.create_task(talk.until("delta"))
            pieces = itertools.cycle(range(0, len(live), PIECE))
            while not told.done():  # as live as somebody speaks
                at = next(pieces)
                await talk.speak(live[at : at + PIECE])
                await asyncio.wait({told}, timeout=0.1)
            first = told.result()[-1]["delta"]
            await talk.speak(live)
            await talk.say("input_audio_buffer.commit")
            transcript = (await talk.until("completed"))[-1]["transcript"]
    finally:
        await engine.close()
    assert transcript.startswith(first)
    assert share_of(transcript) > 0.6
