"""CosyVoice: upstream's own modules, served by per-request sessions."""
