"""Rule and scored pool in, curated dataset with its card out."""
