"""A file becomes an upright picture, and a picture its crops."""
