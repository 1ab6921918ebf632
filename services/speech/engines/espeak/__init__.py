"""espeak-ng as an engine: its library, its voices."""
