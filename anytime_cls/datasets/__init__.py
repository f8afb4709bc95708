"""Names become labelled images."""
