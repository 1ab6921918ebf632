from __future__ import annotations

import asyncio
import ctypes
import gc
import threading
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from services.audio.encode import OUTPUT_RATE_HZ, Encoder
from services.audio.resample import Resampler
from services.errors import (
    EngineError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from services.speech.engines.espeak.voices import OPENAI_VOICES
from services.speech.engines.protocol import SynthesisRequest
from tests.decoding import decode
from tests.hearing import HEARING_RATE_HZ, four_digits_heard

pytest.importorskip("espeakng_loader", reason="the espeak extra is not installed")

from services.speech.engines.espeak.engine import EspeakEngine  # after the skip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.audio.pcm import Samples

TEXT = "The quick brown fox jumps over the lazy dog."


@pytest.fixture
async def engine() -> AsyncIterator[EspeakEngine]:
    engine = EspeakEngine()
    await engine.start()
    yield engine
    await engine.close()


async def spoken(engine: EspeakEngine, text: str, voice: str = "en-us", **more: Any) -> Samples:
    request = SynthesisRequest(text, voice, **more)
    return np.concatenate([frame async for frame in engine.synthesise(request)])


async def idle(engine: EspeakEngine) -> float:
    began = time.perf_counter()
    while engine.active:  # noqa: ASYNC110  the engine has no event for this
        await asyncio.sleep(0.001)
    return time.perf_counter() - began


async def test_frames_are_float32_mono_at_the_rate_reported(engine: EspeakEngine) -> None:
    assert engine.sample_rate_hz == 22_050
    samples = await spoken(engine, TEXT)
    assert samples.dtype == np.float32
    assert 2.0 < len(samples) / engine.sample_rate_hz < 4.0
    assert 0.1 < np.abs(samples).max() <= 1.0


@pytest.mark.parametrize("speed", [0.25, 0.4, 0.5, 0.75, 1.4, 1.5, 2.0, 2.6, 3.0, 4.0])
async def test_speed_scales_the_duration(engine: EspeakEngine, speed: float) -> None:
    text = f"{TEXT} {TEXT}"
    ratio = len(await spoken(engine, text)) / len(await spoken(engine, text, speed=speed))
    assert ratio == pytest.approx(speed, rel=0.08)


async def test_texts_of_other_lengths_leave_nothing_behind(engine: EspeakEngine) -> None:
    """ctypes keeps each type that is made, such as an array of a certain length."""

    def types() -> int:
        made = [one for one in gc.get_objects() if isinstance(one, type)]
        return sum(issubclass(one, ctypes.Array | ctypes.Structure) for one in made)

    await spoken(engine, "Hello.")
    before = types()
    for length in range(2, 12):
        await spoken(engine, "Hello" + " again" * length)
    assert types() == before


async def test_frames_come_before_a_long_text_is_done(engine: EspeakEngine) -> None:
    request = SynthesisRequest(TEXT * 60, "en-us")
    async with aclosing(engine.synthesise(request)) as frames:
        first = await anext(frames)
    assert len(first) < engine.sample_rate_hz


async def test_closing_the_iterator_stops_the_thread_at_once(engine: EspeakEngine) -> None:
    frames = engine.synthesise(SynthesisRequest("word " * 800, "en-us", speed=0.25))
    await anext(frames)
    await frames.aclose()
    assert await idle(engine) < 0.5


async def test_a_slow_listener_holds_nobody_up(engine: EspeakEngine) -> None:
    slow = engine.synthesise(SynthesisRequest(TEXT * 60, "en-us"))
    await anext(slow)
    async with asyncio.timeout(10):
        await spoken(engine, TEXT, "fr-fr")
    await slow.aclose()


async def test_closing_the_engine_ends_what_waits(engine: EspeakEngine) -> None:
    requests = [SynthesisRequest(TEXT * 60, "en-us") for _ in range(3)]
    running = [engine.synthesise(request) for request in requests]
    for frames in running:
        await anext(frames)
    await engine.close()
    for frames in running:
        with pytest.raises(UnavailableError):
            async for _ in frames:
                pass
    assert not engine.ready


async def test_four_at_once_interleave_and_never_meet_in_the_library(engine: EspeakEngine) -> None:
    inside: set[int] = set()
    speak = engine._library.speak

    def watched(*args: object, **kwargs: object) -> object:
        assert not inside, "two threads in espeak at once"
        inside.add(threading.get_ident())
        try:
            return speak(*args, **kwargs)  # type: ignore[arg-type]
        finally:
            inside.clear()

    engine._library.speak = watched  # type: ignore[method-assign]
    order: list[str] = []

    async def talk(voice: str) -> None:
        request = SynthesisRequest(f"{TEXT} " * 5, voice)
        async for _ in engine.synthesise(request):
            order.append(voice)  # noqa: PERF401  as they come, not when all are there

    try:
        await asyncio.gather(*map(talk, ["en-us", "fr-fr", "de", "cmn"]))
    finally:
        del engine._library.speak
    firsts = [order.index(voice) for voice in ["en-us", "fr-fr", "de", "cmn"]]
    lasts = [len(order) - order[::-1].index(voice) for voice in ["en-us", "fr-fr", "de", "cmn"]]
    assert max(firsts) < min(lasts), "somebody had to wait until another was done"


async def streamed(text: str) -> AsyncIterator[str]:
    for character in text:
        yield character


async def test_text_that_streams_in_is_spoken_like_whole_text(engine: EspeakEngine) -> None:
    text = f"{TEXT} {TEXT}"
    pieces = [f async for f in engine.synthesise(SynthesisRequest(streamed(text), "en-us"))]
    whole = await spoken(engine, text)
    assert sum(map(len, pieces)) == pytest.approx(len(whole), rel=0.02)


@pytest.mark.parametrize("voice", ["en-us", "EN-US", "pt-BR+f3", "en-us+Marco", "alloy", "Nova"])
def test_voices_are_found_in_any_case(engine: EspeakEngine, voice: str) -> None:
    engine.check(SynthesisRequest("a", voice))


@pytest.mark.parametrize(
    ("voice", "nearest"), [("aloy", "alloy"), ("en-uss", "en-us"), ("en-us+linna", "en-us+linda")]
)
def test_an_unknown_voice_names_the_nearest(engine: EspeakEngine, voice: str, nearest: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        engine.check(SynthesisRequest("a", voice))
    assert (caught.value.param, caught.value.code) == ("voice", "voice_not_found")
    assert repr(nearest) in caught.value.message


@pytest.mark.parametrize("voice", ["../../etc/passwd", "en-us+../../x", "en-us\0", "+f3", ""])
def test_a_voice_is_never_a_path(engine: EspeakEngine, voice: str) -> None:
    with pytest.raises(NotFoundError):
        engine.check(SynthesisRequest("a", voice))


def test_an_unknown_language_is_400_with_the_nearest(engine: EspeakEngine) -> None:
    engine.check(SynthesisRequest("a", "alloy", language="fr"))
    engine.check(SynthesisRequest("a", "alloy", language="de-AT"))
    engine.check(SynthesisRequest("a", "alloy", language="German"))
    with pytest.raises(InvalidRequestError) as caught:
        engine.check(SynthesisRequest("a", "alloy", language="germn"))
    assert (caught.value.param, caught.value.code) == ("language", "unsupported_language")
    assert "'german'" in caught.value.message


@pytest.mark.parametrize(("field", "value"), [("instructions", "softly"), ("seed", 1)])
def test_what_espeak_cannot_do_is_refused(engine: EspeakEngine, field: str, value: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.check(SynthesisRequest("a", "alloy", **{field: value}))  # type: ignore[arg-type]
    assert (caught.value.param, caught.value.code) == (field, "unsupported_parameter")


@pytest.mark.parametrize("text", ["", "   ", "?!...", "\0\x01"])
def test_blank_text_is_refused(engine: EspeakEngine, text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.check(SynthesisRequest(text, "alloy"))
    assert (caught.value.param, caught.value.code) == ("input", "blank_input")


async def test_markup_is_read_out_and_not_obeyed(engine: EspeakEngine) -> None:
    plain = await spoken(engine, "hello world")
    pause = await spoken(engine, "<speak>hello <break time='9s'/> world</speak>")
    assert 1.5 * len(plain) < len(pause) < len(plain) + 9 * engine.sample_rate_hz
    assert len(await spoken(engine, "[[h@l@U]]")) > len(plain)


async def test_control_characters_are_not_commands(engine: EspeakEngine) -> None:
    said = await spoken(engine, "hello 250S world")
    assert len(await spoken(engine, "hello \x01250S world")) == pytest.approx(len(said), rel=0.05)
    assert len(await spoken(engine, "hello\0 250S world")) == pytest.approx(len(said), rel=0.05)


def test_a_hundred_languages_and_openais_names_are_listed(engine: EspeakEngine) -> None:
    voices = engine.voices()
    assert len({v.id for v in voices}) == len(voices)
    assert len({v.languages[0] for v in voices}) > 100
    assert {v.id for v in voices if v.alias_of} == set(OPENAI_VOICES)
    for voice in voices:
        assert engine.voice(voice.id) == voice


async def test_openais_names_are_distinct_voices(engine: EspeakEngine) -> None:
    """Pitch and brightness together tell any two apart; American and British ones by accent."""
    heard: dict[str, tuple[float, float]] = {}
    for name in OPENAI_VOICES:
        samples = await spoken(engine, TEXT, name)
        heard[name] = (pitch_hz(samples, engine.sample_rate_hz), brightness_hz(samples))
    assert len(set(OPENAI_VOICES.values())) == len(OPENAI_VOICES)
    names = list(heard)
    for index, one in enumerate(names):
        for two in names[index + 1 :]:
            if accent(one) != accent(two):
                continue
            pitch = abs(np.log2(heard[one][0] / heard[two][0])) * 12
            bright = abs(np.log2(heard[one][1] / heard[two][1])) * 12
            assert pitch > 0.8 or bright > 1.0, (one, two, heard[one], heard[two])


async def test_openais_names_are_equally_loud_and_none_clips(engine: EspeakEngine) -> None:
    loud = {}
    for name in OPENAI_VOICES:
        said = [await spoken(engine, text, name) for text in (TEXT, "How are you? I am fine.")]
        resampler = Resampler(engine.sample_rate_hz, OUTPUT_RATE_HZ)
        samples = np.concatenate([resampler.feed(np.concatenate(said)), resampler.finish()])
        assert np.abs(samples).max() < 0.99, name
        loud[name] = loudness_lufs(samples, OUTPUT_RATE_HZ)
    assert max(loud.values()) - min(loud.values()) < 1.5, loud
    assert -22.5 < np.mean(list(loud.values())) < -19.5


async def test_no_voice_clips_however_loud_espeak_makes_it(engine: EspeakEngine) -> None:
    for voice in ("cmn+m8", "cmn+rob", "cmn+m3", "ru+pablo"):
        samples = await spoken(engine, "今天的天气很好，我们去公园散步吧。", voice)  # noqa: RUF001
        assert np.abs(samples).max() <= 0.97


def loudness_lufs(samples: Samples, rate_hz: int) -> float:
    """Return the integrated loudness of ITU-R BS.1770-4, its filters applied to the spectrum."""
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(samples.size * 2, 1 / rate_hz) / 48_000)

    def biquad(b: tuple[float, ...], a: tuple[float, ...]) -> np.ndarray:
        return (b[0] + b[1] * z + b[2] * z * z) / (1 + a[0] * z + a[1] * z * z)

    shelf = biquad(
        (1.53512485958697, -2.69169618940638, 1.19839281085285),
        (-1.69065929318241, 0.73248077421585),
    )
    high_pass = biquad((1, -2, 1), (-1.99004745483398, 0.99007225036621))
    heard = np.fft.irfft(np.fft.rfft(samples, samples.size * 2) * shelf * high_pass)
    block = rate_hz * 2 // 5
    begins = range(0, samples.size - block, block // 4)
    power = np.array([np.mean(heard[begin : begin + block] ** 2) for begin in begins])
    levels = -0.691 + 10 * np.log10(power + 1e-12)
    audible = levels > -70
    gate = -0.691 + 10 * np.log10(power[audible].mean()) - 10
    return float(-0.691 + 10 * np.log10(power[audible & (levels > gate)].mean()))


_VARIES = 0.03
"""espeak-ng says the same text up to 1.5 % longer or shorter, over 150 times."""


@pytest.mark.parametrize(
    ("text", "tag"), [("你好世界", "cmn"), ("مرحبا بالعالم", "ar"), ("Привет, мир", "ru")]
)
async def test_a_text_in_another_script_is_spoken_in_its_language(
    engine: EspeakEngine, text: str, tag: str
) -> None:
    by_script = await spoken(engine, text, "alloy")
    in_its_language = await spoken(engine, text, f"{tag}+f5")
    spelt_out = await spoken(engine, text, "alloy", language="en-us")
    assert by_script.size == pytest.approx(in_its_language.size, rel=_VARIES)
    assert spelt_out.size > by_script.size * 1.5


async def test_full_width_digits_are_said_like_others(engine: EspeakEngine) -> None:
    full, usual = await spoken(engine, "１２３ 4", "alloy"), await spoken(engine, "123 4", "alloy")  # noqa: RUF001
    assert full.size == pytest.approx(usual.size, rel=_VARIES)


def accent(name: str) -> str:
    return OPENAI_VOICES[name].partition("+")[0]


def pitch_hz(samples: Samples, rate_hz: int) -> float:
    found = []
    for begin in range(0, len(samples) - 2048, 1024):
        window = samples[begin : begin + 2048] - samples[begin : begin + 2048].mean()
        if np.abs(window).max() < 0.1:
            continue
        likeness = np.fft.irfft(np.abs(np.fft.rfft(window, 4096)) ** 2)[: rate_hz // 60]
        lag = rate_hz // 400 + int(np.argmax(likeness[rate_hz // 400 :]))
        if likeness[lag] > 0.4 * likeness[0]:
            found.append(rate_hz / lag)
    return float(np.median(found))


def brightness_hz(samples: Samples) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    return float((power * np.fft.rfftfreq(len(samples), 1 / 22_050)).sum() / power.sum())


async def test_an_engine_that_was_not_started_is_unavailable() -> None:
    with pytest.raises(UnavailableError):
        await anext(EspeakEngine().synthesise(SynthesisRequest("a", "alloy")))


async def test_a_refusal_of_the_library_is_an_engine_error(
    engine: EspeakEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise OSError("data is gone")

    monkeypatch.setattr(engine._library, "speak", broken)
    with pytest.raises(EngineError) as caught:
        await anext(engine.synthesise(SynthesisRequest("a", "alloy")))
    assert isinstance(caught.value.__cause__, OSError)
    assert await idle(engine) < 0.5


@pytest.mark.parametrize(
    "said", ["one two three four", "seven three nine one", "zero one two three"]
)
@pytest.mark.parametrize("voice", ["alloy", "sage"])
async def test_a_recogniser_hears_the_digits_that_were_spoken(
    engine: EspeakEngine, voice: str, said: str
) -> None:
    encoder = Encoder("mp3", engine.sample_rate_hz)
    data = encoder.feed(await spoken(engine, said, voice)) + encoder.finish()
    assert four_digits_heard(decode(data, sample_rate_hz=HEARING_RATE_HZ)) == said


def test_the_output_rate_is_openais() -> None:
    assert OUTPUT_RATE_HZ == 24_000
