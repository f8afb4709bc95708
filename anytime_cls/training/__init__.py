"""A folder of photographs becomes a model."""
