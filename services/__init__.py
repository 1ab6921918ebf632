"""Bentovox: chat, speech and transcription behind one OpenAI-compatible front door."""

__version__ = "0.1.0"
