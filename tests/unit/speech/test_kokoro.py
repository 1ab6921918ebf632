"""Kokoro without its model: who speaks meanwhile, voices and mixes, English, and taking turns."""

# ruff: noqa: RUF001 (phonemes)

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("misaki", reason="the kokoro extra is not installed")
pytest.importorskip("espeakng_loader", reason="the espeak extra is not installed")

from services.errors import (
    EngineError,
    InvalidRequestError,
    NotFoundError,
    ServiceError,
    UnavailableError,
)
from services.speech.engines.espeak.library import library
from services.speech.engines.kokoro import engine as kokoro_engine
from services.speech.engines.kokoro.engine import KokoroEngine
from services.speech.engines.kokoro.english import in_words
from services.speech.engines.kokoro.model import REPOSITORY, REVISION, styles_in
from services.speech.engines.kokoro.phonemes import MOST_PHONEMES, Phonemes, ids_of, in_pieces
from services.speech.engines.kokoro.voices import NAMES, OPENAI_VOICES, Voices
from services.speech.engines.protocol import Capability, SynthesisRequest
from tests.fakes.hub import Hub, hub
from tests.whisper_engine import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from services.speech.engines.kokoro.voices import Mix

__all__ = ["hub"]  # a fixture
RATE = 24_000


class FakeModel:
    """Says every piece as half a second of one value, once it may."""

    streams = 3
    voices = NAMES
    pace = 100.0

    def __init__(self) -> None:
        self.said: list[tuple[str, Mix, float]] = []
        self.may = threading.Event()
        self.may.set()
        self.fails = False

    def say(self, phonemes: str, mix: Mix, speed: float, run: Any) -> np.ndarray[Any, Any]:
        self.said.append((phonemes, mix, speed))
        while not self.may.wait(0.005):
            if run.terminate:
                raise RuntimeError("terminated")
        if self.fails:
            raise RuntimeError("out of memory")
        return np.full(RATE // 2, 0.5, dtype=np.float32)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[KokoroEngine]:
    """An engine whose model does not come."""
    engine = KokoroEngine(model=str(tmp_path / "none"))
    await engine.start()
    await until(lambda: not engine.loading)
    yield engine
    await engine.close()


@pytest.fixture
def model(engine: KokoroEngine) -> FakeModel:
    """The model, which has come."""
    made = FakeModel()
    engine._source.model = made  # type: ignore[assignment]
    return made


async def spoken(engine: KokoroEngine, text: Any, voice: str = "alloy", **more: Any) -> Any:
    request = SynthesisRequest(text, voice, **more)
    return np.concatenate([frame async for frame in engine.synthesise(request)])


async def test_espeak_speaks_until_the_model_is_there(engine: KokoroEngine) -> None:
    assert engine.ready
    assert engine.lack.startswith("espeak-ng speaks in kokoro's place: no model: ")
    assert engine.streams is None
    for voice in ("alloy", "af_heart", "bm_george(2)+am_adam", "de+f3"):
        assert 0.3 * RATE < len(await spoken(engine, "Hello there.", voice)) < 3 * RATE
    with pytest.raises(InvalidRequestError) as told:
        engine.check(SynthesisRequest("Hello.", "alloy", seed=1))
    assert told.value.param == "seed"


async def test_without_espeak_and_model_it_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ImportError("espeakng_loader")

    monkeypatch.setattr(kokoro_engine, "EspeakEngine", missing)
    engine = KokoroEngine(model=str(tmp_path / "none"))
    await engine.start()
    await until(lambda: not engine.loading)
    assert not engine.ready
    assert engine.lack.startswith("no model")
    with pytest.raises(ServiceError, match="no model"):
        await spoken(engine, "Hello.")
    await engine.close()


async def test_the_model_speaks_once_it_is_there(engine: KokoroEngine, model: FakeModel) -> None:
    assert not engine.lack
    assert engine.streams == 3
    assert Capability.SEED in engine.capabilities
    audio = await spoken(engine, "One is here, two is there.", "af_bella", speed=1.5)
    assert [(phonemes, mix.first, speed) for phonemes, mix, speed in model.said] == [
        ("wˈʌn ɪz hˈɪɹ, tˈu ɪz ðˈɛɹ.", "af_bella", 1.5)
    ]
    assert len(audio) == RATE // 2


async def test_sentences_are_said_one_by_one_with_pauses_between(
    engine: KokoroEngine, model: FakeModel
) -> None:
    audio = await spoken(engine, "This is the first one. This is the second one.")
    assert len(model.said) == 2
    assert len(audio) == 2 * (RATE // 2) + round(0.3 * RATE)
    assert audio[-1] == 0.5, "no pause at the end"


async def test_a_long_first_sentence_is_cut_at_a_clause_for_an_early_sound(
    engine: KokoroEngine, model: FakeModel
) -> None:
    long = "When the long winter was finally over, the people went out of their houses, and sang."
    await spoken(engine, f"{long} {long}")
    assert [said[0].count(",") for said in model.said] == [1, 1, 2]


@pytest.mark.parametrize(("more", "clauses"), [({}, [1, 1, 1, 1]), ({"seed": 1}, [1, 1, 2])])
async def test_later_sentences_are_cut_where_a_listener_would_wait(
    engine: KokoroEngine, model: FakeModel, more: dict[str, int], clauses: list[int]
) -> None:
    model.pace = 2.0
    long = "When the long winter was finally over, the people went out of their houses, and sang."
    await spoken(engine, f"{long} {long}", **more)
    assert [said[0].count(",") for said in model.said] == clauses


async def test_speeds_beyond_the_models_own_are_stretched(
    engine: KokoroEngine, model: FakeModel
) -> None:
    audio = await spoken(engine, "This is the only one.", speed=4.0)
    assert model.said[0][2] == 2.0
    assert len(audio) == RATE // 4
    audio = await spoken(engine, "This is the only one.", speed=0.25)
    assert model.said[1][2] == 0.5
    assert len(audio) == RATE


async def test_other_languages_are_the_models_or_espeaks(
    engine: KokoroEngine, model: FakeModel
) -> None:
    await spoken(engine, "El tiempo es bueno.", language="es")
    assert model.said[0][1].first == "ef_dora", "a name of OpenAI's speaks with a native voice"
    await spoken(engine, "El tiempo es bueno.", "af_heart", language="es-MX")
    assert model.said[1][1].first == "af_heart"
    await spoken(engine, "नमस्ते दुनिया।", "onyx")
    assert model.said[2][1].first == "hm_omega", "by its script"
    await spoken(engine, "Colour me surprised.", "alloy", language="en-GB")
    assert model.said[3][0].startswith("kˈʌlə"), "a Briton's"
    assert model.said[3][1].first == "af_heart"
    for text, tag in (("Guten Morgen.", "de"), ("Привет, мир.", None), ("안녕하세요.", None)):
        assert len(await spoken(engine, text, language=tag)) > RATE // 4
    assert len(model.said) == 4
    await spoken(engine, "Hello, my name is Kumo.", "jm_kumo")
    assert model.said[4][1].first == "jm_kumo", "English, not Japanese"
    with pytest.raises(InvalidRequestError) as told:
        engine.check(SynthesisRequest("Qapla'.", "alloy", language="tlh"))
    assert told.value.param == "language"


async def test_closing_stops_the_work_even_while_it_computes(
    engine: KokoroEngine, model: FakeModel
) -> None:
    model.may.clear()
    frames = engine.synthesise(SynthesisRequest("This is the first one.", "alloy"))
    first = asyncio.ensure_future(anext(frames))
    await until(lambda: bool(model.said))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await until(lambda: not engine._work)
    model.may.set()
    assert len(await spoken(engine, "This is the next one.")) == RATE // 2


async def test_closing_the_engine_ends_who_speaks_and_who_waits(
    engine: KokoroEngine, model: FakeModel
) -> None:
    model.may.clear()
    requests = [asyncio.ensure_future(spoken(engine, "This is a sentence.")) for _ in range(3)]
    await until(lambda: bool(model.said))
    await until(lambda: len(engine._work) >= 2)
    await engine.close()
    async with asyncio.timeout(10):
        ends = await asyncio.gather(*requests, return_exceptions=True)
    assert all(isinstance(end, UnavailableError) for end in ends), ends


async def test_one_sentence_and_no_more_waits_for_a_slow_listener(
    engine: KokoroEngine, model: FakeModel
) -> None:
    text = "".join(f"This is the sentence with number {number}. " for number in range(20))
    frames = engine.synthesise(SynthesisRequest(text, "alloy"))
    await anext(frames)
    await until(lambda: len(model.said) == 2)
    await spoken(engine, "This is somebody else.")  # whose turn comes all the same
    assert len(model.said) == 3
    await frames.aclose()


async def test_a_failure_is_told_and_the_next_request_served(
    engine: KokoroEngine, model: FakeModel
) -> None:
    model.fails = True
    with pytest.raises(EngineError):
        await spoken(engine, "This is the first one.")
    model.fails = False
    await spoken(engine, "This is the next one.")


async def test_it_starts_again_after_it_was_closed(engine: KokoroEngine) -> None:
    await engine.close()
    assert not engine.ready
    await engine.start()
    assert engine.ready
    assert len(await spoken(engine, "Hello there.")) > RATE // 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")
@pytest.mark.parametrize(
    ("text", "language", "said"),
    [
        ("你好，世界！", "zh-CN", "ni↓xau↓, ʂɨ↘ʨje↘!"),
        ("我有25个 apples。", "cmn", "wo↓ jou↓ ɚ↘ʂɨ↗u↓kɤ↘ ˈæpᵊlz."),
        ("12345678901234567890", "zh", None),
        ("東京の天気です。", "ja-JP", "toːkʲoː no teŋkʲi desɨ."),
        ("Appleの林檎。", "ja", "ˈæpᵊl no ɾʲiŋɡo."),
    ],
)
def test_chinese_and_japanese_are_said_with_the_english_in_them(
    text: str, language: str, said: str | None
) -> None:
    pytest.importorskip("fugashi", reason="the kokoro-ja extra is not installed")
    phonemes = Phonemes(None)
    known = phonemes.language(language)
    assert known is not None
    found = phonemes.of(text, known)
    assert found
    assert said in (None, found)


def test_there_are_54_voices_and_openais_names_are_13_of_them() -> None:
    assert len(set(NAMES)) == 54
    assert len(set(OPENAI_VOICES.values())) == 13
    assert set(OPENAI_VOICES.values()) <= set(NAMES)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("alloy", {"af_heart": 1.0}),
        ("AF_Bella", {"af_bella": 1.0}),
        ("af_heart+af_bella", {"af_heart": 0.5, "af_bella": 0.5}),
        ("af_heart(2)+af_bella(1)", {"af_heart": 2 / 3, "af_bella": 1 / 3}),
        ("af_heart(3) - am_adam(1)", {"af_heart": 0.75, "am_adam": -0.25}),
        ("af_heart+af_heart", {"af_heart": 1.0}),
    ],
)
def test_a_mix_is_written_as_in_kokoro_fastapi(name: str, parts: dict[str, float]) -> None:
    mix = Voices().mix(name)
    assert mix is not None
    assert dict(mix.parts) == pytest.approx(parts)


