"""The gateway: one front door before chat, speech and transcription; no torch."""
