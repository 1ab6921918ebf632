"""PCM, streaming resampling, incremental encoding and bounded decoding.

Samples are mono float32 in -1.0..1.0 everywhere, rates are in hertz.
"""

from __future__ import annotations
