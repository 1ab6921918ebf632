"""Live conversations: sessions of type `realtime` in OpenAI's realtime API; and live translation.

`socket` has the connection and what a client's events do. A session has `settings`, `items` (what
was said so far), an `ear`, and a `response` at a time, which is `asking` other roles for words and
a voice, and tells the client about both (`output`). `translation` needs the ear alone.
"""
