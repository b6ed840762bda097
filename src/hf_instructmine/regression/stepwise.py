"""The best set of regressors of each size, where there are too many candidates to compare every set.

Forward selection puts the candidates in an order: next is always the one that leaves the least unexplained. Among the
first `SCREENED` every set is compared, so that of each size the one with the smallest residual sum of squares is kept.
Larger sets are the heads of the order. Many training sets and targets are worked on at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


# Among so many candidates every set is compared.
SCREENED = 10
# A column counts as absent where the columns before it explain all but this share of its variance.
ALIASED = 1e-9
_BLOCK = 1024  # problems at once: what they need stays in the processor's cache


@dataclass
class Path:
    """The best set of each size 0 … L, of s training sets and m targets.

    Attributes:
        sets (`np.ndarray` of shape (L + 1, s, m)): Bit c is set where candidate c is in the set.
        rss (`np.ndarray` of shape (L + 1, s, m)): Residual sums of squares; infinite where no set has that size.
        errors (`np.ndarray` of shape (L + 1, s, m) or `None`): Squared errors on the rows held out.
    """

    sets: np.ndarray
    rss: np.ndarray
    errors: np.ndarray | None


def best_of_each_size(
    x: np.ndarray,
    y: np.ndarray,
    forced: int,
    requires: Sequence[int | None],
    longest: int,
    training: np.ndarray,
    held_out: np.ndarray | None = None,
) -> Path:
    """Finds the path of each training set and target.

    Args:
        x (`np.ndarray` of shape (n, q)): Columns in every set first, then the candidates.
        y (`np.ndarray` of shape (n, m)): m targets.
        forced (`int`): How many columns are in every set.
        requires (`Sequence`): Per candidate, the one that has to be in the set too, or `None`.
        longest (`int`): L.
        training (`np.ndarray` of shape (s, n)): Row weights.
        held_out (`np.ndarray` of shape (s, n), *optional*): Weights of the rows to predict.
    """
    shape = (longest + 1, len(training), y.shape[1])
    path = Path(np.zeros(shape, np.int64), np.empty(shape), None if held_out is None else np.empty(shape))
    for s in range(0, len(training), _BLOCK):
        some = slice(s, s + _BLOCK)
        data = _Data.of(x, y, forced, training[some], None if held_out is None else held_out[some])
        count = len(data.xy) * y.shape[1]
        for start in range(0, count, _BLOCK):
            split, target = np.divmod(np.arange(start, min(start + _BLOCK, count)), y.shape[1])
            block = _Block(data, split, target, requires, longest)
            path.sets[:, s + split, target], path.rss[:, s + split, target] = block.sets(), block.rss()
            if path.errors is not None:
                path.errors[:, s + split, target] = block.errors()
    return path


@dataclass
class _Data:
    """Cross-products of s training sets once the columns in every set are taken out, and the rows held out of each.

    `xx` is (s, p, p), `xy` (s, m, p), `yy` (s, m); `floor` (s, p) is the least variance that a column may have left;
    `x`, `y` and `weights` of the rows held out are (s, rows, p), (s, rows, m) and (s, rows), padded by weights of 0.
    """

    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray
    floor: np.ndarray
    x: np.ndarray | None = None
    y: np.ndarray | None = None
    weights: np.ndarray | None = None

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, forced: int, training: np.ndarray, test: np.ndarray | None) -> "_Data":
        every = np.column_stack([x, y])
        (n, q), k = x.shape, every.shape[1]
        products = (training @ (x[:, :, None] * every[:, None, :]).reshape(n, q * k)).reshape(-1, q, k)
        always, rest = products[:, :forced], products[:, forced:]
        slopes = np.linalg.pinv(always[:, :, :forced], hermitian=True) @ always[:, :, forced:]
        left = rest[:, :, forced:] - rest[:, :, :forced] @ slopes
        p = q - forced
        floor = ALIASED * np.diagonal(products[:, forced:, forced:q], axis1=1, axis2=2)
        explained = (always[:, :, q:] * slopes[:, :, p:]).sum(axis=1)
        data = cls(
            np.ascontiguousarray(left[:, :, :p]), np.ascontiguousarray(left[:, :, p:].transpose(0, 2, 1)),
            training @ y**2 - explained, floor,
        )  # fmt: skip
        if test is not None:
            most = int((test > 0).sum(axis=1).max())
            rows = np.argsort(test <= 0, axis=1, kind="stable")[:, :most]
            residual = every[rows][:, :, forced:] - x[rows][:, :, :forced] @ slopes
            data.x, data.y = residual[:, :, :p], residual[:, :, p:]
            data.weights = np.take_along_axis(test, rows, axis=1)
        return data


class _Block:
    """Some problems, each a training set and a target: the order of its candidates, and the best sets of each size."""

    def __init__(
        self, data: _Data, split: np.ndarray, target: np.ndarray, requires: Sequence[int | None], longest: int
    ):
        self.data, self.split, self.target, self.longest = data, split, target, longest
        self.at = np.arange(len(split))
        self._forward(requires)
        self._compare(requires)

    def _forward(self, requires: Sequence[int | None]) -> None:
        """The order, as a pivoted Cholesky decomposition: `rows[k]` are the candidates' parts along direction k."""
        data, split, at = self.data, self.split, self.at
        left, cross = data.xx[split].diagonal(axis1=1, axis2=2).copy(), data.xy[split, self.target]
        floor = data.floor[split]
        self.order = np.full((self.longest, len(at)), -1)
        self.rows = np.zeros((self.longest, *cross.shape))
        self.along = np.zeros((self.longest, len(at)))  # of the target along each direction
        free = np.ones(cross.shape, bool)
        later = [(c, first) for c, first in enumerate(requires) if first is not None]
        free[:, [c for c, _ in later]] = False
        for k in range(self.longest):
            usable = free & (left > floor)
            gain = np.divide(cross**2, left, where=usable, out=np.full(cross.shape, -1.0))
            next_ = gain.argmax(axis=1)
            found = gain[at, next_] >= 0
            row = data.xx[split, next_]
            row -= np.einsum("kb,kbp->bp", self.rows[:k, at, next_], self.rows[:k])
            row /= np.sqrt(np.where(found, left[at, next_], np.inf))[:, None]
            self.along[k] = cross[at, next_] / np.sqrt(np.where(found, left[at, next_], np.inf))
            self.rows[k], self.order[k] = row, np.where(found, next_, -1)
            left -= row**2
            cross -= self.along[k][:, None] * row
            free[at, next_] &= ~found
            for c, first in later:
                free[:, c] |= found & (next_ == first)

    def _compare(self, requires: Sequence[int | None]) -> None:
        """Every set of the first of the order: `explained` is the most of each size, `chosen` which of them it has."""
        size = min(SCREENED, self.longest)
        order, there = self.order[:size], self.order[:size] >= 0
        corner = np.stack([self.rows[:size][:, self.at, c] for c in order], axis=1)  # (direction, candidate, problem)
        corner *= there
        self.gram = np.einsum("kib,kjb->ijb", corner, corner)
        self.cross = np.einsum("kib,kb->ib", corner, self.along[:size])
        self.gram[np.arange(size), np.arange(size)] += ~there
        # A candidate that needs another comes after it in the order.
        needed = np.array([-1 if first is None else first for first in requires])[order]
        needs = [(needed[i] == order) & (needed[i] >= 0) & there for i in range(size)] if (needed >= 0).any() else None
        self.explained = np.full((size + 1, len(self.at)), -np.inf)
        self.explained[0] = 0
        self.chosen = np.zeros((size + 1, len(self.at)), np.int64)

        def below(gram: np.ndarray, cross: np.ndarray, first: int, taken: tuple[int, ...], so_far: np.ndarray) -> None:
            k, bits = len(taken) + 1, sum(1 << i for i in taken)
            for i, left in enumerate(cross):
                total = left * left
                total /= gram[i, i]
                total += so_far
                if needs is not None:
                    total[needs[first + i].any(axis=0) & ~needs[first + i][list(taken)].any(axis=0)] = -np.inf
                better = total > self.explained[k]
                np.copyto(self.explained[k], total, where=better)
                np.copyto(self.chosen[k], bits | (1 << (first + i)), where=better)
                if i + 1 < len(cross):
                    slope = gram[i, i + 1 :] / gram[i, i]
                    grown = slope[:, None] * gram[i, i + 1 :]
                    np.subtract(gram[i + 1 :, i + 1 :], grown, out=grown)
                    slope *= left
                    np.subtract(cross[i + 1 :], slope, out=slope)
                    below(grown, slope, first + i + 1, (*taken, first + i), total)

        below(self.gram, self.cross, 0, (), np.zeros(len(self.at)))
        self.explained[np.arange(size + 1)[:, None] > there.sum(axis=0)] = -np.inf

    def sets(self) -> np.ndarray:
        """The best set of each size as bits, shape (L + 1, problems)."""
        bits = np.where(self.order >= 0, np.int64(1) << np.maximum(self.order, 0), 0)
        sets = np.concatenate([np.zeros((1, len(self.at)), np.int64), np.cumsum(bits, axis=0)])
        for k in range(1, len(self.chosen)):
            taken = (self.chosen[k] >> np.arange(len(self.chosen) - 1)[:, None]) & 1
            sets[k] = (taken * bits[: len(taken)]).sum(axis=0)
        return sets

    def rss(self) -> np.ndarray:
        """What the best set of each size leaves unexplained, shape (L + 1, problems)."""
        explained = np.concatenate([np.zeros((1, len(self.at))), np.cumsum(self.along**2, axis=0)])
        explained[1:][self.order < 0] = -np.inf
        explained[: len(self.explained)] = self.explained
        return self.data.yy[self.split, self.target] - explained

    def errors(self) -> np.ndarray:
        """Squared errors of the best set of each size on the rows held out, shape (L + 1, problems)."""
        data, at = self.data, self.at
        assert data.x is not None and data.y is not None and data.weights is not None  # rows were held out
        weights = data.weights[self.split]
        rest = data.y[self.split, :, self.target]
        found = np.full((self.longest + 1, len(at)), np.inf)
        # The heads of the order, direction by direction.
        directions = np.empty((self.longest, *rest.shape))
        residual = rest.copy()
        columns = data.x.transpose(0, 2, 1)
        found[0] = (weights * residual**2).sum(axis=1)
        for k, next_ in enumerate(self.order):
            there = next_ >= 0
            direction = columns[self.split, next_]
            direction = direction - np.einsum("kb,kbr->br", self.rows[:k, at, next_], directions[:k])
            directions[k] = direction / np.where(there, self.rows[k, at, next_], np.inf)[:, None]
            residual -= self.along[k][:, None] * directions[k]
            found[k + 1] = np.where(there, (weights * residual**2).sum(axis=1), np.inf)
        # The best of each size among the first.
        for k in range(1, len(self.chosen)):
            taken = (self.chosen[k] >> np.arange(len(self.chosen) - 1)[:, None]) & 1
            members = np.argsort(1 - taken, axis=0, kind="stable")[:k]
            slopes = _solve(self.gram[members[:, None], members, at], self.cross[members, at])
            residual = rest.copy()
            for slope, c in zip(slopes, self.order[members, at]):
                residual -= slope[:, None] * columns[self.split, c]
            found[k] = np.where(np.isfinite(self.explained[k]), (weights * residual**2).sum(axis=1), np.inf)
        return found


def _solve(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Coefficients of many small regressions at once: `gram` of shape (k, k, problems), `cross` (k, problems)."""
    k = len(cross)
    gram, solved = gram.copy(), cross.copy()
    for i in range(k - 1):
        slope = gram[i, i + 1 :] / gram[i, i]
        gram[i + 1 :, i + 1 :] -= slope[:, None] * gram[i, i + 1 :]
        solved[i + 1 :] -= slope * solved[i]
    for i in range(k - 1, -1, -1):
        solved[i] = (solved[i] - (gram[i, i + 1 :] * solved[i + 1 :]).sum(axis=0)) / gram[i, i]
    return solved
