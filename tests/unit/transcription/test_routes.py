from __future__ import annotations

import asyncio
import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import srt
import webvtt

from services.audio.decode import MAX_CHANNELS
from services.openai.paths import MODELS, ROUTES
from services.settings.sections import TRANSCRIPTION_MODELS
from services.transcription.engines.protocol import (
    SPEECH_ONLY,
    Cutting,
    TranscriptionRequest,
)
from tests.fakes.transcription_engine import FakeEngine
from tests.hearing_app import Hearing, hearing_handlers, parts, recording, said
from tests.speech_app import fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

TEXT = "hello there|||||how are you"
HEARD = "hello there how are you"


@pytest.fixture
async def hearing() -> AsyncIterator[Hearing]:
    hearing = Hearing(FakeEngine())
    await hearing.engine.start()
    async with hearing.client:
        yield hearing


def asked(hearing: Hearing) -> TranscriptionRequest:
    (request,) = hearing.engine.requests
    assert isinstance(request, TranscriptionRequest)
    return request


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    found = response.text.split("\n\n")
    assert found.pop() == ""
    return [json.loads(part.removeprefix("data: ")) for part in found]


async def test_json_is_the_default_and_says_how_much_was_heard(hearing: Hearing) -> None:
    response = await hearing.post(recording(TEXT))
    assert response.status_code == 200
    usage = {"type": "duration", "seconds": 3}
    assert response.json() == {"text": HEARD, "usage": usage}
    assert hearing.seconds == [pytest.approx(len(TEXT) / 10)]


async def test_text_is_the_text_and_a_newline(hearing: Hearing) -> None:
    response = await hearing.post(recording(TEXT), response_format="text")
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text == HEARD + "\n"


async def test_subrip_is_read_by_another_parser(hearing: Hearing) -> None:
    response = await hearing.post(recording(TEXT), response_format="srt")
    first, second = srt.parse(response.text)
    assert (first.index, first.content, second.content) == (1, "hello there", "how are you")
    assert (first.start.total_seconds(), first.end.total_seconds()) == (0, 1.1)
    assert (second.start.total_seconds(), second.end.total_seconds()) == (1.6, 2.7)


async def test_webvtt_is_read_by_another_parser(hearing: Hearing) -> None:
    response = await hearing.post(recording(TEXT), response_format="vtt")
    first, second = webvtt.from_string(response.text)
    assert (first.text, second.text) == ("hello there", "how are you")
    assert (second.start, second.end) == ("00:00:01.600", "00:00:02.700")


async def test_verbose_json_has_segments_unless_only_words_are_wanted(hearing: Hearing) -> None:
    plain = (await hearing.post(recording(TEXT), response_format="verbose_json")).json()
    assert plain["text"] == HEARD
    assert (plain["task"], plain["language"], plain["duration"]) == ("transcribe", "english", 2.7)
    assert [one["text"] for one in plain["segments"]] == [" hello there", " how are you"]
    assert [one["id"] for one in plain["segments"]] == [0, 1]
    assert "words" not in plain
    fields: Any = {"response_format": "verbose_json", "timestamp_granularities": ["word"]}
    words = (await hearing.post(recording(TEXT), **fields)).json()
    assert "segments" not in words
    assert words["words"][0] == {"word": "hello", "start": 0.0, "end": 0.5}
    assert [one["word"] for one in words["words"]] == HEARD.split()
    both = {**fields, "timestamp_granularities": ["segment", "word"]}
    assert {"segments", "words"} <= (await hearing.post(recording(TEXT), **both)).json().keys()


async def test_logprobs_are_those_of_each_token(hearing: Hearing) -> None:
    answer = (await hearing.post(recording("ab"), include=["logprobs"])).json()
    assert "".join(one["token"] for one in answer["logprobs"]) == " ab"
    assert answer["logprobs"][1] == {"token": "a", "logprob": -0.1, "bytes": [97]}


async def test_a_translation_is_in_english_whatever_is_spoken(hearing: Hearing) -> None:
    response = await hearing.post(
        recording(TEXT), "translations", response_format="verbose_json", prompt="Names: Anna"
    )
    assert response.json()["text"] == HEARD.upper()
    assert response.json()["task"] == "translate"
    assert (asked(hearing).task, asked(hearing).prompt) == ("translate", "Names: Anna")


async def test_a_model_that_does_not_translate_says_so() -> None:
    hearing = Hearing(FakeEngine(translates=False))
    await hearing.engine.start()
    response = await hearing.post(recording("ab"), "translations")
    assert fault(response) == (400, "model", "unsupported_value")


