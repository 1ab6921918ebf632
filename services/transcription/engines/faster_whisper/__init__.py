"""Whisper's models with faster-whisper, decoded in batches across requests."""
