"""Fun-CosyVoice3 through a vLLM-Omni server."""
