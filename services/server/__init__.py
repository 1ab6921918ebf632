"""What every role stands in, from uvicorn's socket to the role's own application."""
