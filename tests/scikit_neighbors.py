"""Cosine distances to neighbours as scikit-learn finds them, one after another."""

import numpy as np


def by_scikit_learn(pool: np.ndarray, i: int, queries: np.ndarray | None = None) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    # Asked without queries, scikit-learn leaves each row itself out.
    index = NearestNeighbors(n_neighbors=i, algorithm="brute", metric="cosine").fit(pool.astype(np.float64))
    return index.kneighbors(None if queries is None else queries.astype(np.float64))[0][:, -1]
