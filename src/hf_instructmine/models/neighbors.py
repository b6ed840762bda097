"""Distances to the i-th nearest row of a pool: exact by blocked matrix products, or by a faiss HNSW index."""

from typing import Any

import numpy as np

from ..errors import InstructMineError


_CLOSE = 1e-3  # below this distance the rounding of a product of vectors matters


_LINKS, _BUILD_BREADTH, _SEARCH_BREADTH = 32, 200, 128
HNSW_SEARCH = f"faiss HNSW (M={_LINKS}, efConstruction={_BUILD_BREADTH}, efSearch={_SEARCH_BREADTH})"
_BLOCK = 1024  # rows and columns of the similarity matrix held at a time
_SPARE = 2  # candidates beyond those needed, where rounding in the matrix product may have changed the order


def neighbor_distances(
    embeddings: np.ndarray,
    i: int,
    queries: np.ndarray | None = None,
    *,
    counts: np.ndarray | None = None,
    approximate: bool = False,
) -> np.ndarray:
    """Cosine distance to the i-th nearest row, by blocked matrix products; memory is bounded by the block.

    Candidates are ranked by a float32 matrix product; the distances returned are half the squared differences of
    their vectors, so equal vectors are at exactly 0 and nothing is negative.

    Args:
        embeddings (`np.ndarray`): The pool, float32 of shape `(n, dimensions)`, rows of length 1.
        i (`int`): Which neighbour, from 1.
        queries (`np.ndarray`, *optional*): Rows of length 1, `(m, dimensions)`, that are not of the pool. Without,
            each row of the pool is asked for its i-th nearest other row.
        counts (`np.ndarray`, *optional*): How often each row stands in the pool, `(n,)`; defaults to once.
        approximate (`bool`, defaults to `False`): Whether to find candidates by a faiss HNSW index.

    Returns:
        `np.ndarray`: float64 of shape `(n,)`, or `(m,)` for queries; from 0 to 2.

    Raises:
        [`InstructMineError`]: Where the pool has no i-th row, an embedding is NaN, or faiss is asked for and not
            installed.
    """
    pool = np.ascontiguousarray(embeddings, np.float32)
    asked = pool if queries is None else np.ascontiguousarray(queries, np.float32)
    if np.isnan(pool[:, 0]).any() or np.isnan(asked[:, 0]).any():
        raise InstructMineError("an embedding is NaN, as a row without a response has it: leave those rows out")
    copies = np.ones(len(pool), np.int64) if counts is None else np.asarray(counts, np.int64)
    available = int(copies.sum()) - (queries is None)
    if not 1 <= i <= available:
        raise InstructMineError(
            f"i={i} asks for a neighbour that is not there: the pool has {available} to choose from"
        )
    # Every row may be its own candidate, and each candidate stands at least once.
    wanted = min(len(pool), i + 1 + _SPARE)
    candidates = _hnsw_candidates(pool, asked, wanted) if approximate else _candidates(pool, asked, wanted)
    nearest = np.empty(len(asked))
    for start in range(0, len(asked), _BLOCK):
        near = candidates[start : start + _BLOCK]
        distances = _exact_distances(pool[near], asked[start : start + _BLOCK, None])
        others = copies[near]
        if queries is None:
            others -= near == np.arange(start, start + len(near))[:, None]
        order = distances.argsort(axis=1)
        enough = np.take_along_axis(others, order, axis=1).cumsum(axis=1) >= i
        ith = np.take_along_axis(order, enough.argmax(axis=1)[:, None], axis=1)
        nearest[start : start + _BLOCK] = np.take_along_axis(distances, ith, axis=1)[:, 0]
    return nearest.clip(max=2)


