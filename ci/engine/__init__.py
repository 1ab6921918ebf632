"""A throw-away docker engine for machines that have none: Debian, as root."""
