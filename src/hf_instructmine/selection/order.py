"""Rows in order of a number, sorted no further than somebody asks for."""

from collections.abc import Iterator

import numpy as np

from ..data.tables import whole_numbers


_FIRST, _GROWTH = 2**16, 8  # rows that are sorted at first, and how many times as many are each time after
_BLOCK = 2**17  # rows that are looked at at a time
_SAMPLE, _ASIDE = 2**15, 2**9  # values of a sample, and how many of them on either side of a quantile's place


class Ascending:
    """Row numbers, that of the lowest value first; of equal values by a second one, and by their order after that.

    A budget ends long before a pool does: of ten million rows the lowest few are parted off and sorted, and more of
    them where those were not enough. Parting takes time in proportion to the rows, sorting does not. No other array
    as long as the pool is made.

    Args:
        values (`np.ndarray` of shape `(n,)`): Of a pool; NaN comes last.
        rows (`np.ndarray`): The numbers of those that are ranked, ascending.
        ties (`np.ndarray` of shape `(n,)`, *optional*): The second values.
    """

    def __init__(self, values: np.ndarray, rows: np.ndarray, ties: np.ndarray | None = None):
        self._values, self._rows, self._ties = values, rows, ties
        self._heads: list[np.ndarray] = []
        self._bound: float | None = None  # what is at most this is in some head; None: nothing is

    def heads(self) -> Iterator[np.ndarray]:
        """All rows in order, in pieces that grow; what was sorted once is kept."""
        number = 0
        while number < len(self._heads) or self.add(_FIRST * _GROWTH**number):
            yield self._heads[number]
            number += 1

    def add(self, size: int) -> bool:
        """Sorts at least `size` rows more; whether there were any."""
        left = len(self._rows) - sum(map(len, self._heads))
        if not left:
            return False
        # Where most of the rest is asked for, parting it is not worth the while.
        bound = _at((values for _, values in self._left()), size) if 2 * size < left else np.nan
        head = np.concatenate([rows if np.isnan(bound) else rows[values <= bound] for rows, values in self._left()])
        keys = [self._values[head]] if self._ties is None else [self._ties[head], self._values[head]]
        self._heads.append(head[np.lexsort(keys)])
        self._bound = bound
        return True

    def _left(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The rows that no head has, and their values, a block at a time."""
        for rows in blocks_of(self._rows):
            values = self._values[rows]
            if self._bound is None:
                yield rows, values
            else:
                left = ~(values <= self._bound)
                yield rows[left], values[left]


def blocks_of(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows in pieces: what is gathered of a piece is no array as long as the pool."""
    return (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))


def rows_where(mask: np.ndarray) -> np.ndarray:
    """Numbers of the rows of which a mask says so, ascending, as [`whole_numbers`]."""
    kind = whole_numbers(len(mask))
    starts = range(0, len(mask), _BLOCK)
    parts = ((start + np.flatnonzero(mask[start : start + _BLOCK])).astype(kind) for start in starts)
    return np.concatenate([np.empty(0, kind), *parts])


def lowest(values: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    """The `size` rows of lowest value, in order, equal ones by their order; all where there are fewer."""
    ranking = Ascending(values, rows)
    ranking.add(size)
    return next(ranking.heads(), rows)[:size]


def finite_blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """The finite ones of values, a block at a time."""
    return (block[np.isfinite(block)] for block in blocks_of(values))


def quantile(values: np.ndarray, share: float) -> float:
    """As `np.quantile` of the finite values, of which it makes no copy: of many, a sample brackets it first (Floyd &
    Rivest 1975, "Expected time bounds for selection", Communications of the ACM 18).

    Args:
        values (`np.ndarray` of shape `(n,)`): Some of them finite.
        share (`float`): From 0 to 1.
    """
    low, high = _bracket(values, share) if len(values) > _BLOCK else (-np.inf, np.inf)
    total = below = 0
    parts = []
    for block in finite_blocks(values):
        total, below = total + len(block), below + int((block < low).sum())
        parts.append(block[(block >= low) & (block <= high)])
    inside = np.concatenate([np.empty(0), *parts])
    place = share * (total - 1) - below
    if not 0 <= place <= len(inside) - 1:  # the sample was not like the rest
        inside, place = values[np.isfinite(values)], share * (total - 1)
    first = int(place)
    inside.partition([first, min(first + 1, len(inside) - 1)])
    lower, upper = inside[first], inside[min(first + 1, len(inside) - 1)]
    return float(lower + (upper - lower) * (place - first))


def _bracket(values: np.ndarray, share: float) -> tuple[float, float]:
    """Between which values a quantile lies as good as certainly."""
    sample = values[:: len(values) // _SAMPLE]
    sample = np.sort(sample[np.isfinite(sample)])
    place = share * (len(sample) - 1)
    first, last = int(place) - _ASIDE, int(place) + _ASIDE
    return (sample[first] if first >= 0 else -np.inf), (sample[last] if last < len(sample) else np.inf)


def _at(blocks: Iterator[np.ndarray], place: int) -> float:
    """The number at a place of all blocks' numbers in ascending order; NaN where fewer are none."""
    kept, bound = np.empty(0), np.nan
    for block in blocks:
        kept = np.concatenate([kept, block if np.isnan(bound) else block[block <= bound]])
        if len(kept) > max(4 * place, _BLOCK):
            kept = np.partition(kept, place)[: place + 1]
            bound = float(kept[place])
    return float(np.partition(kept, place)[place]) if len(kept) > place else np.nan
