"""The roles with fake engines: `bentoml serve tests.fakes.services:Speech`.

Set `BENTOVOX_SPEECH__ENGINE=fake` and `BENTOVOX_TRANSCRIPTION__ENGINE=fake`.
"""

from services.engines import EngineEntry
from services.speech.engines.registry import ENGINES as SPEECH
from services.speech.service import Speech
from services.transcription.engines.registry import ENGINES as TRANSCRIPTION
from services.transcription.service import Transcription

__all__ = ["Speech", "Transcription"]

SPEECH["fake"] = EngineEntry("tests.fakes.speech_engine:FakeEngine", None)
TRANSCRIPTION["fake"] = EngineEntry("tests.fakes.transcription_engine:FakeEngine", None)