async def test_all_fields_reach_the_engine(hearing: Hearing) -> None:
    await hearing.post(
        recording("ab"),
        language="de-AT",
        prompt="before",
        temperature="0.5",
        keywords=["Anna", "Bonn"],
        chunking_strategy="auto",
    )
    request = asked(hearing)
    assert (request.language, request.prompt, request.temperature) == ("de", "before", 0.5)
    assert (request.keywords, request.cutting) == (("Anna", "Bonn"), Cutting())
    assert (request.words, request.logprobs) == (False, False)


@pytest.mark.parametrize("path", ["transcriptions", "translations"])
@pytest.mark.parametrize(("given", "cutting"), [(None, SPEECH_ONLY), ("false", None)])
async def test_what_is_no_speech_is_left_out_unless_the_request_says_otherwise(
    hearing: Hearing, path: str, given: str | None, cutting: Cutting | None
) -> None:
    await hearing.post(recording("ab"), path, vad_filter=given)
    assert asked(hearing).cutting == cutting


@pytest.mark.parametrize(
    "written",
    [
        {"chunking_strategy": '{"type": "server_vad", "threshold": 0.7, "silence_duration_ms": 9}'},
        {
            "chunking_strategy[type]": "server_vad",
            "chunking_strategy[threshold]": "0.7",
            "chunking_strategy[silence_duration_ms]": "9",
        },
    ],
)
async def test_vad_settings_are_read_as_json_and_as_fields(
    hearing: Hearing, written: dict[str, str]
) -> None:
    await hearing.post(recording("ab"), **written)
    assert asked(hearing).cutting == Cutting(0.7, 300, 9)


async def test_a_language_of_several_is_found(hearing: Hearing) -> None:
    fields: Any = {"response_format": "verbose_json", "languages": ["fr", "de"]}
    assert (await hearing.post(recording("ab"), **fields)).json()["language"] == "french"


@pytest.mark.parametrize(
    ("given", "code"),
    [("English", "en"), ("german", "de"), ("en_US", "en"), ("EN-gb", "en"), ("auto", None)],
)
async def test_a_language_is_known_by_its_name_and_its_tag(
    hearing: Hearing, given: str, code: str | None
) -> None:
    assert (await hearing.post(recording("ab"), language=given)).status_code == 200
    assert asked(hearing).language == code


async def test_auto_among_languages_means_any(hearing: Hearing) -> None:
    await hearing.post(recording("ab"), languages=["French", "auto"])
    assert asked(hearing).languages == ()


@pytest.mark.parametrize("response_format", ["json", "text", "srt", "vtt"])
async def test_segments_may_be_asked_for_where_there_are_none(
    hearing: Hearing, response_format: str
) -> None:
    fields: Any = {"timestamp_granularities": ["segment"], "response_format": response_format}
    plain = await hearing.post(recording(TEXT), response_format=response_format)
    assert (await hearing.post(recording(TEXT), **fields)).text == plain.text


@pytest.mark.parametrize("response_format", ["text", "srt", "vtt"])
async def test_text_and_subtitles_have_the_type_that_openai_sends(
    hearing: Hearing, response_format: str
) -> None:
    response = await hearing.post(recording(TEXT), response_format=response_format)
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


async def test_a_recording_that_was_cut_is_heard_and_the_answer_says_what_it_lacks(
    hearing: Hearing,
) -> None:
    whole = recording("the quick brown fox|||||" * 2, "flac")
    announced = whole[:18] + bytes([whole[18], whole[19], whole[20], whole[21] & 0xF0])
    cut = announced + (24_000 * 9).to_bytes(4, "big") + whole[26:]  # as if it were 9 s
    answer = await hearing.post(cut, response_format="verbose_json")
    assert answer.json()["duration"] == pytest.approx(4.8, abs=0.1)
    assert answer.json()["lost_seconds"] == pytest.approx(4.2, abs=0.1)
    assert float(answer.headers["x-audio-lost-seconds"]) == answer.json()["lost_seconds"]
    plain = await hearing.post(cut)
    assert float(plain.headers["x-audio-lost-seconds"]) == answer.json()["lost_seconds"]
    fields: Any = {"response_format": "verbose_json", "stream": "true"}
    *_, done = events(await hearing.post(cut, **fields))
    assert done["lost_seconds"] == answer.json()["lost_seconds"]


async def test_a_whole_recording_lacks_nothing(hearing: Hearing) -> None:
    answer = await hearing.post(recording(TEXT), response_format="verbose_json")
    assert "lost_seconds" not in answer.json()
    assert "x-audio-lost-seconds" not in answer.headers


