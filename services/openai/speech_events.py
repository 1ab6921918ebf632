"""The events of a streamed audio/speech, and how `usage` counts audio."""

from __future__ import annotations

import base64
from typing import Final

OUTPUT_TOKENS_PER_SECOND: Final = 20
"""How `usage` counts audio, since the engines' own tokens are not comparable.

An output token is 50 ms of audio; an input token is one character of `input` and `instructions`, or
50 ms of a recording to convert. Both are rounded up. OpenAI bills gpt-4o-mini-tts at about the same
rate (1250 a minute).
"""


def audio_tokens(sample_count: int, sample_rate_hz: int) -> int:
    """Return the tokens that `usage` counts for so many samples."""
    return -(-sample_count * OUTPUT_TOKENS_PER_SECOND // sample_rate_hz)


def audio_delta(data: bytes, **more: object) -> dict[str, object]:
    """Return the event with a piece of the encoded audio."""
    encoded = base64.b64encode(data).decode("ascii")
    return {"type": "speech.audio.delta", "audio": encoded, **more}


def audio_done(input_tokens: int, output_tokens: int) -> dict[str, object]:
    """Return the event at the end of the audio."""
    usage = {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
    }
    return {"type": "speech.audio.done", "usage": usage}
