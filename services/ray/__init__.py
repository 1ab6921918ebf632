"""The roles as Ray Serve applications, each replica on a port of its own."""
