"""Tiny model directories and engines with them, each made once."""

from __future__ import annotations

import gc
import math
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.speech.engines.cosyvoice import upstream_code
from services.speech.engines.cosyvoice.engine import CosyVoiceEngine
from tests.cosyvoice import tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# As in the settings: a folder with upstream's code, if it is not the one that nox brings.
CODE = os.environ.get("BENTOVOX_SPEECH__COSYVOICE__CODE", "")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let upstream's code warn: of deprecated ways to say things, mostly."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings("ignore"), append=False)


@pytest.fixture(scope="session")
def upstream() -> upstream_code.Code:
    """Return upstream's code, which can be imported from here on."""
    import torch  # noqa: PLC0415  heavy

    torch.set_num_threads(1)  # tiny matrices, and tests of threads
    return upstream_code.load(Path(CODE) if CODE else None)


@pytest.fixture(autouse=True)
def _babble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tiny models speak as fast or as slowly as they like."""
    from services.speech.engines.cosyvoice import tokens  # noqa: PLC0415  torch

    monkeypatch.setattr(tokens, "_ABSURD", 0)
    monkeypatch.setattr(tokens, "_OFF_PACE", math.inf)


@pytest.fixture(scope="session")
def tiny_model(
    upstream: upstream_code.Code, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Return `tiny_model(family)`: a directory that tests read and never write to.

    It skips the test where upstream's code is a copy without that family.
    """
    root = tmp_path_factory.mktemp("models")

    @cache
    def build(family: tiny.Family) -> Path:
        return tiny.build(family, root)

    def built(family: tiny.Family) -> Path:
        if family not in upstream.families:
            pytest.skip(
                f"CosyVoice's code in {upstream.root} ({upstream.version}) has no family {family}"
            )
        return build(family)

    return built


@pytest.fixture(scope="session")
def loaded(tiny_model: Callable[..., Path]) -> Callable[[tiny.Family], Any]:
    """Return `loaded(family)`: a model without an engine."""
    from services.speech.engines.cosyvoice import checkpoint  # noqa: PLC0415  torch

    @cache
    def load(directory: Path) -> Any:
        return checkpoint.load(directory, code_root=None, device="cpu")

    return lambda family: load(tiny_model(family))


@pytest.fixture(scope="session")
def _engines(
    tiny_model: Callable[..., Path],
) -> Iterator[Callable[..., CosyVoiceEngine]]:
    import asyncio  # noqa: PLC0415

    # In a thread: pytest's own loops are made and closed with each test.
    with ThreadPoolExecutor(1) as apart:

        @cache
        def start(family: tiny.Family) -> CosyVoiceEngine:
            engine = CosyVoiceEngine(model=str(tiny_model(family)), code=CODE, device="cpu")
            apart.submit(lambda: asyncio.run(engine.start())).result()
            gc.collect()
            gc.freeze()  # a test that looks for what is left looks through less
            started.append(engine)
            return engine

        started: list[CosyVoiceEngine] = []
        yield start
        for engine in started:
            apart.submit(lambda engine=engine: asyncio.run(engine.close())).result()


@pytest.fixture
def engine_of(
    _engines: Callable[..., CosyVoiceEngine], tiny_model: Callable[..., Path]
) -> Callable[..., CosyVoiceEngine]:
    """Return `engine_of(family)`: a started engine, one for the whole run.

    A test speaks with engines of one family: upstream keeps one mel filter bank a process, which
    is why a server has one model. Here it goes with each call.
    """

    def engine(family: tiny.Family) -> CosyVoiceEngine:
        tiny_model(family)  # skips
        forget_filters()
        made = _engines(family)
        forget_filters()
        return made

    return engine


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[CosyVoiceEngine], list[list[int]]]:
    """Return `decoded(engine)`: the tokens of each segment that it decodes from now on."""

    from services.speech.engines.cosyvoice import tokens  # noqa: PLC0415  torch

    def watch(engine: CosyVoiceEngine) -> list[list[int]]:
        made: list[list[int]] = []
        join = tokens.Decoder.join

        def noted(self: tokens.Decoder, line: tokens.Line) -> None:
            if self is engine._stages._decoder:  # type: ignore[union-attr]
                made.append(line.made)
            join(self, line)

        monkeypatch.setattr(tokens.Decoder, "join", noted)
        return made

    return watch


def forget_filters() -> None:
    """Drop upstream's one mel filter bank, which another family's models cannot use."""
    with suppress(ImportError):
        from matcha.utils import audio  # noqa: PLC0415

        audio.mel_basis.clear()
        audio.hann_window.clear()