@pytest.mark.parametrize(
    "name",
    [
        *("", "+", "af_nobody", "af_heart+", "af_heart(0)", "af_heart(x)", "af_heart*2"),
        "+".join(NAMES[:9]),
    ],
)
def test_what_is_no_mix_is_no_voice(name: str) -> None:
    assert Voices().mix(name) is None
    assert Voices().find(name) is None


async def test_an_unknown_voice_names_the_nearest(engine: KokoroEngine) -> None:
    with pytest.raises(NotFoundError, match="'af_heart'"):
        engine.voice("af_hart")


def test_voices_that_did_not_come_are_spoken_by_those_that_did_and_the_card_says_so() -> None:
    known = Voices()
    known.came(["af", "jf_alpha", "jf_nezumi", "jm_kumo", "x_one"])  # the hub has an `af`
    assert known.spoken("alloy", "en-us").first.startswith("jf_")
    assert known.spoken("onyx", "en-us").first == "jm_kumo"
    alloy = known.find("alloy")
    assert alloy is not None
    assert "a speaker of Japanese" in alloy.name
    assert [voice.id for voice in known.listed()][13:] == ["jf_alpha", "jf_nezumi", "jm_kumo"]


@pytest.mark.parametrize("espeak", [True, False], ids=["espeak", "without"])
def test_english_is_said_by_the_dictionary(*, espeak: bool) -> None:
    said = Phonemes(library().phonemes if espeak else None)
    assert said.of("The weather was cold, and the apple too.", "en-us") == (
        "ðə wˈɛðəɹ wʌz kˈOld, ænd ði ˈæpᵊl tˈu."
    )
    assert said.of("He stopped, started and hurried past the boxes' lids.", "en-us") == (
        "hi stˈɑpt, stˈɑɹɾᵻd ænd hˈɜɹid pˈæst ðə bˈɑksᵻz lˈɪdz."
    )
    assert said.of("I want to ask it to a friend.", "en-gb") == "ˌI wˈɒnt tʊ ˈɑːsk ɪt tʊ ɐ fɹˈɛnd."
    assert said.of("NASA and the FBI", "en-us") == "nˈæsə ænd ði ˌɛfˌbiˈI"
    assert said.of("!?", "en-us") == "!?"
    assert said.of("☃", "en-us") == ""


