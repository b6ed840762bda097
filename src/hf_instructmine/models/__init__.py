"""Models: loading, tokens and templates, the batched engine, sentence encoders, neighbours."""
