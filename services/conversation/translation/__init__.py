"""Translation by the chat model: texts and markup, in the shape of LibreTranslate's API."""
