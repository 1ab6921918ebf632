"""Live conversations: sessions of type `realtime` in OpenAI's realtime API.

`socket` has the connection and what a client's events do. A session has `settings`, `items` (what
was said so far), an `ear`, and a `response` at a time, which asks for words (`thinking`) and has
them spoken (`speaking`), and tells the client about both (`output`).
"""
