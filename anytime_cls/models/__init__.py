"""Names become a card and weights."""
