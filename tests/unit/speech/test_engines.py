from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from services.engines import ENGINES, create
from services.errors import ConfigurationError, InvalidRequestError, NotFoundError
from services.speech.engines.espeak import library as espeak_library
from services.speech.engines.protocol import (
    Capability,
    SpeechEngine,
    SynthesisRequest,
    VoiceReference,
    check_capabilities,
)
from tests.fakes.speech_engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def test_an_unknown_engine_is_a_configuration_error_that_names_the_known() -> None:
    with pytest.raises(ConfigurationError, match="cosyvoice, espeak, kokoro, vllm_omni"):
        create("speech", "festival")


def test_a_missing_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    espeak_library.library.cache_clear()
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'bentovox\[espeak\]'"):
        create("speech", "espeak")


def test_every_entry_of_the_table_is_well_formed() -> None:
    for role, engines in ENGINES.items():
        for entry in engines.values():
            module, _, name = entry.target.partition(":")
            assert module.startswith(f"services.{role}.engines.")
            assert name.isidentifier()


def test_importing_the_speech_package_imports_no_engine_library() -> None:
    heavy = "{'torch', 'espeakng_loader', 'vllm', 'cosyvoice'}"
    code = (
        "import sys, services.speech.routes, services.engines, "
        f"services.speech.engines.espeak.engine; print({heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


async def test_the_fake_engine_plays_the_same_every_time() -> None:
    engine: SpeechEngine = FakeEngine()
    await engine.start()
    request = SynthesisRequest("abc", "alloy", speed=2.0)
    first = [frame async for frame in engine.synthesise(request)]
    again = [frame async for frame in engine.synthesise(request)]
    assert [frame.size for frame in first] == [1200] * 3
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert first[0].dtype == np.float32


async def words() -> AsyncIterator[str]:
    yield "ab"
    yield "c"


async def test_the_fake_engine_takes_text_as_it_streams() -> None:
    engine = FakeEngine()
    await engine.start()
    assert len([frame async for frame in engine.synthesise(SynthesisRequest(words(), "echo"))]) == 3


class Plain(FakeEngine):
    capabilities = frozenset()


@pytest.mark.parametrize(
    ("param", "request_"),
    [
        ("instructions", SynthesisRequest("a", "alloy", instructions="softly")),
        ("seed", SynthesisRequest("a", "alloy", seed=0)),
        ("language", SynthesisRequest("a", "alloy", language="en")),
        (
            "ref_audio",
            SynthesisRequest(
                "a", "alloy", reference=VoiceReference(np.zeros(9, dtype=np.float32), 16_000)
            ),
        ),
    ],
)
def test_what_an_engine_lacks_is_refused_by_name(param: str, request_: SynthesisRequest) -> None:
    check_capabilities(FakeEngine(), request_)
    with pytest.raises(InvalidRequestError) as caught:
        check_capabilities(Plain(), request_)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


def test_the_fake_engine_refuses_unknown_voices() -> None:
    with pytest.raises(NotFoundError):
        FakeEngine().check(SynthesisRequest("a", "nobody"))


def test_capabilities_cover_what_a_request_can_ask() -> None:
    assert {c.value for c in Capability} >= {"instructions", "seed", "language", "reference"}
