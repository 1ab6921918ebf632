"""Live transcription: the audio that a client appends becomes turns, and turns become text."""