def test_an_unknown_word_is_said_by_espeak_or_spelt() -> None:
    assert Phonemes(library().phonemes).of("Bentovox", "en-us") == "bˈɛntəvˌɑks"
    assert Phonemes(None).of("zqx", "en-us") == "ˌziˌkjuˈɛks"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("0", "zero"),
        ("21", "twenty one"),
        ("1,234", "one thousand two hundred thirty four"),
        ("1999", "nineteen ninety nine"),
        ("1905", "nineteen oh five"),
        ("2000", "two thousand"),
        ("1980s", "nineteen eighties"),
        ("3.5", "three point five"),
        ("1.2.3", "one point two point three"),
        ("007", "zero zero seven"),
        ("21st", "twenty first"),
        ("$5.20", "five dollars and twenty cents"),
        ("£1", "one pound"),
        ("$3.5", "three point five dollars"),
        ("50%", "fifty percent"),
    ],
)
def test_a_number_is_said_in_words(number: str, words: str) -> None:
    assert in_words(number) == words


def test_too_many_phonemes_are_cut_at_spaces() -> None:
    pieces = in_pieces("abc " * 300)
    assert max(map(len, pieces)) <= MOST_PHONEMES
    assert " ".join(pieces) == ("abc " * 300).strip()
    assert in_pieces("") == []
    assert len(in_pieces("a" * 600)) == 2
    assert ids_of("ˈA ᵻ") == [156, 24, 16, 177]


