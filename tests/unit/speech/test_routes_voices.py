"""Voices and consents: what is stored, what is refused, and that a refusal stores nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from services.errors import EngineError, InvalidRequestError
from services.openai.body import ClientGoneError
from services.speech.engines.protocol import Capability
from services.speech.voices import VoiceStore
from tests.fakes.speech_engine import FakeEngine
from tests.speech_app import RECORDING, Served, fault, recording, without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

CONSENTS = "/v1/audio/voice_consents"
VOICES = "/v1/audio/voices"
NOWHERE = "cons_" + "0" * 32


@pytest.fixture
def store(tmp_path: Path) -> VoiceStore:
    return VoiceStore(tmp_path / "store")


@pytest.fixture
async def served(store: VoiceStore) -> AsyncIterator[Served]:
    aliases = {"alloy": "Anna", "narrator": "echo", "nobody": "x"}
    served = Served(FakeEngine(), store, aliases=aliases)
    await served.engine.start()
    async with served.client:
        yield served


# Consents


async def test_a_consent_is_kept_listed_renamed_and_deleted(served: Served) -> None:
    made = (await served.consent()).json()
    assert made["object"] == "audio.voice_consent"
    assert (made["name"], made["language"]) == ("Anna's", "en-GB")
    path = f"{CONSENTS}/{made['id']}"
    assert (await served.client.get(path)).json() == made
    renamed = (await served.client.post(path, json={"name": "Anne's"})).json()
    assert renamed == {**made, "name": "Anne's"}
    assert (await served.client.get(CONSENTS)).json()["data"] == [renamed]
    gone = (await served.client.delete(path)).json()
    assert gone == {"id": made["id"], "object": "audio.voice_consent", "deleted": True}
    assert fault(await served.client.get(path)) == (404, None, "consent_not_found")
    assert (await served.client.get(CONSENTS)).json()["data"] == []


async def test_consents_come_in_pages(served: Served) -> None:
    for n in range(5):
        await served.consent(name=f"consent {n}")
    every = (await served.client.get(CONSENTS)).json()
    assert not every["has_more"]
    ids = [consent["id"] for consent in every["data"]]
    first = (await served.client.get(CONSENTS, params={"limit": 2})).json()
    assert [consent["id"] for consent in first["data"]] == ids[:2]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[0], ids[1], True)
    rest = (await served.client.get(CONSENTS, params={"limit": 3, "after": ids[1]})).json()
    assert [consent["id"] for consent in rest["data"]] == ids[2:]
    assert rest["has_more"] is False


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ("limit=0", "limit", "decimal_below_min_value"),
        ("limit=101", "limit", "decimal_above_max_value"),
        ("limit=x", "limit", "invalid_type"),
        ("limit=", "limit", "invalid_type"),
        ("after=cons_x", "after", "invalid_value"),
        ("after=", "after", "string_below_min_length"),
        ("limits=3", "limits", "unknown_parameter"),
    ],
)
async def test_a_bad_query_is_400(served: Served, query: str, param: str, code: str) -> None:
    assert fault(await served.client.get(f"{CONSENTS}?{query}")) == (400, param, code)


@pytest.mark.parametrize(
    ("texts", "files", "refused"),
    [
        ({"name": ""}, {}, (400, "name", "missing_required_parameter")),
        ({"name": " \t "}, {}, (400, "name", "string_below_min_length")),
        ({"name": "a" * 257}, {}, (400, "name", "string_above_max_length")),
        ({"name": "a\nb"}, {}, (400, "name", "invalid_value")),
        ({"name": "a\u202eb"}, {}, (400, "name", "invalid_value")),
        ({"language": "in English"}, {}, (400, "language", "invalid_value")),
        ({"language": ""}, {}, (400, "language", "missing_required_parameter")),
        ({"languages": "en"}, {}, (400, "languages", "unknown_parameter")),
        ({}, {"recording": b""}, (400, "recording", "invalid_audio")),
        ({}, {"recording": b"RIFF and so on"}, (400, "recording", "invalid_audio")),
        ({}, {"recording": RECORDING[:60]}, (400, "recording", "invalid_audio")),
        ({}, {"recording": recording(0.5)}, (400, "recording", "audio_too_short")),
        ({}, {"recording": recording(61, 8000)}, (413, "recording", "audio_too_long")),
        ({}, {"recording": b"a" * (10 << 20) + b"a"}, (413, "recording", "audio_too_large")),
    ],
)
async def test_a_consent_that_will_not_do_is_refused_and_not_kept(
    served: Served, store: VoiceStore, texts: Any, files: Any, refused: Any
) -> None:
    texts = {"name": "Anna's", "language": "en-GB", **texts}
    response = await served.form(CONSENTS, {"recording": RECORDING, **files}, **texts)
    assert fault(response) == refused
    assert store.consents() == []


@pytest.mark.parametrize("missing", ["name", "language", "recording"])
async def test_a_consent_without_a_field_is_refused(
    served: Served, store: VoiceStore, missing: str
) -> None:
    texts = {"name": "Anna's", "language": "en-GB"}
    texts.pop(missing, None)
    files = {"recording": RECORDING} if missing != "recording" else {}
    assert fault(await served.form(CONSENTS, files, **texts)) == (
        400,
        missing,
        "missing_required_parameter",
    )
    assert store.consents() == []


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        (b"{", (400, None, "invalid_json")),
        (b"[]", (400, None, "invalid_type")),
        (b"{}", (400, "name", "missing_required_parameter")),
        (b'{"name": 1}', (400, "name", "invalid_type")),
        (b'{"name": ""}', (400, "name", "string_below_min_length")),
        (b'{"name": "a\\nb"}', (400, "name", "invalid_value")),
        (b'{"names": "a", "name": "b"}', (400, "names", "unknown_parameter")),
        (b'{"name": "%s"}' % (b"a" * 20_000), (413, None, "request_too_large")),
    ],
)
async def test_a_name_that_will_not_do_changes_nothing(
    served: Served, store: VoiceStore, content: bytes, refused: Any
) -> None:
    made = (await served.consent()).json()
    response = await served.client.post(
        f"{CONSENTS}/{made['id']}",
        content=content,
        headers={"content-type": "application/json"},
    )
    assert fault(response) == refused
    assert store.consent(made["id"]).name == "Anna's"


async def test_a_consent_that_is_not_there_is_404_for_every_method(served: Served) -> None:
    path = f"{CONSENTS}/{NOWHERE}"
    for response in (
        await served.client.get(path),
        await served.client.post(path, json={"name": "a"}),
        await served.client.delete(path),
        await served.client.get(f"{CONSENTS}/..%2F..%2Fetc"),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["code"] in {"consent_not_found", "unknown_url"}


async def test_a_consent_that_a_voice_has_cannot_be_deleted(served: Served) -> None:
    voice = (await served.register()).json()
    response = await served.client.delete(f"{CONSENTS}/{voice['consent']}")
    assert fault(response) == (409, None, "consent_in_use")
    await served.client.delete(f"{VOICES}/{voice['id']}")
    assert (await served.client.delete(f"{CONSENTS}/{voice['consent']}")).status_code == 200


# Voices


async def test_a_voice_is_registered_prepared_listed_and_deleted(
    served: Served, store: VoiceStore
) -> None:
    response = await served.register(text="Hello there.", language="en-GB")
    made = response.json()
    assert response.status_code == 200
    assert (made["object"], made["type"]) == ("audio.voice", "audio_sample")
    assert (made["name"], made["text"], made["language"]) == ("Anna", "Hello there.", "en-GB")
    assert made["duration_s"] == pytest.approx(2.0)
    (prepared,) = served.engine.prepared
    assert (prepared.id, prepared.text) == (made["id"], "Hello there.")
    features = store.reference(made["id"]).features
    assert features is not None
    assert (features / "fake").exists()
    path = f"{VOICES}/{made['id']}"
    assert (await served.client.get(path)).json() == made
    assert (await served.client.get(f"{VOICES}/Anna")).json() == made
    gone = (await served.client.delete(path)).json()
    assert gone == {"id": made["id"], "object": "audio.voice.deleted", "deleted": True}
    assert served.engine.forgotten == [made["id"]]
    assert not features.exists()
    for again in (await served.client.get(path), await served.client.delete(path)):
        assert fault(again) == (404, "voice", "voice_not_found")


async def test_registered_voices_and_aliases_are_listed_with_the_engines_own(
    served: Served,
) -> None:
    before = (await served.client.get(VOICES)).json()
    assert [voice["id"] for voice in before["voices"]] == ["alloy", "echo", "narrator"]
    assert before["uploaded_voices"] == []
    made = (await served.register()).json()
    listed = (await served.client.get(VOICES)).json()
    assert listed["voices"][-1] == {"id": "Anna", "name": "Anna"}
    assert [voice["id"] for voice in listed["voices"][:-1]] == ["alloy", "echo", "narrator"]
    assert [voice["id"] for voice in listed["data"]] == ["alloy", "echo", "narrator", made["id"]]
    assert listed["data"][-1] == made
    assert listed["uploaded_voices"] == [made]
    assert listed["data"][0] == {**made, "id": "alloy", "alias_of": made["id"]}
    assert listed["data"][2]["alias_of"] == "echo"
    for voice in listed["data"]:
        assert (await served.client.get(f"{VOICES}/{voice['id']}")).json() == voice


async def test_an_alias_for_nothing_is_404_and_not_listed(served: Served) -> None:
    assert fault(await served.client.get(f"{VOICES}/nobody")) == (404, "voice", "voice_not_found")
    listed = (await served.client.get(VOICES)).json()
    assert "nobody" not in [voice["id"] for voice in listed["voices"]]


async def test_ref_text_is_another_name_of_text(served: Served, store: VoiceStore) -> None:
    made = (await served.register(ref_text="Hello.", type="audio_sample")).json()
    assert store.voice(made["id"]).text == "Hello."


@pytest.mark.parametrize(
    ("texts", "sample", "refused"),
    [
        ({"name": ""}, RECORDING, (400, "name", "missing_required_parameter")),
        ({"name": "a" * 257}, RECORDING, (400, "name", "string_above_max_length")),
        ({"name": "a\x7fb"}, RECORDING, (400, "name", "invalid_value")),
        ({"name": "voice_" + "0" * 32}, RECORDING, (400, "name", "invalid_value")),
        ({"name": "echo"}, RECORDING, (409, "name", "voice_exists")),
        ({"name": "narrator"}, RECORDING, (409, "name", "voice_exists")),
        ({"name": "taken"}, RECORDING, (409, "name", "voice_exists")),
        ({"type": "prompt"}, RECORDING, (400, "type", "unsupported_voice_type")),
        ({"type": "song"}, RECORDING, (400, "type", "invalid_value")),
        ({"prompt": "deep"}, RECORDING, (400, "prompt", "unknown_parameter")),
        ({"text": "a", "ref_text": "a"}, RECORDING, (400, "ref_text", "duplicate_parameter")),
        ({"text": "a" * 1025}, RECORDING, (400, "text", "string_above_max_length")),
        ({"language": "??"}, RECORDING, (400, "language", "invalid_value")),
        ({"consents": "red"}, RECORDING, (400, "consents", "unknown_parameter")),
        ({"consent": NOWHERE}, RECORDING, (404, "consent", "consent_not_found")),
        ({"consent": "../../etc"}, RECORDING, (404, "consent", "consent_not_found")),
        ({}, b"", (400, "audio_sample", "invalid_audio")),
        ({}, b"no sound", (400, "audio_sample", "invalid_audio")),
        ({}, recording(0.9), (400, "audio_sample", "audio_too_short")),
        ({}, recording(31), (413, "audio_sample", "audio_too_long")),
        ({}, recording(2, 8000), (400, "audio_sample", "unsupported_sample_rate")),
        ({}, recording(2, level=0), (400, "audio_sample", "silent_audio")),
        ({}, b"a" * (10 << 20) + b"a", (413, "audio_sample", "audio_too_large")),
    ],
)
async def test_a_voice_that_will_not_do_is_refused_and_not_kept(
    served: Served, store: VoiceStore, texts: Any, sample: bytes, refused: Any
) -> None:
    consent = (await served.register(name="taken")).json()["consent"]
    served.engine.prepared.clear()
    texts = {"name": "Anna", "consent": consent, **texts}
    assert fault(await served.form(VOICES, {"audio_sample": sample}, **texts)) == refused
    assert [voice.name for voice in store.voices()] == ["taken"]
    assert served.engine.prepared == []


async def test_a_voice_without_consent_name_or_sample_is_refused(
    served: Served, store: VoiceStore
) -> None:
    sample = {"audio_sample": RECORDING}
    response = await served.form(VOICES, sample, name="Anna")
    assert fault(response) == (400, "consent", "consent_required")
    response = await served.form(VOICES, sample, consent=NOWHERE)
    assert fault(response) == (400, "name", "missing_required_parameter")
    response = await served.form(VOICES, {}, name="Anna", consent=NOWHERE)
    assert fault(response) == (400, "audio_sample", "missing_required_parameter")
    assert store.voices() == []


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (
            InvalidRequestError("no voice in it", param="audio_sample", code="invalid_audio"),
            (400, "audio_sample", "invalid_audio"),
        ),
        (EngineError("out of memory", code="engine_failed"), (500, None, "engine_failed")),
    ],
)
async def test_a_voice_that_cannot_be_prepared_is_taken_back(
    served: Served, store: VoiceStore, monkeypatch: pytest.MonkeyPatch, error: Any, refused: Any
) -> None:
    async def prepare(_reference: Any) -> None:
        raise error

    monkeypatch.setattr(served.engine, "prepare", prepare)
    assert fault(await served.register()) == refused
    assert store.voices() == []
    assert len(served.engine.forgotten) == 1


async def test_an_engine_that_clones_no_voices_keeps_none(
    served: Served, store: VoiceStore
) -> None:
    without(served.engine, Capability.REFERENCE)
    assert fault(await served.register()) == (400, "audio_sample", "unsupported_parameter")
    assert store.voices() == []


async def test_an_engine_that_is_not_ready_keeps_no_voice(
    served: Served, store: VoiceStore
) -> None:
    await served.engine.close()
    assert fault(await served.register())[0] == 503
    assert store.voices() == []


async def test_voices_of_another_engines_time_are_listed_apart(
    served: Served, store: VoiceStore
) -> None:
    made = (await served.register()).json()
    without(served.engine, Capability.REFERENCE, Capability.CONVERSION)
    listed = (await served.client.get(VOICES)).json()
    assert [voice["id"] for voice in listed["voices"]] == ["alloy", "echo", "narrator"]
    assert listed["uploaded_voices"] == [made]
    assert (await served.client.get(f"{VOICES}/{made['id']}")).json() == made
    assert (await served.client.delete(f"{VOICES}/{made['id']}")).status_code == 200
    assert store.voices() == []


@pytest.mark.parametrize("name", ["alloy", "echo", "narrator"])
async def test_the_servers_own_voices_cannot_be_deleted(served: Served, name: str) -> None:
    response = await served.client.delete(f"{VOICES}/{name}")
    assert fault(response) == (400, "voice", "voice_not_deletable")


async def test_a_voice_is_deleted_by_its_id_only(served: Served, store: VoiceStore) -> None:
    await served.register(name="Bert")
    response = await served.client.delete(f"{VOICES}/Bert")
    assert fault(response) == (404, "voice", "voice_not_found")
    assert len(store.voices()) == 1


@pytest.mark.parametrize("path", [VOICES, CONSENTS])
async def test_what_is_no_form_is_415_or_400_and_kept_nowhere(
    served: Served, store: VoiceStore, path: str
) -> None:
    json = await served.client.post(path, json={"name": "Anna", "type": "prompt", "prompt": "x"})
    assert fault(json) == (415, None, "unsupported_content_type")
    kind = {"content-type": "multipart/form-data"}
    assert fault(await served.client.post(path, content=b"x", headers=kind))[2] == (
        "invalid_multipart"
    )
    assert (store.voices(), store.consents()) == ([], [])


async def test_what_the_disk_refuses_is_507(served: Served, tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"a file where the folder should be")
    assert fault(await served.consent()) == (507, None, "storage_unavailable")
    assert fault(await served.speech(voice="Anna")) == (507, None, "storage_unavailable")


# A client that hangs up


class HangingUp:
    """A raw exchange whose client hangs up when the test says so, or after `length` bytes."""

    def __init__(self, request: httpx.Request, length: int | None = None) -> None:
        content = request.read()
        self.gone = asyncio.Event()
        self.sent: list[Any] = []
        whole = length is None
        self._body: list[Any] = [
            {"type": "http.request", "body": content[:length], "more_body": not whole}
        ]
        if not whole:
            self.gone.set()
        self.scope = {
            "type": "http",
            "method": request.method,
            "path": request.url.path,
            "bentovox.route": request.url.path,
            "headers": [(k.lower(), v) for k, v in request.headers.raw],
        }

    async def receive(self) -> Any:
        if self._body:
            return self._body.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def run(self, served: Served) -> None:
        with pytest.raises(ClientGoneError):
            await served.app(self.scope, self.receive, self.send)


def upload(served: Served, path: str, field: str, **texts: str) -> httpx.Request:
    return served.client.build_request(
        "POST", path, files={field: ("a.wav", RECORDING, "audio/wav")}, data=texts
    )


@pytest.mark.parametrize("length", [0, 10, 300, len(RECORDING)])
async def test_a_client_that_hangs_up_in_its_upload_changes_nothing(
    served: Served, store: VoiceStore, length: int
) -> None:
    consent = (await served.consent()).json()["id"]
    for request in (
        upload(served, CONSENTS, "recording", name="Bert's", language="de"),
        upload(served, VOICES, "audio_sample", name="Bert", consent=consent),
    ):
        exchange = HangingUp(request, length)
        await exchange.run(served)
        assert exchange.sent == []
    assert [kept.id for kept in store.consents()] == [consent]
    assert store.voices() == []


async def test_a_client_that_hangs_up_while_its_voice_is_prepared_changes_nothing(
    served: Served, store: VoiceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparing = asyncio.Event()

    async def prepare(_reference: Any) -> None:
        preparing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(served.engine, "prepare", prepare)
    consent = (await served.consent()).json()["id"]
    exchange = HangingUp(upload(served, VOICES, "audio_sample", name="Bert", consent=consent))
    running = asyncio.create_task(exchange.run(served))
    async with asyncio.timeout(10):
        await preparing.wait()
        assert len(store.voices()) == 1
        exchange.gone.set()
        await running
    assert exchange.sent == []
    assert store.voices() == []
    assert len(served.engine.forgotten) == 1


@pytest.mark.parametrize("method", ["add_consent", "add_voice"])
async def test_a_client_that_hangs_up_while_the_disk_writes_changes_nothing(
    served: Served, store: VoiceStore, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    consent = (await served.consent()).json()["id"]
    loop, writing, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    add = getattr(store, method)

    def slow(**fields: Any) -> Any:
        loop.call_soon_threadsafe(writing.set)
        assert go_on.wait(10)
        return add(**fields)

    monkeypatch.setattr(store, method, slow)
    if method == "add_voice":
        request = upload(served, VOICES, "audio_sample", name="Bert", consent=consent)
    else:
        request = upload(served, CONSENTS, "recording", name="Bert's", language="de")
    exchange = HangingUp(request)
    running = asyncio.create_task(exchange.run(served))
    async with asyncio.timeout(10):
        await writing.wait()
        exchange.gone.set()
        for _ in range(20):  # turns in which the hang-up is noticed
            await asyncio.sleep(0)
        go_on.set()
        await running
    assert exchange.sent == []
    assert [kept.id for kept in store.consents()] == [consent]
    assert store.voices() == []
    assert served.engine.prepared == []
