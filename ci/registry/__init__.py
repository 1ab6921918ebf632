"""A registry on this machine, for images, caches and tests."""
