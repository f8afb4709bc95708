"""Who is still in: bounds, rules, races, decisions. NumPy only."""
