"""Designed mixtures, many finetunes, each recorded once and for all."""
