"""Where pieces of a stream meet, family 2's audio equals one pass over the same mel.

In a stream the flow's attention sees no later tokens; in one pass it sees all of them, as upstream
has it. That difference is the model's, so here the attention sees only earlier tokens in both.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.cosyvoice.speaking import (
    LONG,
    LONGER,
    THREE,
    TRANSCRIPT,
    apart,
    asked,
    conversion,
    frames,
    sound,
    spoken,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from services.audio.pcm import Samples
    from services.speech.engines.cosyvoice import upstream_code
    from services.speech.engines.cosyvoice.engine import CosyVoiceEngine

    EngineOf = Callable[..., CosyVoiceEngine]

A_FRAME = 480  # samples of a frame of mel; two make a speech token


@pytest.fixture
def engine(engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch) -> CosyVoiceEngine:
    """Return an engine whose flow looks at earlier tokens only, in one pass too, in many pieces."""
    from services.speech.engines.cosyvoice import flow, utterance  # noqa: PLC0415  torch

    engine = engine_of(2)
    for name in ("_encoded", "_solved"):
        of_ours = getattr(flow, name)
        monkeypatch.setattr(flow, name, partial(_streaming, of_ours))
    monkeypatch.setattr(utterance, "IN_TIME", 0.0)
    return engine


def _streaming(call: Callable[..., Any], *given: Any, **named: Any) -> Any:
    return call(*given, **{**named, "streaming": True})


def _recording(tokens: int) -> Any:
    from services.speech.engines.protocol import VoiceReference  # noqa: PLC0415

    return VoiceReference(sound(1, tokens / 25), 24_000, text=TRANSCRIPT)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("text", [LONG, LONGER, THREE], ids=["long", "longer", "three"])
async def test_a_stream_of_family_2_is_the_audio_of_one_pass(
    engine: CosyVoiceEngine, text: str, seed: int
) -> None:
    pieces = await frames(engine, asked(engine, text, seed=seed))
    whole = await spoken(engine, text, seed=seed, one_pass=True)

    assert len(pieces) > 2
    assert apart(np.concatenate(pieces), whole) < 1e-4


async def test_a_prompt_that_does_not_fill_whole_chunks_changes_nothing_of_that(
    engine: CosyVoiceEngine,
) -> None:
    from services.speech.engines.cosyvoice.vocoder import AHEAD  # noqa: PLC0415

    given = {"reference": _recording(44), "seed": 4}
    pieces = await frames(engine, asked(engine, LONG, **given))
    whole = await spoken(engine, LONG, **given, one_pass=True)

    assert pieces[0].size == (2 * (25 + 6) - AHEAD) * A_FRAME
    assert apart(np.concatenate(pieces), whole) < 1e-4


async def test_a_converted_recording_has_no_joins_either(engine: CosyVoiceEngine) -> None:
    given = {"samples": sound(3, 9.0), "sample_rate_hz": 24_000}
    pieces = await frames(engine, conversion(**given))
    whole = np.concatenate(await frames(engine, conversion(**given, one_pass=True)))

    assert len(pieces) > 2
    assert apart(np.concatenate(pieces), whole) < 1e-4


async def test_with_upstreams_own_flow_what_is_left_is_what_the_flow_makes_of_later_tokens(
    engine_of: EngineOf,
) -> None:
    engine = engine_of(2)
    pieces = await frames(engine, asked(engine, LONG))
    whole = await spoken(engine, LONG, one_pass=True)

    assert apart(np.concatenate(pieces), whole) < 5e-3  # a cross-fade: 0.08


async def test_no_step_where_pieces_meet_is_larger_than_those_within_them(
    engine: CosyVoiceEngine,
) -> None:
    for seed in range(3):
        pieces = await frames(engine, asked(engine, LONG, seed=seed))
        within = max(_steps(piece).max() for piece in pieces)
        for one, next_one in pairwise(pieces):
            assert abs(float(next_one[0] - one[-1])) <= within


def _steps(wave: Samples) -> Any:
    return np.abs(np.diff(wave))


@pytest.fixture
def hift(upstream: upstream_code.Code) -> Any:
    """Return a narrow vocoder with the widths of convolutions that CosyVoice2-0.5B's has."""
    import torch  # noqa: PLC0415
    from cosyvoice.hifigan.f0_predictor import ConvRNNF0Predictor  # noqa: PLC0415
    from cosyvoice.hifigan.generator import HiFTGenerator  # noqa: PLC0415

    del upstream  # it is there
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        made = HiFTGenerator(
            base_channels=32,
            sampling_rate=24_000,
            upsample_rates=[8, 5, 3],
            upsample_kernel_sizes=[16, 11, 7],
            source_resblock_kernel_sizes=[7, 7, 11],
            source_resblock_dilation_sizes=[[1, 3, 5]] * 3,
            f0_predictor=ConvRNNF0Predictor(cond_channels=16),
        )
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
        made.conv_post.bias[:9] -= 2.0  # the log of the magnitudes: not so loud as to clip
        made.f0_predictor.classifier.bias.fill_(150.0)
        made.f0_predictor.double()
    return made.eval()


