"""The gateway: one front door before chat and speech; no torch."""
