"""Live translation: what is said in one language is spoken in another while the speaker goes on.

`socket` has the connection. Its chain is speech translation's, with another source of segments
(`hearing`) and another end; `pace` tells how late a listener is, and what to do about it.
"""
