"""Indicators: callables for `Dataset.map(indicator, batched=True)`, one file each."""
