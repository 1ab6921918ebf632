"""The gateway: the one front door to the other roles; it carries bytes, without torch."""
