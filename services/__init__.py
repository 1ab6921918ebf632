"""Bentovox: chat and speech behind one OpenAI-compatible front door."""

__version__ = "0.1.0"
