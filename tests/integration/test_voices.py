"""Registered voices with several processes, and on disks that are full or read-only."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.errors import StorageError
from services.speech.voices import VoiceStore
from tests.stored_voices import with_consent, with_voice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]


# Other processes: `python -c CHILD <root> <what> …`
CHILD = """
import sys
from pathlib import Path
import numpy as np
from services.errors import ServiceError
from services.speech.engines.protocol import VoiceReference
from services.speech.voices import VoiceStore

root, what, tag = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
store = VoiceStore(root)
consent = store.consents()[0].id

def add(name, count=160):
    samples = np.full(count, 0.5, dtype=np.float32)
    return store.add_voice(
        name=name, consent_id=consent, reference=VoiceReference(samples, 16000), language=None
    )

print("ready", flush=True)
sys.stdin.readline()
if what == "churn":
    for number in range(20):
        made = add(f"{tag}-{number}")
        if number % 2:
            store.delete_voice(made.id)
        else:
            print(made.id, flush=True)
elif what == "race":
    for number in range(20):
        try:
            print(add(f"same-{number}").id, flush=True)
        except ServiceError as error:
            assert error.code == "voice_exists", error
elif what == "forever":
    number = 0
    while True:
        made = add(f"{tag}-{number}", 40_000)
        store.rename_consent(consent, f"Ann {number}")
        print(made.id, flush=True)
        if number % 2:
            store.delete_voice(made.id)
        number += 1
elif what == "fill":
    try:
        add("Bea", 400_000)
    except ServiceError as error:
        print(type(error).__name__, error.code, flush=True)
"""


def child(root: Path, what: str, tag: str, limit: int | None = None) -> subprocess.Popen[str]:
    def cap() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), what, tag],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=cap,  # noqa: PLW1509
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(*processes: subprocess.Popen[str]) -> list[list[str]]:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return said


def test_two_processes_that_add_and_delete_lose_nothing(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    with_consent(store)
    one, other = go(child(tmp_path, "churn", "a"), child(tmp_path, "churn", "b"))
    assert {voice.id for voice in store.voices()} == {*one, *other}
    assert len(one) == len(other) == 10


def test_of_two_processes_that_register_one_name_exactly_one_wins(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    with_consent(store)
    one, other = go(child(tmp_path, "race", "a"), child(tmp_path, "race", "b"))
    assert len(one) + len(other) == 20
    assert sorted(v.name for v in store.voices()) == sorted(f"same-{n}" for n in range(20))


def test_kill_9_in_the_middle_of_writing_leaves_every_listed_item_whole(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    consent = with_consent(store)
    kept: set[str] = set()
    chance = random.Random(3)  # noqa: S311
    for turn in range(12):
        process = child(tmp_path, "forever", str(turn))
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        said = [process.stdout.readline().strip() for _ in range(chance.randint(1, 4))]
        threading.Event().wait(chance.uniform(0, 0.02))  # the moment is what is random
        os.kill(process.pid, signal.SIGKILL)
        said += process.communicate()[0].split()
        # Those with an even number were kept; the last may have been cut off before its line.
        kept |= set(said[::2])
        listed = {voice.id for voice in store.voices()}
        assert kept <= listed
        for voice_id in listed:
            assert store.reference(voice_id).samples.size == 40_000
        assert store.consent(consent.id).name.startswith("Ann")
    assert len(store.voices()) <= len(kept) + 2 * 12
    with_voice(store, "Bea")  # whoever writes next sweeps
    names = {path.name for kind in ("voices", "consents") for path in (tmp_path / kind).iterdir()}
    assert names == {item.id for item in (*store.voices(), *store.consents())}


# Disks that do not take it


def test_a_write_that_does_not_fit_says_so_and_leaves_the_store_readable(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    made = with_voice(store)
    assert go(child(tmp_path, "fill", "a", limit=100_000)) == [["StorageError", "storage_full"]]
    assert store.voices() == [made]
    assert {path.name for path in (tmp_path / "voices").iterdir()} == {made.id}


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return `mount(options)`, which mounts a file system of 512 KiB, or remounts it."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = []

    def mount(options: str = "size=512k") -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip("file systems can be mounted by root only")
        mounted.append(place)
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_says_so_and_leaves_the_store_readable(
    tiny_disk: Callable[..., Path],
) -> None:
    store = VoiceStore(tiny_disk())
    made = with_voice(store)

    def fill() -> None:
        for number in range(20):
            with_voice(store, str(number))

    with pytest.raises(StorageError) as caught:
        fill()
    assert caught.value.code == "storage_full"
    voices = store.voices()
    assert made in voices
    for voice in voices:
        assert store.reference(voice.id).samples.size == 16_000
    store.delete_voice(voices[-1].id)  # room can be made
    with_voice(store, "Bea")


def test_a_read_only_disk_reads_and_the_refusal_names_the_setting(
    tiny_disk: Callable[..., Path],
) -> None:
    root = tiny_disk()
    made = with_voice(VoiceStore(root))
    tiny_disk("remount,ro")
    store = VoiceStore(root)
    assert store.voices() == [made]
    for call in (lambda: with_voice(store, "Bea"), lambda: store.delete_voice(made.id)):
        with pytest.raises(StorageError) as caught:
            call()
        assert caught.value.code == "storage_unavailable"
        assert "BENTOVOX_SPEECH__STORE" in caught.value.message
        assert str(root) not in caught.value.message
    assert store.voices() == [made]
