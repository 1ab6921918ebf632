"""Speech translation: a chain of stages that transcribe, translate and speak.

`routes` builds the chain. Each stage takes an async iterator and is one, and knows nothing of the
client's HTTP request, so that the stages work for recordings and live sessions alike. A backend
that refuses or breaks off raises its `ServiceError`.
"""
