"""Whether a row is alike to one that was taken, by the cosine of their embeddings."""

import numpy as np


_TILE = 4096  # taken rows that a block is compared with at once
_FIRST = 512  # of those that have turned away most rows


class Taken:
    """The vectors of the rows taken so far, side by side, those first that have turned away most.

    A row is turned away by any one taken row, so which it is compared with first decides nothing but the time: near a
    large heap of variants the row that was taken of it turns away all the others.

    Args:
        embeddings (`np.ndarray` of shape `(n, d)`): Rows of length 1, float32.
        most (`float`): The highest cosine that two rows taken may have.
    """

    def __init__(self, embeddings: np.ndarray, most: float):
        self._embeddings, self.most = embeddings, most
        self._vectors = np.empty((_FIRST, embeddings.shape[1]), np.float32)
        self._turned_away = np.zeros(_FIRST, np.int64)
        self._size, self._sort_at = 0, 2 * _FIRST

    def add(self, row: int) -> None:
        """Takes a row."""
        if self._size == len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)])
            self._turned_away = np.concatenate([self._turned_away, np.zeros_like(self._turned_away)])
        self._vectors[self._size], self._turned_away[self._size] = self._embeddings[row], 0
        self._size += 1

    def compare(self, rows: np.ndarray) -> "Block":
        """Compares rows that may be taken next with those taken and with each other."""
        if self._size >= self._sort_at:
            order = np.argsort(-self._turned_away[: self._size], kind="stable")
            self._vectors[: self._size] = self._vectors[order]
            self._turned_away[: self._size] = self._turned_away[order]
            self._sort_at = 2 * self._size
        vectors = np.asarray(self._embeddings[rows], np.float32)
        left, start, tile = np.arange(len(rows)), 0, _FIRST
        while start < self._size and len(left):
            cosines = vectors @ self._vectors[start : min(start + tile, self._size)].T
            near = cosines.max(axis=1) > self.most
            np.add.at(self._turned_away, start + cosines[near].argmax(axis=1), 1)
            left, vectors = left[~near], vectors[~near]
            start, tile = start + tile, _TILE
        return Block(len(rows), left, vectors, self.most)


class Block:
    """Rows that may be taken one after another.

    Args:
        size (`int`): How many there are.
        left (`np.ndarray`): The numbers, among them, of those that are alike to no taken row.
        vectors (`np.ndarray`): Of these.
        most (`float`): The highest cosine that two rows taken may have.
    """

    def __init__(self, size: int, left: np.ndarray, vectors: np.ndarray, most: float):
        self.alike = np.ones(size, bool)  # to a row taken before
        self.alike[left] = False
        self._left, self._places = left, {number: place for place, number in enumerate(left.tolist())}
        self._near = vectors @ vectors.T > most

    def take(self, number: int) -> None:
        """Takes one of the rows, which those after it are compared with too."""
        self.alike[self._left[self._near[self._places[number]]]] = True
