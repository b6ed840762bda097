"""Indicators, one a file, each a callable for `Dataset.map`; and scoring a pool with them."""
