"""What takes several engines: translation of texts and of speech, by asking the other roles."""
