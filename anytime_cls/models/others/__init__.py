"""Weights of other people's models, in their own formats: cards without torch, and what loads them."""
