"""The chat role: vLLM in this process, behind an allow-list of paths."""