def test_a_folder_of_voices_is_read_as_the_hub_has_it_and_as_kokoro_onnx(tmp_path: Path) -> None:
    values = np.arange(510 * 256, dtype="<f4")
    (tmp_path / "voices").mkdir()
    values.tofile(tmp_path / "voices" / "af_heart.bin")
    np.savez(tmp_path / "voices.npz", jf_alpha=values.reshape(510, 1, 256))
    found = styles_in(tmp_path)
    assert sorted(found) == ["af_heart", "jf_alpha"]
    assert np.array_equal(found["af_heart"], found["jf_alpha"])
    values[:9].tofile(tmp_path / "voices" / "af_bad.bin")
    with pytest.raises(ValueError, match="af_bad"):
        styles_in(tmp_path)


async def test_the_pinned_model_comes_from_the_hub_with_its_voices_and_nothing_else(
    tmp_path: Path, hub: Hub
) -> None:
    hub.told.set()
    hub.commit = REVISION
    wanted = {"onnx/model_quantized.onnx": b"graph", "voices/af_heart.bin": b"voice"}
    hub.files = {**wanted, "onnx/model.onnx": b"larger", "README.md": b"not wanted"}
    engine = KokoroEngine(model=REPOSITORY, cache=str(tmp_path))
    await engine.start()
    await until(lambda: not engine.loading)
    (folder,) = (tmp_path / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots").iterdir()
    assert folder.name == REVISION
    found = {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}
    assert found == set(wanted)
    assert f"{folder} is not Kokoro's" in engine.lack, "these bytes are no graph"
    await engine.close()
