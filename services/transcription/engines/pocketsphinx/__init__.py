"""The pocketsphinx engine: US English from a package, a stand-in where there is no Whisper."""
