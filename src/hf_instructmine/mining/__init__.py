"""The whole path in one call: a raw pool in; a curated dataset, its rule, and what that is worth, out."""
