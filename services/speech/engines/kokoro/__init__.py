"""Kokoro-82M on onnxruntime: phonemes, voices, the model."""
