"""Numbers in, numbers out: terms, the choice among them, the fit, its diagnostics."""
