"""Upstream's CosyVoice code, brought to this machine: pinned, verified, never installed."""