async def test_events_tell_what_was_heard_while_it_is_heard(hearing: Hearing) -> None:
    first, second, done = events(await hearing.post(recording(TEXT), stream="true"))
    assert first == {"type": "transcript.text.delta", "delta": "hello there"}
    assert second == {"type": "transcript.text.delta", "delta": " how are you"}
    assert done["type"] == "transcript.text.done"
    assert done["text"] == first["delta"] + second["delta"] == HEARD
    assert done["usage"]["input_token_details"] == {"audio_tokens": 27, "text_tokens": 0}
    assert done["usage"]["total_tokens"] == 27 + done["usage"]["output_tokens"]


async def test_verbose_events_tell_where_in_the_recording_they_are(hearing: Hearing) -> None:
    fields: Any = {"response_format": "verbose_json", "stream": "true"}
    found = events(await hearing.post(recording(TEXT), **fields))
    segments = [one for one in found if one["type"] == "transcript.text.segment"]
    assert [(one["id"], one["start"], one["end"]) for one in segments] == [
        ("seg_0", 0, 1.1),
        ("seg_1", 1.6, 2.7),
    ]
    assert {one["language"] for one in segments} == {"en"}
    assert (found[-1]["language"], found[-1]["duration"]) == ("english", 2.7)


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac", "flac", "wav"])
async def test_every_common_format_is_heard(hearing: Hearing, audio_format: Any) -> None:
    answer = (await hearing.post(recording("the quick brown fox", audio_format))).json()
    # What a codec adds in front moves the tones against the frames that are listened to.
    assert set("thequickbrown fox") & set(answer["text"])


@pytest.mark.parametrize("response_format", ["json", "text", "srt", "vtt", "verbose_json"])
async def test_silence_is_no_text_in_any_format(hearing: Hearing, response_format: str) -> None:
    response = await hearing.post(recording("||||"), response_format=response_format)
    assert response.status_code == 200
    empty = {"text": "\n", "srt": "", "vtt": "WEBVTT\n\n"}
    if response_format in empty:
        assert response.text == empty[response_format]
    else:
        assert response.json()["text"] == ""
    if response_format == "verbose_json":
        assert (response.json()["language"], response.json()["segments"]) == ("unknown", [])


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"promt": "a"}, "promt", "unknown_parameter"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": "gpt-9"}, "model", "model_not_found"),
        ({"response_format": "xml"}, "response_format", "invalid_value"),
        ({"response_format": "diarized_json"}, "response_format", "unsupported_value"),
        ({"known_speaker_names": ["Anna"]}, "known_speaker_names", "unsupported_value"),
        ({"model": "gpt-4o-transcribe-diarize"}, "model", "unsupported_value"),
        ({"vad_filter": "false", "chunking_strategy": "auto"}, "vad_filter", "invalid_value"),
        ({"temperature": "1.1"}, "temperature", "decimal_above_max_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"language": "english please"}, "language", "invalid_value"),
        ({"language": "xx"}, "language", "unsupported_language"),
        ({"languages": ["en", "xx"]}, "languages", "unsupported_language"),
        ({"languages": ["en"], "language": "en"}, "languages", "invalid_value"),
        ({"include": ["speakers"]}, "include.0", "invalid_value"),
        ({"include": ["logprobs"], "response_format": "text"}, "include", "invalid_value"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities", "invalid_value"),
        (
            {"timestamp_granularities": ["segment", "word"], "response_format": "srt"},
            "timestamp_granularities",
            "invalid_value",
        ),
        ({"chunking_strategy": "manual"}, "chunking_strategy", "invalid_value"),
        ({"chunking_strategy": "{"}, "chunking_strategy", "invalid_json"),
        ({"stream": "true", "response_format": "srt"}, "stream", "invalid_value"),
        ({"stream": "perhaps"}, "stream", "invalid_type"),
        ({"prompt": "a" * 4097}, "prompt", "string_above_max_length"),
        ({"keywords": ["a"] * 101}, "keywords", "invalid_value"),
    ],
)
async def test_a_bad_field_is_refused_by_name_and_nothing_is_heard(
    hearing: Hearing, fields: dict[str, Any], param: str, code: str
) -> None:
    status, found_param, found_code = fault(await hearing.post(recording("ab"), **fields))
    assert status == (404 if code == "model_not_found" else 400)
    assert (found_param.split(".")[0], found_code) == (param.split(".", maxsplit=1)[0], code)  # type: ignore[union-attr]
    assert hearing.engine.requests == []


@pytest.mark.parametrize("name", ["language", "keywords", "timestamp_granularities", "include"])
async def test_what_only_a_transcription_takes_is_no_error_of_a_translation(
    hearing: Hearing, name: str
) -> None:
    response = await hearing.post(recording("ab"), "translations", **{name: "en"})
    assert response.status_code == 200


