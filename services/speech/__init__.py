"""The speech role: text in, audio out, behind OpenAI's audio/speech."""

from __future__ import annotations
