"""The demo chat model: a tiny Qwen3 trained until it knows a small corpus by heart."""
