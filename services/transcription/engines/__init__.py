"""Transcription engines: their Protocol, and a folder each."""