@pytest.mark.parametrize("response_format", ["json", "srt"])
@pytest.mark.parametrize(
    "data",
    [b"", b"no audio at all", recording("ab")[:40], b"<html>" * 100],
    ids=["empty", "text", "cut off", "markup"],
)
async def test_what_is_no_audio_is_400(hearing: Hearing, data: bytes, response_format: str) -> None:
    response = await hearing.post(data, response_format=response_format)
    assert fault(response) == (400, "file", "invalid_audio")


async def test_a_recording_that_is_too_long_is_413_before_all_of_it_is_decoded() -> None:
    hearing = Hearing(FakeEngine(), max_hours=1 / 3600)
    await hearing.engine.start()
    assert fault(await hearing.post(recording("abcdefghijkl"))) == (413, "file", "audio_too_long")
    assert hearing.seconds[0] <= 1.0


async def test_an_upload_that_is_too_large_is_413() -> None:
    hearing = Hearing(FakeEngine(), body_limit_mib=1 / 1024)
    await hearing.engine.start()
    response = await hearing.post(recording("ab"))
    assert fault(response) == (413, "file", "audio_too_large")


async def test_no_file_is_named(hearing: Hearing) -> None:
    response = await hearing.client.post("/v1/audio/transcriptions", files=parts({}))
    assert fault(response) == (400, "file", "missing_required_parameter")


async def test_without_a_model_the_answer_says_how_to_get_one() -> None:
    hearing = Hearing(FakeEngine(ready=False))
    await hearing.engine.start()
    response = await hearing.post(recording("ab"))
    assert fault(response) == (503, None, "service_unavailable")
    assert "no model" in response.json()["error"]["message"]


async def test_an_engine_that_fails_is_500_before_the_first_segment() -> None:
    hearing = Hearing(FakeEngine(fail_at="hello"))
    await hearing.engine.start()
    assert fault(await hearing.post(recording(TEXT))) == (500, None, "engine_failed")
    assert hearing.engine.active == 0


async def test_an_engine_that_fails_later_breaks_the_stream_off() -> None:
    hearing = Hearing(FakeEngine(fail_at="how"))
    await hearing.engine.start()
    with pytest.raises(Exception, match="fails on request"):
        await hearing.post(recording(TEXT), stream="true")
    assert hearing.engine.active == 0


async def test_a_client_that_hangs_up_ends_the_work() -> None:
    engine = FakeEngine(delay_s=0.05)
    hearing = Hearing(engine)
    await engine.start()
    posting = asyncio.create_task(hearing.post(recording("ab|||" * 40)))
    async with asyncio.timeout(5):
        while not engine.active:  # noqa: ASYNC110  the fake tells no one
            await asyncio.sleep(0.001)
    posting.cancel()
    await asyncio.gather(posting, return_exceptions=True)
    assert engine.active == 0


async def test_openai_s_models_are_listed_beside_the_engine_s(hearing: Hearing) -> None:
    listed = (await hearing.client.get("/v1/models")).json()["data"]
    assert [card["id"] for card in listed] == ["fake", *TRANSCRIPTION_MODELS]
    card = await hearing.client.get("/v1/models/whisper-1")
    assert card.json()["id"] == "whisper-1"
    missing = await hearing.client.get("/v1/models/tts-1")
    assert fault(missing) == (404, "model", "model_not_found")


@pytest.mark.parametrize(
    "name",
    ["gpt-4o-mini-transcribe-2025-12-15", "gpt-live-transcribe", "gpt-realtime-whisper-2026-05-07"],
)
async def test_a_model_s_snapshots_are_the_model(hearing: Hearing, name: str) -> None:
    assert (await hearing.post(recording("ab"), model=name)).json()["text"] == "ab"


def test_every_path_has_a_handler() -> None:
    handlers = hearing_handlers(FakeEngine())
    assert handlers.keys() == {*ROUTES["transcription"], *MODELS}


@pytest.mark.parametrize("channels", [2, 6, 8, 9, 64])
async def test_channels_are_mixed_to_one_as_far_as_there_is_a_way(
    hearing: Hearing, channels: int
) -> None:
    samples = np.repeat(said("abc")[:, np.newaxis], channels, axis=1).astype("<f4").tobytes()
    head = struct.pack("<HHIIHH", 3, channels, 16_000, 64_000 * channels, 4 * channels, 32)
    chunks = b"".join(
        name + struct.pack("<I", len(data)) + data
        for name, data in ((b"fmt ", head), (b"data", samples))
    )
    file = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
    response = await hearing.post(file)
    if channels > MAX_CHANNELS:
        assert fault(response) == (400, "file", "too_many_channels")
    else:
        assert response.json()["text"] == "abc"
