"""Distances to the i-th nearest row of a pool: exact by blocked matrix products, or by a faiss HNSW index."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InstructMineError
from .models import default_device


if TYPE_CHECKING:
    import torch

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
    device: str | None = None,
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
        device (`str`, *optional*): Where the products run; defaults to the GPU where there is one.

    Returns:
        `np.ndarray`: float64 of shape `(n,)`, or `(m,)` for queries; from 0 to 2.

    Raises:
        [`InstructMineError`]: Where the pool has no i-th row.
    """
    import torch

    pool = torch.from_numpy(np.require(embeddings, np.float32, ["C", "W"]))
    asked = pool if queries is None else torch.from_numpy(np.require(queries, np.float32, ["C", "W"]))
    copies = torch.ones(len(pool), dtype=torch.long) if counts is None else torch.tensor(counts, dtype=torch.long)
    available = int(copies.sum()) - (queries is None)
    if not 1 <= i <= available:
        raise InstructMineError(
            f"i={i} asks for a neighbour that is not there: the pool has {available} to choose from"
        )
    # Every row may be its own candidate, and each candidate stands at least once.
    wanted = min(len(pool), i + 1 + _SPARE)
    if approximate:
        candidates = _hnsw_candidates(pool, asked, wanted, device)
    else:
        candidates = _candidates(pool, asked, wanted, device)
    nearest = np.empty(len(asked))
    for start in range(0, len(asked), _BLOCK):
        near = candidates[start : start + _BLOCK]
        differences = pool[near]
        differences -= asked[start : start + _BLOCK, None]
        distances = torch.linalg.vector_norm(differences, dim=-1).double().square() / 2
        others = copies[near]
        if queries is None:
            others -= (near == torch.arange(start, start + len(near))[:, None]).long()
        distances, order = distances.sort(dim=1)
        too_few = (others.gather(1, order).cumsum(1) < i).sum(1, keepdim=True)
        nearest[start : start + _BLOCK] = distances.gather(1, too_few)[:, 0]
    return nearest.clip(max=2.0)


def _candidates(pool: "torch.Tensor", asked: "torch.Tensor", wanted: int, device: str | None) -> "torch.Tensor":
    """The `wanted` rows of `pool` most similar to each row of `asked`, in no order, `(m, wanted)`."""
    import torch
    from datasets.utils import tqdm

    device = device or default_device()
    best = torch.full((len(asked), wanted), -torch.inf, device=device)
    rows = torch.zeros((len(asked), wanted), dtype=torch.long, device=device)

    def keep(start: int, similarity: torch.Tensor, first: int) -> None:
        block = slice(start, start + len(similarity))
        found, columns = similarity.topk(min(wanted, similarity.shape[1]), dim=1, sorted=False)
        merged = torch.cat([best[block], found], dim=1)
        best[block], kept = merged.topk(wanted, dim=1, sorted=False)
        rows[block] = torch.cat([rows[block], columns + first], dim=1).gather(1, kept)

    starts = range(0, len(asked), _BLOCK)
    for start in tqdm(starts, desc="Finding neighbours", unit="block", disable=len(starts) < 20):
        block = asked[start : start + _BLOCK].to(device)
        # Among the pool's own rows similarity is symmetric: each pair of blocks is multiplied once.
        for first in range(start if asked is pool else 0, len(pool), _BLOCK):
            similarity = block @ pool[first : first + _BLOCK].to(device).T
            keep(start, similarity, first)
            if asked is pool and first > start:
                keep(first, similarity.T.contiguous(), start)
    return rows.cpu()


def _hnsw_candidates(pool: "torch.Tensor", asked: "torch.Tensor", wanted: int, device: str | None) -> "torch.Tensor":
    import torch
    from datasets.utils import tqdm

    faiss = import_faiss(len(pool))
    index = faiss.IndexHNSWFlat(pool.shape[1], _LINKS)
    index.hnsw.efConstruction = _BUILD_BREADTH
    index.hnsw.efSearch = max(_SEARCH_BREADTH, 2 * wanted)
    for start in tqdm(range(0, len(pool), 8 * _BLOCK), desc="Indexing", unit="block"):
        index.add(pool[start : start + 8 * _BLOCK].numpy())
    found = [
        torch.from_numpy(index.search(asked[start : start + 8 * _BLOCK].numpy(), wanted)[1])
        for start in tqdm(range(0, len(asked), 8 * _BLOCK), desc="Finding neighbours", unit="block")
    ]
    rows = torch.cat(found)
    short = (rows < 0).any(1).nonzero()[:, 0]  # the graph led to fewer rows than were wanted
    if len(short):
        rows[short] = _candidates(pool, asked[short], wanted, device)
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
