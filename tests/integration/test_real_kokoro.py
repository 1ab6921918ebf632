"""What a real Kokoro says is heard by a real Whisper, in every format, to its last word."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

pytest.importorskip("misaki", reason="the kokoro extra is not installed")

from services.audio.encode import to_wav
from services.audio.formats import MEDIA_TYPES
from services.audio.resample import Resampler
from services.conversation import routes
from services.server.shell import Shell
from services.settings.sections import ConversationSettings
from services.speech.engines.kokoro.model import PACKAGED, loudness_db
from services.speech.engines.protocol import SynthesisRequest
from services.transcription.engines.faster_whisper.loader import TINY_EN
from services.transcription.engines.protocol import SAMPLE_RATE_HZ, TranscriptionRequest
from tests.hearing_app import Hearing, hearing_app
from tests.kokoro import kokoro_engine
from tests.packaged import packaged
from tests.speech_app import app_of, ready, shelled
from tests.translating_app import TranslatingChat
from tests.whisper_engine import until, whisper_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from services.audio.pcm import Samples
    from services.speech.engines.kokoro.engine import KokoroEngine
    from services.transcription.engines.faster_whisper.engine import FasterWhisperEngine

pytestmark = pytest.mark.timeout(900)  # the first ones fetch 140 MB
TEXTS = (
    "The weather in London was cold and wet, so we stayed at home all day.",
    "Every morning the children walk to school together, talking about music and football.",
    "Please remember to bring your passport, your tickets, and enough money for the journey.",
    "The engineers were worried because the machine was getting warmer during the night.",
)
MOST_WRONG = 0.1  # of the words; .01 was seen


@pytest.fixture(scope="module")
def engine() -> Iterator[KokoroEngine]:
    """One for all tests: once it is loaded, no event loop is its own."""
    with kokoro_engine(packaged(PACKAGED)) as engine:
        yield engine


@pytest.fixture
async def whisper() -> AsyncIterator[FasterWhisperEngine]:
    async with whisper_engine(packaged(TINY_EN)) as engine:
        yield engine


async def said(engine: KokoroEngine, text: str, voice: str = "alloy", **more: Any) -> Samples:
    frames = [frame async for frame in engine.synthesise(SynthesisRequest(text, voice, **more))]
    whole: Samples = np.concatenate(frames)
    return whole


async def heard(whisper: FasterWhisperEngine, samples: Samples, rate_hz: int = 24_000) -> str:
    resampler = Resampler(rate_hz, SAMPLE_RATE_HZ)
    sound = np.concatenate([resampler.feed(samples), resampler.finish()])
    return "".join([one.text async for one in whisper.transcribe(TranscriptionRequest([sound]))])


def words_of(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9 ]", "", text.lower()).split()


def wrong(wanted: list[str], found: list[str]) -> int:
    """Count the words to change, to add or to drop."""
    row = list(range(len(found) + 1))
    for number, word in enumerate(wanted, 1):
        before, row[0] = row[0], number
        for column, other in enumerate(found, 1):
            best = min(row[column] + 1, row[column - 1] + 1, before + (word != other))
            before, row[column] = row[column], best
    return row[-1]


@pytest.mark.parametrize("voice", ["alloy", "onyx"])
async def test_it_is_understood_word_for_word(
    engine: KokoroEngine, whisper: FasterWhisperEngine, voice: str
) -> None:
    errors = words = 0
    for text in TEXTS:
        wanted, found = (
            words_of(text),
            words_of(await heard(whisper, await said(engine, text, voice))),
        )
        assert found[-1] == wanted[-1], "the last word is not lost"
        errors, words = errors + wrong(wanted, found), words + len(wanted)
    assert errors <= MOST_WRONG * words


@pytest.mark.parametrize("audio_format", sorted(MEDIA_TYPES))
async def test_every_format_is_heard_to_the_last_word_through_both_roles(
    engine: KokoroEngine, whisper: FasterWhisperEngine, audio_format: str
) -> None:
    app: Any = shelled(app_of(engine))
    transport = httpx.ASGITransport(app=app)
    body = {"model": "tts-1", "voice": "alloy", "input": TEXTS[0], "response_format": audio_format}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/v1/audio/speech", json=body)
    assert answer.status_code == 200
    data = answer.content
    if audio_format == "pcm":
        data = to_wav(np.frombuffer(data, dtype="<i2").astype(np.float32) / 32768, 24_000)
    elif audio_format in {"ulaw", "alaw"}:
        data = g711(data, audio_format)
    hearing: Any = Hearing(whisper)  # type: ignore[arg-type]
    text = (await hearing.post(data)).json()["text"]
    assert wrong(words_of(TEXTS[0]), words_of(text)) <= 1
    assert words_of(text)[-1] == "day"


async def test_a_recording_is_translated_by_real_models_and_heard_again(
    engine: KokoroEngine, whisper: FasterWhisperEngine, serve: Any
) -> None:
    roles = {
        "chat": TranslatingChat(lambda text: text.replace("cold and wet", "warm and dry")),
        "speech": ready(shelled(app_of(engine))),
        "transcription": ready(shelled(hearing_app(whisper))),
    }
    role = routes.build(
        ConversationSettings(), {name: [await serve(one)] for name, one in roles.items()}
    )
    fields = {"language": "en-GB", "source_language": "en", "response_format": "wav"}
    url = await serve(Shell(role))
    async with role.lifespan(), httpx.AsyncClient(base_url=url, timeout=300) as client:
        while role.readiness().status != "ready":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        spoken = to_wav(await said(engine, TEXTS[0]), 24_000)
        answer = await client.post(
            "/v1/audio/speech-translations", files={"file": spoken}, data=fields
        )
    assert answer.status_code == 200, answer.text
    hearing: Any = Hearing(whisper)  # type: ignore[arg-type]
    text = (await hearing.post(answer.content)).json()["text"]
    meant = words_of(TEXTS[0].replace("cold and wet", "warm and dry"))
    assert wrong(meant, words_of(text)) <= 2


def g711(data: bytes, codec: str) -> bytes:
    """Decode bare G.711 at 8 kHz to a wav."""
    import av  # noqa: PLC0415

    decoder: Any = av.CodecContext.create(f"pcm_{codec.replace('ulaw', 'mulaw')}", "r")
    decoder.sample_rate, decoder.layout = 8000, "mono"
    frames = decoder.decode(av.Packet(data))
    samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])
    return to_wav(samples.astype(np.float32) / 32768, 8000)


async def test_the_first_sound_comes_long_before_the_last(engine: KokoroEngine) -> None:
    began = time.perf_counter()
    async with aclosing(engine.synthesise(SynthesisRequest(" ".join(TEXTS), "alloy"))) as frames:
        await anext(frames)
        first_s = time.perf_counter() - began
        async for _ in frames:
            pass
    assert first_s < (time.perf_counter() - began) / 2


async def test_closing_ends_the_computation(engine: KokoroEngine) -> None:
    began = time.perf_counter()
    await said(engine, " ".join(TEXTS), "alloy")
    whole_s = time.perf_counter() - began
    frames = engine.synthesise(SynthesisRequest(" ".join(TEXTS), "alloy"))
    first = asyncio.ensure_future(anext(frames))
    await until(lambda: engine.active > 0)
    first.cancel()
    began = time.perf_counter()
    await until(lambda: engine.active == 0)
    assert time.perf_counter() - began < whole_s / 2


async def test_the_same_request_gives_the_same_samples(engine: KokoroEngine) -> None:
    first = await said(engine, TEXTS[0], seed=7)
    assert np.array_equal(first, await said(engine, TEXTS[0], seed=7))


async def test_a_mix_is_another_voice_and_understood(
    engine: KokoroEngine, whisper: FasterWhisperEngine
) -> None:
    one = await said(engine, TEXTS[0], "jf_alpha")
    mix = await said(engine, TEXTS[0], "jf_alpha(2)+jm_kumo(1)")
    assert one.size != mix.size or not np.allclose(one, mix, atol=0.05)
    assert wrong(words_of(TEXTS[0]), words_of(await heard(whisper, mix))) <= 1


@pytest.mark.parametrize("speed", [0.5, 1.5, 2.0, 3.0])
async def test_speed_scales_the_duration(engine: KokoroEngine, speed: float) -> None:
    plain = await said(engine, TEXTS[0])
    scaled = await said(engine, TEXTS[0], speed=speed)
    assert scaled.size == pytest.approx(plain.size / speed, rel=0.12)


async def test_voices_are_equally_loud(engine: KokoroEngine) -> None:
    voices = ("jf_nezumi", "jf_tebukuro", "jm_kumo")
    levels = [loudness_db(await said(engine, TEXTS[0], voice)) for voice in voices]
    assert max(levels) - min(levels) < 2.5


async def test_it_says_that_the_packages_voices_are_japanese(engine: KokoroEngine) -> None:
    alloy = engine.voice("alloy")
    assert "a speaker of Japanese" in alloy.name
