"""Crops become token ids."""
