"""The gateway: the one front door to the other roles. It forwards bytes and needs no torch."""
