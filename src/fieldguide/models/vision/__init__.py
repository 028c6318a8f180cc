"""Image networks: one file, one architecture."""
