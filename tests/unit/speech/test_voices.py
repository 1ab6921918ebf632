from __future__ import annotations

import fcntl
import json
import logging
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    ServiceError,
    UnavailableError,
)
from services.speech.voices import VoiceStore
from tests.stored_voices import reference, with_consent, with_voice

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]
NOWHERE = "voice_" + "0" * 32


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]


# What is kept


def test_a_voice_is_there_again_after_a_restart_sample_for_sample(tmp_path: Path) -> None:
    made = with_voice(VoiceStore(tmp_path))
    store = VoiceStore(tmp_path)
    assert store.voices() == [made]
    assert made.duration_s == 1.0
    kept = store.reference(made.id)
    assert np.array_equal(kept.samples, reference().samples)
    assert (kept.sample_rate_hz, kept.text, kept.id) == (16_000, "Hello.", made.id)
    assert kept.features is not None
    assert kept.features.is_dir()


def test_a_consent_keeps_its_recording_as_it_came(tmp_path: Path) -> None:
    consent = with_consent(VoiceStore(tmp_path))
    assert VoiceStore(tmp_path).consents() == [consent]
    assert [f.read_bytes() for f in files_under(tmp_path) if f.name == "recording"] == [b"I agree."]


def test_a_store_that_was_never_written_is_empty_and_makes_no_folder(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path / "store")
    assert (store.voices(), store.consents(), store.find("Ann")) == ([], [], None)
    assert not (tmp_path / "store").exists()


