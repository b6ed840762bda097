"""Rows in order of a number, sorted no further than somebody asks for."""

from collections.abc import Iterator

import numpy as np


_FIRST, _GROWTH = 2**16, 8  # numbers that are sorted at first, and how many times as many are each time after


class Ascending:
    """Places of numbers, the lowest number first; equal ones by a second number, and by their place after that.

    A budget ends long before a pool does: of ten million rows the lowest few are parted off and sorted, and more of
    them where those were not enough. Parting takes time in proportion to the numbers, sorting does not.

    Args:
        values (`np.ndarray` of shape `(n,)`): The numbers; NaN comes last.
        ties (`np.ndarray` of shape `(n,)`, *optional*): The second numbers.
    """

    def __init__(self, values: np.ndarray, ties: np.ndarray | None = None):
        self._values, self._ties = values, ties
        self._heads: list[np.ndarray] = []
        self._bound: float | None = None  # what is at most this is in some head; None: nothing is, NaN: all is

    def heads(self) -> Iterator[np.ndarray]:
        """All places in order, in pieces that grow; what was sorted once is kept."""
        number = 0
        while number < len(self._heads) or self._add(_FIRST * _GROWTH**number):
            yield self._heads[number]
            number += 1

    def _add(self, size: int) -> bool:
        """Sorts at least `size` places more; whether there were any."""
        if self._bound is None:
            head, self._bound = _part(self._values, size)
        elif np.isnan(self._bound):
            return False
        else:
            left = np.flatnonzero(~(self._values <= self._bound))
            head, self._bound = _part(self._values[left], size)
            head = left[head]
        if not len(head):
            return False
        keys = [self._values[head]] if self._ties is None else [self._ties[head], self._values[head]]
        self._heads.append(head[np.lexsort(keys)])
        return True


def lowest(values: np.ndarray, size: int) -> np.ndarray:
    """Places of the `size` lowest numbers, in order, equal ones by their place; all where there are fewer."""
    head, _ = _part(values, size)
    return head[np.argsort(values[head], kind="stable")][:size]


def _part(values: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """The places of at least the `size` lowest numbers, with all that equal the last of them, and that number; all
    places and NaN where the rest is not worth parting."""
    bound = float(np.partition(values, size)[size]) if 2 * size < len(values) else np.nan
    return (np.arange(len(values)) if np.isnan(bound) else np.flatnonzero(values <= bound)), bound
