"""What all roles share, from uvicorn's socket to the role's own application."""
