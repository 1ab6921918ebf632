"""The demo chat model: a tiny Qwen3 trained until it holds a small corpus by heart."""
