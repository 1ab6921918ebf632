"""Translation of texts and HTML by the chat model, with LibreTranslate's API."""
