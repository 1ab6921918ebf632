"""How Bentovox is built: the typed package behind every check and image; imports no service."""
