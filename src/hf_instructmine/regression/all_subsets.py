"""Every subset of the candidates, one after another.

Each one's residual cross-products come from its parent's by one step of Gaussian elimination (Furnival & Wilson 1974),
for many training sets at once, with other row weights or other targets. Nothing is refitted from the rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .stepwise import ALIASED


_BLOCK = 16384  # numbers a row of cross-products: what a step needs stays in the processor's cache


@dataclass
class Moments:
    """Weighted cross-products of s splits: `xx` of shape (q, q, s, 1), `xy` (q, s, m) and `yy` (s, m)."""

    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> "Moments":
        """Of columns x (n, q) and targets y (n, m), by row weights (s, n)."""
        (n, q), m, s = x.shape, y.shape[1], len(weights)
        xx = weights @ (x[:, :, None] * x[:, None, :]).reshape(n, q * q)
        xy = weights @ (x[:, :, None] * y[:, None, :]).reshape(n, q * m)
        return cls(
            np.ascontiguousarray(xx.T).reshape(q, q, s, 1),
            np.ascontiguousarray(xy.reshape(s, q, m).transpose(1, 0, 2)),
            weights @ y**2,
        )

    def after(self, j: int, slopes: np.ndarray, coefficient: np.ndarray) -> "Moments":
        """The cross-products once each later column has lost `slopes` times column j, and y `coefficient` times it."""
        row = self.xx[j, j + 1 :]
        lost = row - slopes * self.xx[j, j]
        return Moments(
            self.xx[j + 1 :, j + 1 :] - slopes[:, None] * row - lost[:, None] * slopes,
            self.xy[j + 1 :] - slopes * self.xy[j] - coefficient * lost,
            self.yy - coefficient * (2 * self.xy[j] - coefficient * self.xx[j, j]),
        )


def _step(train: Moments, test: Moments | None, j: int, floor: np.ndarray) -> tuple[Moments, Moments | None]:
    """Takes column j into the regression: slopes from the training rows, applied to the training and the test rows."""
    pivot = train.xx[j, j]
    inverse = np.divide(1.0, pivot, where=pivot > floor, out=np.zeros_like(pivot))
    slopes, coefficient = train.xx[j, j + 1 :] * inverse, train.xy[j] * inverse
    return train.after(j, slopes, coefficient), test.after(j, slopes, coefficient) if test is not None else None


def walk(
    train: Moments, test: Moments | None, in_every: int, requires: Sequence[int | None]
) -> Iterator[tuple[Moments, Moments | None]]:
    """Yields the residual cross-products of every subset, in the order of [`subsets`]."""
    floors = _floors(train)
    train, test = _without(train, test, in_every)

    def children(
        train: Moments, test: Moments | None, first: int, taken: tuple[int, ...]
    ) -> Iterator[tuple[Moments, Moments | None]]:
        yield train, test
        for c in range(first, len(requires)):
            if requires[c] is None or requires[c] in taken:
                grown = _step(train, test, c - first, floors[in_every + c])
                yield from children(*grown, c + 1, (*taken, c))

    yield from children(train, test, 0, ())


def _floors(train: Moments) -> np.ndarray:
    """The least that has to be left of each column for it to count, shape (q, s, 1)."""
    q = len(train.xx)
    return ALIASED * train.xx[np.arange(q), np.arange(q)]


def _without(train: Moments, test: Moments | None, in_every: int) -> tuple[Moments, Moments | None]:
    """Takes the columns in every rule into the regression."""
    for floor in _floors(train)[:in_every]:
        train, test = _step(train, test, 0, floor)
    return train, test


def summed_errors(
    train: Moments, test: Moments, in_every: int, requires: Sequence[int | None], count: int, folds: int
) -> np.ndarray:
    """The squared test errors of all `count` subsets, summed over each `folds` splits in a row: (count, s / folds, m).

    The sums of [`walk`]'s, at half of its steps: of the training sets no residual sum of squares is needed, and of the
    test sets only what a column changes in it.
    """
    floors = _floors(train)[in_every:, :, 0]
    train, left = _without(train, test, in_every)
    assert left is not None  # there are test sets
    m, sets = left.yy.shape[1], len(left.yy) // folds
    found = np.empty((count, sets, m))
    some_sets, some_targets = max(1, _BLOCK // (folds * m)), max(1, _BLOCK // folds)
    for start in range(0, sets, some_sets):
        for first in range(0, m, some_targets):
            splits, targets = slice(start * folds, (start + some_sets) * folds), slice(first, first + some_targets)
            sums = _walk_sums(
                train.xx[..., splits, 0].copy(), train.xy[:, splits, targets].copy(),
                left.xx[..., splits, 0].copy(), -2 * left.xy[:, splits, targets],
                floors[:, splits], requires, folds,
            )  # fmt: skip
            whole = left.yy[splits, targets]
            whole = whole.reshape(-1, folds, whole.shape[1]).sum(axis=1)
            for row, change in enumerate(sums):
                found[row, start : start + some_sets, targets] = whole + change
    return found


def _walk_sums(
    xx: np.ndarray, xy: np.ndarray, test_xx: np.ndarray, test_xy: np.ndarray, floors: np.ndarray,
    requires: Sequence[int | None], folds: int,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Yields by how much each subset changes the summed test error, in the order of [`subsets`]; `test_xy` is −2 times
    the cross-products."""
    shape = (-1, folds, xy.shape[2])

    def below(
        xx: np.ndarray, xy: np.ndarray, test_xx: np.ndarray, test_xy: np.ndarray, first: int, taken: tuple[int, ...],
        so_far: np.ndarray,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        yield so_far
        for i, c in enumerate(range(first, len(requires))):
            if requires[c] is not None and requires[c] not in taken:
                continue
            inverse = np.divide(1.0, xx[i, i], where=xx[i, i] > floors[c], out=np.zeros_like(xx[i, i]))
            coefficient = xy[i] * inverse[:, None]
            change = coefficient * test_xx[i, i][:, None]
            change += test_xy[i]
            change *= coefficient
            total = so_far + change.reshape(shape).sum(axis=1)
            if c + 1 == len(requires):
                yield total
                return
            slopes = xx[i, i + 1 :] * inverse
            lost = test_xx[i, i + 1 :] - slopes * test_xx[i, i]
            grown = xx[i + 1 :, i + 1 :] - slopes[:, None] * xx[i, i + 1 :]
            test_grown = test_xx[i + 1 :, i + 1 :] - slopes[:, None] * test_xx[i, i + 1 :]
            test_grown -= lost[:, None] * slopes
            cross = xy[i + 1 :] - slopes[..., None] * xy[i]
            test_cross = test_xy[i + 1 :] - slopes[..., None] * test_xy[i]
            lost *= 2
            test_cross += lost[..., None] * coefficient
            yield from below(grown, cross, test_grown, test_cross, c + 1, (*taken, c), total)

    yield from below(xx, xy, test_xx, test_xy, 0, (), np.zeros(()))


def subsets(requires: Sequence[int | None]) -> Iterator[np.ndarray]:
    """The subsets of the candidates in the order of [`walk`], as rows of a boolean matrix."""

    def children(first: int, taken: tuple[int, ...]) -> Iterator[np.ndarray]:
        yield np.isin(np.arange(len(requires)), taken)
        for c in range(first, len(requires)):
            if requires[c] is None or requires[c] in taken:
                yield from children(c + 1, (*taken, c))

    yield from children(0, ())
