"""The flow makes of each request in a batch what upstream's own makes of it alone."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.speech.engines.protocol import VoiceReference
from tests.cosyvoice.speaking import active, apart, conversion, frames, sound, within

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from services.speech.engines.cosyvoice.checkpoint import Checkpoint
    from services.speech.engines.cosyvoice.engine import CosyVoiceEngine
    from services.speech.engines.cosyvoice.flow import Part
    from tests.cosyvoice.tiny import Family

# How many tokens a prompt has, how many were said, and a seed for the rest.
REQUESTS = st.tuples(st.integers(0, 60), st.integers(4, 120), st.integers(0, 999))


def said(prompted: int, count: int, seed: int, *, is_last: bool) -> Part:
    import torch  # noqa: PLC0415  heavy

    from services.speech.engines.cosyvoice import flow  # noqa: PLC0415  torch
    from services.speech.engines.cosyvoice.prompt import Features, Prompt  # noqa: PLC0415

    rng, torch_rng = random.Random(seed), torch.Generator().manual_seed(seed)  # noqa: S311
    heard = Features(
        torch.randint(0, 6561, (1, prompted), generator=torch_rng, dtype=torch.int32),
        torch.randn(1, 2 * prompted, 80, generator=torch_rng),
        torch.randn(1, 192, generator=torch_rng),
    )
    return flow.Part(Prompt(heard), [rng.randrange(6561) for _ in range(count)], is_last)


def upstreams(flow: Any, one: Part, *, streaming: bool) -> Any:
    """Return the mel of upstream's own `inference`."""
    import torch  # noqa: PLC0415  heavy

    def length(of: Any) -> Any:
        return torch.tensor([of.shape[1]], dtype=torch.int32)

    token, heard = torch.tensor([one.tokens], dtype=torch.int32), one.prompt.heard
    return flow.inference(
        token=token,
        token_len=length(token),
        prompt_token=heard.tokens,
        prompt_token_len=length(heard.tokens),
        prompt_feat=heard.mel,
        prompt_feat_len=length(heard.mel),
        embedding=heard.embedding,
        streaming=streaming,
        finalize=one.is_last,
    )[0]


@pytest.mark.parametrize("family", [2, 3])
@settings(max_examples=12, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=5), streaming=st.booleans())
def test_each_mel_of_any_batch_is_upstreams_own(
    loaded: Callable[[Family], Any],
    family: Family,
    requests: list[tuple[int, int, int]],
    *,
    streaming: bool,
) -> None:
    from services.speech.engines.cosyvoice import flow  # noqa: PLC0415  torch

    model = loaded(family).vocoder.flow
    batch = [said(*one, is_last=bool(one[2] % 2) or not streaming) for one in requests]
    for one, mel in zip(batch, flow.mels(model, batch, streaming=streaming), strict=True):
        theirs = upstreams(model, one, streaming=streaming)
        assert mel.shape == theirs.shape
        assert float((mel - theirs).abs().max()) < 1e-4


@pytest.mark.parametrize("family", [2, 3])
@settings(max_examples=6, deadline=None)
@given(count=st.integers(60, 260), larger=st.lists(st.integers(0, 200), min_size=1, max_size=9))
def test_where_a_streams_parts_end_is_not_heard(
    loaded: Callable[[Family], Any], family: Family, count: int, larger: list[int]
) -> None:
    model = loaded(family)
    usual, other = (sounded(model, count, most) for most in ([0], larger))
    assert usual.shape == other.shape
    assert float((usual - other).abs().max()) < 1e-4


def sounded(model: Checkpoint, count: int, larger: list[int]) -> torch.Tensor:
    """Return a segment's sound, where each part may be larger than upstream's by so much."""
    import torch  # noqa: PLC0415  heavy

    from services.speech.engines.cosyvoice import flow  # noqa: PLC0415  torch
    from services.speech.engines.cosyvoice.tokens import Sampler  # noqa: PLC0415  torch
    from services.speech.engines.cosyvoice.utterance import Segment  # noqa: PLC0415  torch

    one = said(40, count, 7, is_last=True)
    segment, waves = Segment(model, one.prompt, (), Sampler(model.lm, 7), None), []
    segment.tokens, segment.complete = list(one.tokens), True
    for most in itertools.cycle(larger):
        part = segment.next(most)
        assert part is not None
        segment.take(part)
        (mel,) = flow.mels(model.vocoder.flow, [part], streaming=True)
        waves.append(segment.sound(mel, part))
        if part.is_last:
            return torch.cat(waves, dim=1)
    raise AssertionError


async def test_what_a_batch_is_filled_up_to_is_said_instead(
    engine_of: Callable[..., CosyVoiceEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Voices of four and five seconds, whose parts would be of 128 and 153 tokens."""
    from services.speech.engines.cosyvoice import flow  # noqa: PLC0415  torch

    engine = engine_of(2)
    mels, sizes, goes = flow.mels, [], threading.Event()

    def made(model: Any, batch: Any, **named: Any) -> Any:
        sizes.append([part.size for part in batch])
        assert goes.wait(60)
        return mels(model, batch, **named)

    def saying(voice_s: float) -> asyncio.Task[Any]:
        voice = VoiceReference(sound(1, voice_s), 24_000)
        nine = conversion(samples=sound(3, 9.0), reference=voice)
        return asyncio.create_task(frames(engine, nine))

    alone = [np.concatenate(await saying(voice_s)) for voice_s in (4.0, 5.0)]
    monkeypatch.setattr(flow, "mels", made)
    before = saying(5.0)  # it holds the flow until the others wait
    assert await asyncio.to_thread(within, 60, lambda: sizes)
    two = [saying(voice_s) for voice_s in (4.0, 5.0)]
    assert await asyncio.to_thread(within, 60, lambda: active(engine) == 3)
    goes.set()
    for one, heard in zip(alone, await asyncio.gather(*two), strict=True):
        assert apart(np.concatenate(heard), one) < 1e-4
    await before
    assert [153, 153] in sizes
