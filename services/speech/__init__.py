"""The speech role: text to speech behind OpenAI's audio API."""

from __future__ import annotations
