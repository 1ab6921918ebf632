"""Transcription engines: their Protocol, a registry, and a folder each."""
