"""Speech to text behind OpenAI's audio API: files and live."""