def _mel(frames: int, seed: int = 0) -> torch.Tensor:
    import torch  # noqa: PLC0415

    return torch.randn(1, 80, frames, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "pieces", [(50, 100, 200, 350), (62, 50, 588), (3, 20, 7, 170, 500), (699, 1)], ids=str
)
def test_half_a_minute_in_pieces_is_that_in_one_piece(hift: Any, pieces: tuple[int, ...]) -> None:
    import torch  # noqa: PLC0415

    from services.speech.engines.cosyvoice.vocoder import Vocoder  # noqa: PLC0415

    mel = _mel(2 * 700)
    pieces = (*pieces, 700)
    whole = Vocoder(hift, seed=5).feed(mel, last=True)
    vocoder = Vocoder(hift, seed=5)
    made = [
        vocoder.feed(piece, last=number == len(pieces))
        for number, piece in enumerate(mel.split(list(pieces), dim=2), 1)
    ]
    streamed = torch.cat(made, dim=1)

    assert streamed.shape == whole.shape == (1, 2 * 700 * A_FRAME)
    assert float(whole.std()) > 0.05
    assert float((streamed - whole).abs().max()) < 1e-3


def test_what_is_not_there_yet_is_heard_no_farther_ahead_than_the_vocoder_waits(hift: Any) -> None:
    import torch  # noqa: PLC0415

    from services.speech.engines.cosyvoice.vocoder import AHEAD, Vocoder  # noqa: PLC0415

    mel, other = _mel(120), _mel(120, seed=1)
    other[:, :, :80] = mel[:, :, :80]
    one, two = (Vocoder(hift, seed=5).feed(made, last=True) for made in (mel, other))
    known = (80 - AHEAD) * A_FRAME
    apart_there = (one - two).abs()[0]

    assert float(apart_there[:known].max()) < 5e-4
    assert float(apart_there[80 * A_FRAME :].max()) > 0.1
    assert not torch.any(apart_there[: known - 4 * A_FRAME])  # the convolutions' own reach


def test_a_frame_is_heard_no_longer_after_than_the_vocoder_goes_back(hift: Any) -> None:
    import torch  # noqa: PLC0415

    from services.speech.engines.cosyvoice.vocoder import BEHIND, PITCH_REACH  # noqa: PLC0415

    at, nothing = 40, float("nan")
    mel, source = _mel(80), torch.zeros(1, 1, 80 * A_FRAME)
    mel[:, :, at] = nothing
    source[:, :, at * A_FRAME : (at + 1) * A_FRAME] = nothing
    with torch.inference_mode():
        wave = hift.decode(x=mel, s=source)[0]
        pitch = hift.f0_predictor(mel.double())[0]
    # What is computed of no number is none.
    assert int(wave.isnan().nonzero().max()) < (at + BEHIND) * A_FRAME
    assert pitch.isnan().nonzero().flatten().tolist() == list(
        range(at - PITCH_REACH, at + PITCH_REACH + 1)
    )
