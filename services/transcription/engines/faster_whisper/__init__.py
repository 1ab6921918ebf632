"""Whisper's models by faster-whisper, heard in batches across requests."""