def test_a_voice_is_found_by_its_id_and_by_its_exact_name(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    made = with_voice(store)
    assert store.find(made.id) == store.find("Ann") == store.voice(made.id) == made
    assert store.find("ann") is None
    assert store.find(made.consent_id) is None


@pytest.mark.parametrize("bad", [NOWHERE, "", "..", "voice_../../x", "/etc/passwd", "a\0b", "Ann"])
def test_what_is_no_id_of_ours_is_not_found(tmp_path: Path, bad: str) -> None:
    store = VoiceStore(tmp_path)
    with_voice(store)
    calls: list[tuple[Callable[[str], object], str]] = [
        (store.voice, "voice_not_found"),
        (store.reference, "voice_not_found"),
        (store.delete_voice, "voice_not_found"),
        (store.consent, "consent_not_found"),
        (store.delete_consent, "consent_not_found"),
        (lambda item_id: store.rename_consent(item_id, "Bea"), "consent_not_found"),
    ]
    for call, code in calls:
        with pytest.raises(NotFoundError) as caught:
            call(bad)
        assert caught.value.code == code


def test_a_renamed_consent_keeps_everything_else(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    consent = with_consent(store)
    renamed = store.rename_consent(consent.id, "Bea")
    assert VoiceStore(tmp_path).consent(consent.id) == renamed
    assert (renamed.name, renamed.created_at) == ("Bea", consent.created_at)
    about = json.loads((tmp_path / "consents" / consent.id / "about.json").read_text())
    assert about["media_type"] == "audio/wav"


def test_a_voice_needs_a_consent_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        VoiceStore(tmp_path).add_voice(
            name="Ann", consent_id="cons_" + "0" * 32, reference=reference(), language=None
        )
    assert (caught.value.param, caught.value.code) == ("consent", "consent_not_found")
    assert not list((tmp_path / "voices").iterdir())


def test_a_taken_name_is_a_conflict(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    with_voice(store)
    with pytest.raises(ConflictError) as caught:
        with_voice(store)
    assert (caught.value.param, caught.value.code) == ("name", "voice_exists")
    assert len(store.voices()) == 1


def test_the_samples_that_many_requests_share_cannot_be_changed(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    made = with_voice(store)
    assert store.reference(made.id) is store.reference(made.id)
    with pytest.raises(ValueError, match="read-only"):
        store.reference(made.id).samples[0] = 1


def test_few_recordings_are_held_in_memory(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    for number in range(12):
        store.reference(with_voice(store, str(number)).id)
    assert store._references.cache_info().currsize == 8


# What goes


def test_asking_for_what_never_was_drops_no_recording_from_memory(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    made = with_voice(store)
    kept = store.reference(made.id)
    with pytest.raises(NotFoundError):
        store.delete_voice(NOWHERE)
    assert store.reference(made.id) is kept


def test_deleting_a_voice_leaves_nothing_of_it(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    made = with_voice(store)
    features = store.reference(made.id).features
    assert features is not None
    (features / "tokens.bin").write_bytes(b"of Ann")
    store.delete_voice(made.id)
    assert store.find("Ann") is None
    with pytest.raises(NotFoundError):
        store.reference(made.id)
    assert {path.parent.parent.name for path in files_under(tmp_path)} == {"consents"}
    store.delete_consent(made.consent_id)
    assert files_under(tmp_path) == []


def test_a_consent_in_use_stays_and_the_refusal_names_the_voices(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    made = with_voice(store)
    with pytest.raises(ConflictError) as caught:
        store.delete_consent(made.consent_id)
    assert made.id in caught.value.message
    assert store.consent(made.consent_id)


def test_what_another_process_deletes_is_gone_here_too(tmp_path: Path) -> None:
    here, there = VoiceStore(tmp_path), VoiceStore(tmp_path)
    made = with_voice(here)
    here.reference(made.id)
    there.delete_voice(made.id)
    assert here.find(made.id) is here.find("Ann") is None
    assert here.voices() == []
    with pytest.raises(NotFoundError):
        here.reference(made.id)
    assert not here._references.cache_info().currsize


def test_a_name_that_another_process_gives_to_another_voice_is_that_voices(tmp_path: Path) -> None:
    here, there = VoiceStore(tmp_path), VoiceStore(tmp_path)
    first = with_voice(here)
    assert here.find("Ann") == first
    there.delete_voice(first.id)
    second = with_voice(there)
    assert here.find("Ann") == second


def test_features_written_while_their_voice_goes_bring_nothing_back(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    made = with_voice(store)
    features = store.reference(made.id).features
    assert features is not None
    store.delete_voice(made.id)
    features.mkdir(parents=True)
    (features / "tokens.bin").write_bytes(b"of Ann")
    assert store.voices() == []
    VoiceStore(tmp_path)
    assert not features.exists()


# Names


@settings(max_examples=60, deadline=None)
@given(name=st.text(max_size=300))
def test_a_name_is_kept_as_it_is_or_refused_and_never_a_path(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    root = tmp_path_factory.mktemp("store")
    store = VoiceStore(root)
    if not 1 <= len(name) <= 256 or not name.isprintable() or name != name.strip():
        with pytest.raises(InvalidRequestError):
            with_voice(store, name)
        return
    made = with_voice(store, name)
    assert VoiceStore(root).find(name) == made
    assert {path.name for path in (root / "voices").iterdir()} == {made.id}
    assert {path.name for path in root.iterdir()} == {"voices", "consents", "lock"}


@pytest.mark.parametrize(
    "name", ["", " ", " Ann", "A\nB", "A\0", "\ud800", "\u202e", "x" * 257, NOWHERE]
)
def test_what_can_be_no_name_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    store = VoiceStore(tmp_path)
    consent = with_consent(store)
    for call in (
        lambda: with_voice(store, name),
        lambda: store.rename_consent(consent.id, name),
        lambda: store.add_consent(name=name, language="en", recording=b"", media_type="audio/wav"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            call()
        assert caught.value.param == "name"


@pytest.mark.parametrize(
    "name", ["x" * 256, "阿明", "../../etc/passwd", ".", "con", "a/b\\c", "🎤"]
)
def test_unusual_names_are_names(tmp_path: Path, name: str) -> None:
    store = VoiceStore(tmp_path)
    assert store.find(name) is None
    assert store.find(with_voice(store, name).name) == store.voices()[0]


# Who may see it


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "store"
    store = VoiceStore(root)
    made = with_voice(store)
    store.rename_consent(made.consent_id, "Bea")
    for path in [root, *root.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_each_change_leaves_one_audit_line_without_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bentovox.audit")
    store = VoiceStore(tmp_path)
    consent = store.add_consent(
        name="Secret", language="en", recording=b"I agree.", media_type="audio/wav"
    )
    made = store.add_voice(
        name="Secret", consent_id=consent.id, reference=reference(text="Secret"), language=None
    )
    store.rename_consent(consent.id, "Secret too")
    store.delete_voice(made.id)
    store.delete_consent(consent.id)
    assert [r.getMessage() for r in caplog.records if r.name == "bentovox.audit"] == [
        f"created consent {consent.id}",
        f"created voice {made.id} with consent {consent.id}",
        f"renamed consent {consent.id}",
        f"deleted voice {made.id} with consent {consent.id}",
        f"deleted consent {consent.id}",
    ]
    assert "Secret" not in caplog.text


def test_a_refused_change_leaves_no_audit_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bentovox.audit")
    with pytest.raises(NotFoundError):
        VoiceStore(tmp_path).delete_voice(NOWHERE)
    assert not caplog.records


def test_damaged_metadata_hides_one_item_and_not_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = VoiceStore(tmp_path)
    kept, lost = with_voice(store, "Ann"), with_voice(store, "Bea")
    (tmp_path / "voices" / lost.id / "about.json").write_bytes(b'{"id": "voi')
    assert VoiceStore(tmp_path).voices() == [kept]
    assert lost.id in caplog.text


# Many at once


def test_of_many_threads_that_register_one_name_exactly_one_wins(tmp_path: Path) -> None:
    stores = [VoiceStore(tmp_path) for _ in range(4)]
    consent = with_consent(stores[0])

    def register(number: int) -> bool:
        try:
            stores[number % 4].add_voice(
                name="Ann", consent_id=consent.id, reference=reference(number), language=None
            )
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(register, range(16))) == 1
    assert [voice.name for voice in stores[0].voices()] == ["Ann"]


def test_threads_that_add_delete_and_read_lose_nothing(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    consent = with_consent(store)
    done = threading.Event()

    def churn(worker: int) -> list[str]:
        kept = []
        for number in range(8):
            made = store.add_voice(
                name=f"{worker}-{number}",
                consent_id=consent.id,
                reference=reference(worker, count=160),
                language=None,
            )
            if number % 2:
                store.delete_voice(made.id)
            else:
                kept.append(made.id)
        return kept

    def read() -> int:
        rounds = 0
        while not done.is_set() or not rounds:
            for voice in store.voices():
                try:
                    assert store.reference(voice.id).samples.size == 160
                except NotFoundError:
                    assert int(voice.name[-1]) % 2
            rounds += 1
        return rounds

    with ThreadPoolExecutor(5) as pool:
        reader = pool.submit(read)
        kept = [voice_id for ids in pool.map(churn, range(4)) for voice_id in ids]
        done.set()
        assert reader.result()
    assert {voice.id for voice in store.voices()} == set(kept)
    assert len(kept) == 16


def test_a_writer_that_never_ends_makes_others_give_up_but_not_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.speech.storage._LOCK_WAIT_S", 0.05)
    store = VoiceStore(tmp_path)
    made = with_voice(store)
    with (tmp_path / "lock").open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError) as caught:
            store.delete_voice(made.id)
        assert (caught.value.code, caught.value.retry_after_s) == ("store_busy", 1.0)
        assert VoiceStore(tmp_path).voices() == [made]
    store.delete_voice(made.id)


def test_a_store_opens_at_once_while_another_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = with_voice(VoiceStore(tmp_path))

    def waits(seconds: float) -> None:
        raise AssertionError(f"it waits {seconds} s")

    monkeypatch.setattr("services.speech.storage.time.sleep", waits)
    with (tmp_path / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert VoiceStore(tmp_path).voices() == [made]


def test_a_root_that_cannot_be_a_folder_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "store"):
        store = VoiceStore(root)
        for call in (store.voices, store.consents, lambda store=store: with_consent(store)):
            with pytest.raises(ServiceError) as caught:
                call()
            assert "BENTOVOX_SPEECH__STORE" in caught.value.message
