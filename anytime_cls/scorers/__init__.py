"""Tokens, classes and orders in, log-likelihoods out."""
