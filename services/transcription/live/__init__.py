"""Live transcription: from the audio that a client appends, over turns, to their text."""
