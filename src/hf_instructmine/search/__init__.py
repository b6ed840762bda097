"""How many rows to select."""
