"""The pages' examples work with the stack that the README's command starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from services.audio.encode import to_wav
from services.audio.resample import Resampler
from tests.docs.examples import EXAMPLES, HEARING, check_example, run_example
from tests.sounds import to_bytes
from tests.whisper import PLAIN, RATE_HZ, speak

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docs.pages import Block
    from tests.e2e.server import Server


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
async def test_example_does_what_the_page_says(block: Block, stack: Server, tmp_path: Path) -> None:
    await check_example(block, stack.url, tmp_path)


@pytest.mark.parametrize("block", HEARING, ids=str)
async def test_example_that_hears_prints_what_is_said(
    block: Block, stack: Server, tmp_path: Path
) -> None:
    samples = speak(PLAIN).samples
    (tmp_path / "hello.wav").write_bytes(to_wav(samples, RATE_HZ))
    resampler = Resampler(RATE_HZ, 24_000)
    live = to_bytes(np.concatenate([resampler.feed(samples), resampler.finish()]))
    (tmp_path / "hello.pcm").write_bytes(live)
    assert PLAIN in await run_example(block, stack.url, tmp_path)
