"""The wire contract of OpenAI's HTTP API that every role shares; imports no service."""
