"""Speech in one language in, speech in another out: stages that hear, translate and speak.

Each stage takes and gives an async iterator and knows nothing of HTTP towards the client, so that
they serve a recording as well as a live session.
"""
