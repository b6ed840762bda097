"""Digests of data. Folders, rules and caches hold them, so the value of what is digested must never change."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np


def digest(value: Any, length: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of plain data, whatever the order of its keys."""
    return digest_of_text(json.dumps(value, sort_keys=True, default=str), length)


def digest_of_text(text: str, length: int = 16) -> str:
    """The first hexadecimal digits, of 64, of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def fast_digest(parts: Iterable[Any]) -> str:
    """`xxh64:` and 16 hexadecimal digits for texts and buffers of any size, as if they were one."""
    import xxhash

    state = xxhash.xxh64()
    for part in parts:
        # A tokenizer's vocabulary may hold lone surrogates.
        state.update(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part)
    return f"xxh64:{state.hexdigest()}"


def row_digest(content: str | bytes) -> bytes:
    """16 bytes that tell one row's text from all others."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(data, digest_size=16).digest()


def first_alike(digests: np.ndarray) -> np.ndarray:
    """The number of the first row with the same digest, for each row.

    Args:
        digests (`np.ndarray` of shape `(n, 16)`, uint8): As [`row_digest`] gives them.

    Returns:
        `np.ndarray` of shape `(n,)`: int32 where that is enough.
    """
    halves, beginnings = digests.view(np.uint64), digests[:, 0] >> 4
    first = np.empty(len(digests), np.int32 if len(digests) <= np.iinfo(np.int32).max else np.int64)
    for beginning in range(16):  # apart, since a sort takes several times the room of what it sorts
        rows = np.flatnonzero(beginnings == beginning)
        rows = rows[np.lexsort(halves[rows].T)]  # equal ones stay in their order
        ordered = halves[rows]
        differs = np.ones(len(rows), bool)
        differs[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        first[rows] = rows[differs][np.cumsum(differs) - 1]
    return first
