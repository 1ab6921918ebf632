"""The chat role: vLLM, served in-process behind an allow-list of paths."""
