"""The paths of each role's WebSockets; `services.openai.paths` has those of HTTP."""

from __future__ import annotations

SPEECH = frozenset({"/v1/audio/speech/stream"})

TRANSCRIPTION = frozenset({"/v1/realtime"})
