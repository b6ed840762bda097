"""Distances to the i-th nearest row of a pool: exact by blocked matrix products, or by a faiss index."""

import logging
from typing import Any

import numpy as np

from ..errors import InstructMineError
from .embedding_store import StoredVectors


Vectors = np.ndarray | StoredVectors

logger = logging.getLogger(__name__)

_CLOSE = 1e-3  # below this distance the rounding of a product of vectors matters
_ROUNDING = 1e-6  # of a distance: equally near rows are equally good
_LINKS, _BUILD_BREADTH, _SEARCH_BREADTH = 32, 200, 128
# From so many rows on a graph takes hours to build; lists of near rows take minutes.
_LISTS_FROM = 1_000_000
_PROBED, _LEARNT_FROM = 64, 64  # lists looked at for a row; rows a list that the lists are learnt from
_SAMPLED = 1000  # rows whose neighbours are searched exactly too, to say how many were found
_BLOCK = 1024  # rows and columns of the similarity matrix held at a time
_SPARE = 2  # candidates beyond those needed, where rounding in the matrix product may have changed the order


def neighbor_distances(
    embeddings: Vectors,
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
        embeddings (`np.ndarray` or [`StoredVectors`]): The pool, of shape `(n, dimensions)`, rows of length 1. It is
            read by blocks: of one that is not float32, no copy is made as a whole.
        i (`int`): Which neighbour, from 1.
        queries (`np.ndarray`, *optional*): Rows of length 1, `(m, dimensions)`, that are not of the pool. Without,
            each row of the pool is asked for its i-th nearest other row.
        counts (`np.ndarray`, *optional*): How often each row stands in the pool, `(n,)`; defaults to once.
        approximate (`bool`, defaults to `False`): Whether to find candidates by a faiss index; see
            [`approximate_distances`].

    Returns:
        `np.ndarray`: float64 of shape `(n,)`, or `(m,)` for queries; from 0 to 2.

    Raises:
        [`InstructMineError`]: Where the pool has no i-th row, an embedding is NaN, or faiss is asked for and not
            installed.
    """
    pool, asked = embeddings, embeddings if queries is None else queries
    _refuse_nan(pool, asked)
    copies = np.ones(len(pool), np.int64) if counts is None else np.asarray(counts, np.int64)
    available = int(copies.sum()) - (queries is None)
    if not 1 <= i <= available:
        raise InstructMineError(
            f"i={i} asks for a neighbour that is not there: the pool has {available} to choose from"
        )
    wanted = _wanted(pool, i)
    if approximate:
        return _approximately(pool, asked, i, copies, wanted)[0]
    candidates = _candidates(pool, asked, wanted)
    nearest = np.empty(len(asked))
    for start in range(0, len(asked), _BLOCK):
        found = candidates[start : start + _BLOCK]
        own = None if queries is not None else np.arange(start, start + len(found))
        near = _near(pool, _rows(asked, slice(start, start + _BLOCK)), found, copies, own)
        nearest[start : start + _BLOCK] = _ith(*near, i)
    return nearest.clip(max=2)


def approximate_distances(embeddings: Vectors, i: int, counts: np.ndarray) -> tuple[np.ndarray, float]:
    """The same by a faiss index, for pools that are too large for all products: half precision, blocks in memory.

    Args:
        embeddings, i, counts: As for [`neighbor_distances`].

    Returns:
        The distances, float64 `(n,)`, and recall@i: which share of the true i nearest were found, on 1,000 rows
        chosen at random.

    Raises:
        [`InstructMineError`]: As [`neighbor_distances`] does.
    """
    distances, recall = _approximately(embeddings, embeddings, i, counts, _wanted(embeddings, i))
    logger.warning(
        "%s: recall@%d is %.3f on %s rows chosen at random (exact search finds 1)",
        approximate_search(len(embeddings)), i, recall, f"{min(_SAMPLED, len(embeddings)):,}",
    )  # fmt: skip
    return distances, recall


def approximate_search(rows: int) -> str:
    """What is recorded of the search in a pool of so many distinct rows."""
    if rows >= _LISTS_FROM:
        return f"faiss IVF, fp16 (4√n lists, nprobe={_PROBED})"
    return f"faiss HNSW, fp16 (M={_LINKS}, efConstruction={_BUILD_BREADTH}, efSearch={_SEARCH_BREADTH})"


def _wanted(pool: Vectors, i: int) -> int:
    # Every row may be its own candidate, and each candidate stands at least once.
    return min(len(pool), i + 1 + _SPARE)


def _near(
    pool: Vectors, asked: np.ndarray, candidates: np.ndarray, copies: np.ndarray, own: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of each asked row's candidates, `(m, wanted)`, in ascending order, and how often each stands there.

    A row that is itself of the pool, as the number `own`, is no candidate of its own; its copies are."""
    distances = _exact_distances(_rows(pool, candidates), asked[:, None])
    others = copies[candidates]
    if own is not None:
        others -= candidates == own[:, None]
    order = distances.argsort(axis=1)
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(others, order, axis=1)


def _ith(distances: np.ndarray, others: np.ndarray, i: int) -> np.ndarray:
    enough = others.cumsum(axis=1) >= i
    return np.take_along_axis(distances, enough.argmax(axis=1)[:, None], axis=1)[:, 0]


def _refuse_nan(*vectors: Vectors) -> None:
    for held in vectors:
        # What was stored, the encoder has looked at.
        if isinstance(held, np.ndarray) and np.isnan(held[:, 0]).any():
            raise InstructMineError("an embedding is NaN, as a row without a response has it: leave those rows out")


def _rows(vectors: Vectors, rows: slice | np.ndarray) -> np.ndarray:
    """Some rows as float32, one after another in memory; no copy where they are."""
    return np.ascontiguousarray(vectors[rows], np.float32)


class _Nearest:
    """The `wanted` rows most similar to each asked row among the blocks seen so far, in no order."""

    def __init__(self, asked: int, wanted: int):
        self.similarity = np.full((asked, wanted), -np.inf, np.float32)
        self.rows = np.zeros((asked, wanted), np.int64)

    def add(self, start: int, similarity: np.ndarray, first: int) -> None:
        """Takes note of the similarity of the asked rows from `start` on to the pool's rows from `first` on."""
        best = self.similarity[start : start + len(similarity)]
        floor = best.min(axis=1)
        if floor[0] == -np.inf:  # the first block, which holds `wanted` rows or more
            wanted = best.shape[1]
            columns = similarity.argpartition(-wanted, axis=1)[:, -wanted:]
            best[:] = np.take_along_axis(similarity, columns, axis=1)
            self.rows[start : start + len(similarity)] = columns + first
            return
        # Ever fewer rows of later blocks are nearer than what was found: only those are looked at.
        hits = np.flatnonzero(similarity > floor[:, None])
        owners, columns = np.divmod(hits, similarity.shape[1])
        self._merge(start, len(best), owners, columns + first, similarity.ravel()[hits])

    def add_turned(self, start: int, similarity: np.ndarray, first: int) -> None:
        """The same for a matrix whose columns are the asked rows; a copy of it turned would cost half the product."""
        width = similarity.shape[1]
        floor = self.similarity[start : start + width].min(axis=1)
        if floor[0] == -np.inf:
            self.add(start, np.ascontiguousarray(similarity.T), first)
            return
        hits = np.flatnonzero(similarity > floor)
        rows, owners = np.divmod(hits, width)
        order = owners.argsort(kind="stable")
        self._merge(start, width, owners[order], rows[order] + first, similarity.ravel()[hits[order]])

    def _merge(self, start: int, asked: int, owners: np.ndarray, found: np.ndarray, similarity: np.ndarray) -> None:
        """Keeps the best of what was found before and of `found`, whose `owners` are in order."""
        if not len(owners):
            return
        best, rows = self.similarity[start : start + asked], self.rows[start : start + asked]
        wanted, per_owner = best.shape[1], np.bincount(owners, minlength=asked)
        places = wanted + np.arange(len(owners)) - np.repeat(per_owner.cumsum() - per_owner, per_owner)
        room = wanted + per_owner.max()
        all_best = np.full((asked, room), -np.inf, np.float32)
        all_rows = np.zeros((asked, room), np.int64)
        all_best[:, :wanted], all_rows[:, :wanted] = best, rows
        all_best[owners, places], all_rows[owners, places] = similarity, found
        kept = all_best.argpartition(-wanted, axis=1)[:, -wanted:]
        best[:], rows[:] = np.take_along_axis(all_best, kept, axis=1), np.take_along_axis(all_rows, kept, axis=1)


def _candidates(pool: Vectors, asked: Vectors, wanted: int) -> np.ndarray:
    """The `wanted` rows of `pool` most similar to each row of `asked`, in no order, `(m, wanted)`."""
    from datasets.utils import tqdm

    nearest = _Nearest(len(asked), wanted)
    size = max(_BLOCK, wanted)
    # Few queries are multiplied with more of the pool at a time.
    width = size if asked is pool else max(size, _BLOCK**2 // max(len(asked), 1))
    starts = range(0, len(asked), size)
    for start in tqdm(starts, desc="Finding neighbours", unit="block", disable=len(starts) < 20):
        block = _rows(asked, slice(start, start + size))
        # Among the pool's own rows similarity is symmetric: each pair of blocks is multiplied once.
        for first in range(start if asked is pool else 0, len(pool), width):
            similarity = block @ _rows(pool, slice(first, first + width)).T
            nearest.add(start, similarity, first)
            if asked is pool and first > start:
                nearest.add_turned(first, similarity, start)
    return nearest.rows


def _approximately(pool: Vectors, asked: Vectors, i: int, copies: np.ndarray, wanted: int) -> tuple[np.ndarray, float]:
    """Distances by a faiss index, and its recall@i on some of the pool's rows."""
    from datasets.utils import tqdm

    index = _index(pool, wanted)
    nearest, among = np.empty(len(asked)), asked is pool

    def near(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vectors = _rows(asked, rows)
        found = index.search(vectors, wanted)[1]
        short = (found < 0).any(axis=1)  # the index led to fewer rows than were wanted
        if short.any():
            found[short] = _candidates(pool, vectors[short], wanted)
        return _near(pool, vectors, found, copies, rows if among else None)

    for start in tqdm(range(0, len(asked), 8 * _BLOCK), desc="Finding neighbours", unit="block"):
        rows = np.arange(start, min(start + 8 * _BLOCK, len(asked)))
        nearest[rows] = _ith(*near(rows), i)
    rows = np.sort(np.random.default_rng(0).permutation(len(asked))[:_SAMPLED])
    vectors = _rows(asked, rows)
    exact = _ith(*_near(pool, vectors, _candidates(pool, vectors, wanted), copies, rows if among else None), i)
    distances, others = near(rows)
    found = (others * (distances <= exact[:, None] + _ROUNDING)).sum(axis=1).clip(max=i)
    return nearest.clip(max=2), float(found.mean() / i)


def _index(pool: Vectors, wanted: int) -> Any:
    """A faiss index of all rows in half precision."""
    from datasets.utils import tqdm

    faiss, dimensions = import_faiss(len(pool)), pool.shape[1]
    if len(pool) >= _LISTS_FROM:
        lists = int(4 * len(pool) ** 0.5)
        index = faiss.index_factory(dimensions, f"IVF{lists},SQfp16")
        index.nprobe = _PROBED
        if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
            index = faiss.index_cpu_to_all_gpus(index)
        learnt_from = np.random.default_rng(0).permutation(len(pool))[: _LEARNT_FROM * lists]
        index.train(_rows(pool, np.sort(learnt_from)))
    else:
        index = faiss.IndexHNSWSQ(dimensions, faiss.ScalarQuantizer.QT_fp16, _LINKS)
        index.hnsw.efConstruction = _BUILD_BREADTH
        index.hnsw.efSearch = max(_SEARCH_BREADTH, 2 * wanted)
        index.train(_rows(pool, slice(0, 1)))  # it has nothing to learn, and asks for it
    for start in tqdm(range(0, len(pool), 8 * _BLOCK), desc="Indexing", unit="block"):
        index.add(_rows(pool, slice(start, start + 8 * _BLOCK)))
    return index


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
