"""Speech in one language in, speech in another out: stages that hear, translate and speak.

`routes` joins the stages to a chain. Each takes and gives an async iterator and knows nothing of
HTTP towards the client, so that they serve a recording as well as a live session.
"""
