"""Measure something on this machine into a page of docs/: `nox -s bench`.

nox -s bench                        the front door beside its peers
nox -s bench -- transcription       faster-whisper
nox -s bench -- cosyvoice           CosyVoice
nox -s bench -- cosyvoice-gpu       CosyVoice at its full size, on a GPU
nox -s bench -- kokoro              Kokoro
nox -s bench -- conversation        live conversations, and twenty of them for ten minutes
nox -s bench -- images              the images
nox -s bench -- ray                 Ray Serve beside the stack
nox -s bench -- capacity            what many backends cost a gateway, and how it chooses

What else waits for a GPU is in `tests/gpu`: `nox -s tests -- tests/gpu` there.
"""

from __future__ import annotations

import signal
import sys
from importlib import import_module

_CHOICES = (
    *("transcription", "cosyvoice", "cosyvoice-gpu", "kokoro", "conversation"),
    *("images", "ray", "capacity"),
)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped, too
    _, *arguments = sys.argv
    chosen = arguments.pop(0) if arguments[:1] and arguments[0] in _CHOICES else "front_door"
    sys.exit(import_module(f"benchmarks.{chosen.replace('-', '_')}").main(arguments))
