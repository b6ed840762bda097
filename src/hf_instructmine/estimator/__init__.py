"""The rule: predict, tell, save, load, publish."""