class _Nearest:
    """The `wanted` rows most similar to each asked row among the blocks seen so far, in no order."""

    def __init__(self, asked: int, wanted: int):
        self.similarity = np.full((asked, wanted), -np.inf, np.float32)
        self.rows = np.zeros((asked, wanted), np.int64)

    def add(self, start: int, similarity: np.ndarray, first: int) -> None:
        """Takes note of the similarity of the asked rows from `start` on to the pool's rows from `first` on."""
        wanted, width = self.rows.shape[1], similarity.shape[1]
        best = self.similarity[start : start + len(similarity)]
        rows = self.rows[start : start + len(similarity)]
        floor = best.min(axis=1, keepdims=True)
        if floor[0] == -np.inf:  # the first block, which holds `wanted` rows or more
            columns = similarity.argpartition(-wanted, axis=1)[:, -wanted:]
            best[:], rows[:] = np.take_along_axis(similarity, columns, axis=1), columns + first
            return
        # Ever fewer rows of later blocks are nearer than what was found: only those are looked at.
        hits = np.flatnonzero(similarity > floor)
        if not len(hits):
            return
        owners, columns = np.divmod(hits, width)
        per_owner = np.bincount(owners, minlength=len(best))
        places = wanted + np.arange(len(hits)) - np.repeat(per_owner.cumsum() - per_owner, per_owner)
        room = wanted + per_owner.max()
        all_best = np.full((len(best), room), -np.inf, np.float32)
        all_rows = np.zeros((len(best), room), np.int64)
        all_best[:, :wanted], all_rows[:, :wanted] = best, rows
        all_best[owners, places], all_rows[owners, places] = similarity.ravel()[hits], columns + first
        kept = all_best.argpartition(-wanted, axis=1)[:, -wanted:]
        best[:], rows[:] = np.take_along_axis(all_best, kept, axis=1), np.take_along_axis(all_rows, kept, axis=1)


def _candidates(pool: np.ndarray, asked: np.ndarray, wanted: int) -> np.ndarray:
    """The `wanted` rows of `pool` most similar to each row of `asked`, in no order, `(m, wanted)`."""
    from datasets.utils import tqdm

    nearest = _Nearest(len(asked), wanted)
    size = max(_BLOCK, wanted)
    # Few queries are multiplied with more of the pool at a time.
    width = size if asked is pool else max(size, _BLOCK**2 // max(len(asked), 1))
    starts = range(0, len(asked), size)
    for start in tqdm(starts, desc="Finding neighbours", unit="block", disable=len(starts) < 20):
        block = asked[start : start + size]
        # Among the pool's own rows similarity is symmetric: each pair of blocks is multiplied once.
        for first in range(start if asked is pool else 0, len(pool), width):
            similarity = block @ pool[first : first + width].T
            nearest.add(start, similarity, first)
            if asked is pool and first > start:
                nearest.add(first, np.ascontiguousarray(similarity.T), start)
    return nearest.rows


def _hnsw_candidates(pool: np.ndarray, asked: np.ndarray, wanted: int) -> np.ndarray:
    from datasets.utils import tqdm

    faiss = import_faiss(len(pool))
    index = faiss.IndexHNSWFlat(pool.shape[1], _LINKS)
    index.hnsw.efConstruction = _BUILD_BREADTH
    index.hnsw.efSearch = max(_SEARCH_BREADTH, 2 * wanted)
    for start in tqdm(range(0, len(pool), 8 * _BLOCK), desc="Indexing", unit="block"):
        index.add(pool[start : start + 8 * _BLOCK])
    rows = np.empty((len(asked), wanted), np.int64)
    for start in tqdm(range(0, len(asked), 8 * _BLOCK), desc="Finding neighbours", unit="block"):
        rows[start : start + 8 * _BLOCK] = index.search(asked[start : start + 8 * _BLOCK], wanted)[1]
    short = (rows < 0).any(axis=1)  # the graph led to fewer rows than were wanted
    if short.any():
        rows[short] = _candidates(pool, asked[short], wanted)
    return rows


def import_faiss(size: int) -> Any:
    """Imports faiss, which is an extra.

    Raises:
        [`InstructMineError`]: Where it is not installed; says what to do for a pool of `size` distinct texts.
    """
    try:
        import faiss
    except ImportError as error:
        raise InstructMineError(
            f"{size} distinct texts are more than exact_up_to: run `pip install hf-instructmine[faiss]`, or raise "
            "exact_up_to (time grows with its square)"
        ) from error
    return faiss


def cosine_distances(vectors: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Cosine distances of rows of length 1, `(n, d)`, to one of them, `(n,)`; equal ones are at exactly 0."""
    distances = (1 - vectors @ to).clip(0, 2)
    close = np.flatnonzero(distances < _CLOSE)
    distances[close] = _exact_distances(vectors[close], to)
    return distances


def _exact_distances(vectors: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Half the squared differences of rows of length 1: their cosine distances, without a product's rounding."""
    differences = vectors - to
    return np.einsum("...d,...d->...", differences, differences) / 2
