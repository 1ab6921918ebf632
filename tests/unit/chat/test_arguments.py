from __future__ import annotations

from services.chat.arguments import runs_code
from services.settings import profiles
from services.settings.sections import ChatSettings


def test_code_that_a_model_brings_along_is_run_only_if_asked_for() -> None:
    assert not runs_code(ChatSettings())
    assert runs_code(ChatSettings(trust_remote_code=True))
    assert runs_code(ChatSettings(args=["--trust_remote_code"]))
    assert not any("trust" in str(profile) for profile in profiles().values())
