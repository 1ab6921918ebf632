"""The roles with fake engines: `bentoml serve tests.fakes.services:Speech`.

Set `BENTOVOX_SPEECH__ENGINE=fake` and `BENTOVOX_TRANSCRIPTION__ENGINE=fake`.
"""

from services.engines import ENGINES, EngineEntry
from services.speech.service import Speech
from services.transcription.service import Transcription

__all__ = ["Speech", "Transcription"]

ENGINES["speech"]["fake"] = EngineEntry("tests.fakes.speech_engine:FakeEngine", "")
ENGINES["transcription"]["fake"] = EngineEntry("tests.fakes.transcription_engine:FakeEngine", "")
