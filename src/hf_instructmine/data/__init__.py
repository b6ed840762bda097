"""What a row is: inputs, layouts, columns, texts, provenance, evaluation sets, the sample pool."""
