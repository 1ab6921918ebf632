"""Upstream's own FastAPI server, from a file of upstream's that is named, not kept here.

Runs it as `python server.py --port PORT --model_dir DIR` would; it listens on loopback only.
"""

from __future__ import annotations

import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvicorn

from benchmarks.peers import cosyvoice_code


def main(server: str, model: str, port: str) -> None:
    """Run until told to end."""
    cosyvoice_code.load()
    listen = uvicorn.run

    def on_loopback(app: Any, **options: Any) -> None:
        listen(app, **{**options, "host": "127.0.0.1", "log_level": "warning"})

    uvicorn.run = on_loopback
    with tempfile.TemporaryDirectory() as folder:
        directory = cosyvoice_code.speaking_only(model, Path(folder))
        sys.argv = [server, "--port", port, "--model_dir", directory]
        runpy.run_path(server, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
