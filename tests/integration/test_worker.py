"""What BentoML's worker serves, in its own interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

TO_ASGI = """
from services.gateway.service import Gateway
app = Gateway.to_asgi()
print(type(app).__name__, sorted(vars(app))[0])
"""


@pytest.mark.parametrize(
    ("origins", "outermost"), [("[]", "Shell"), ('["https://page.example"]', "CORSMiddleware")]
)
def test_a_worker_serves_the_shell_and_cors_around_it_only_where_it_is_set(
    origins: str, outermost: str
) -> None:
    given: dict[str, Any] = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOVOX_GATEWAY__CHAT": '["http://127.0.0.1:1"]',
        "BENTOVOX_GATEWAY__CORS_ORIGINS": origins,
    }
    done = subprocess.run(
        [sys.executable, "-c", TO_ASGI], env=given, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == outermost
