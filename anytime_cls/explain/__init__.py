"""Why this class and not that one: what each token of an image says for it, under several orders."""
