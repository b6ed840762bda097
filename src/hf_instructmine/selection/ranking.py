"""Choosing one row after another by its distance to the rows chosen so far.

The rule's `knn_<i>` was measured inside the subsets that were finetuned on. A row's distance in the pool says how
lonely it is there, not what it would be in the set: two copies of a lonely pair are both lonely in the pool, and once
one of them is chosen the other adds nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..data.columns import NEIGHBOR_COLUMN, Numbers
from ..errors import InstructMineError
from ..models.neighbors import cosine_distances, neighbor_distances
from .order import Ascending, blocks_of
from .walk import BLOCK


if TYPE_CHECKING:
    from ..estimator.rule import Rule
    from .walk import Descent, Walk

_AHEAD = 16 * BLOCK  # rows that are looked at together for whether they still fit
_ROUNDS = 50  # Dinkelbach's iteration converges faster than linearly: a handful is usual


def neighbor_columns(rule: "Rule") -> dict[str, int]:
    """The rule's columns that are measured inside a set, and which neighbour each is the distance to."""
    return {
        name: int(match[1])
        for name in rule.indicators
        if not name.startswith("pool_") and (match := NEIGHBOR_COLUMN.fullmatch(name))
    }


def measured_inside(rule: "Rule", columns: Mapping[str, Numbers], embeddings: np.ndarray, walk: "Walk") -> "Walk":
    """A walk down the ordinary ranking with the distances inside its set, and the mean prediction by these.

    Args:
        rule ([`Rule`]): With a term of `knn_<i>`.
        columns (`Mapping[str, Numbers]`): The rule's indicators over the pool.
        embeddings (`np.ndarray` of shape `(n, d)`): Rows of length 1.
        walk ([`Walk`]): Of two rows or more.
    """
    distances = {
        name: neighbor_distances(embeddings[walk.taken], min(i, len(walk.taken) - 1))
        for name, i in neighbor_columns(rule).items()
    }
    inside = {name: column[walk.taken] for name, column in columns.items()} | distances
    return replace(walk, mean=float(rule.apply(inside, len(walk.taken)).mean()), distances=distances)


def squared_columns(rule: "Rule", set_level: bool) -> list[str]:
    """The columns by whose squares rows are not to be ranked one by one.

    Under `set_level` a distance is measured anew with each row chosen, and its square with it.
    """
    own = neighbor_columns(rule) if set_level else {}
    if rule.regressor is not None:
        return []
    return list(dict.fromkeys(term.column for term in rule.terms if term.power > 1 and term.column not in own))


class SetRanking:
    """Ranks rows by their prediction with `knn_<i>` inside the set chosen so far; see [`Ranking`].

    That is the cosine distance to the i-th nearest row chosen. While fewer than i rows are chosen, it is the distance
    to the farthest of them.
    The first row is that of the ordinary ranking. Equal rows come in the order of the pool.

    Args:
        rule ([`Rule`]): With a term of `knn_<i>`.
        columns (`Mapping[str, Numbers]`): The rule's indicators over the pool.
        embeddings (`np.ndarray` of shape `(n, d)`): Rows of length 1.
        rows (`np.ndarray`): Those that can be chosen.
        log_loss (`np.ndarray` of shape `(n,)`): The ordinary predictions.
        costs (`np.ndarray` of shape `(n,)`): What each row takes of the budget.
        level (`float`, *optional*): See [`price`].
    """

    def __init__(
        self,
        rule: "Rule",
        columns: Mapping[str, Numbers],
        embeddings: np.ndarray,
        rows: np.ndarray,
        log_loss: np.ndarray,
        costs: np.ndarray,
        level: float | None,
    ):
        self.rows = np.sort(rows)
        self._rule, self._level, self._costs = rule, level, costs[self.rows]
        self._vectors = embeddings[self.rows]
        self._values = {name: column[self.rows] for name, column in columns.items()}
        self._neighbors = neighbor_columns(rule)
        # The smallest distances of each row to the rows chosen, ascending.
        self._nearest = np.full((len(self.rows), max(self._neighbors.values())), np.inf, np.float32)
        self._prediction = log_loss[self.rows]
        self._chosen: list[int] = []

    def blocks(self, descent: "Descent", wanted: np.ndarray) -> Iterator[tuple[np.ndarray, str | None]]:
        """See [`Ranking`]."""
        from datasets.utils import tqdm

        alive = wanted[self.rows]
        total = None if np.isinf(descent.limit) else int(descent.left)
        with tqdm(total=total, desc="Choosing rows", unit=descent.terms.budget.unit.split()[-1], delay=3) as progress:
            while True:
                alive &= self._costs <= descent.left
                score = np.where(alive, price(self._prediction, self._costs, self._level), np.inf)
                if not alive.any():
                    return
                best = int(score.argmin())
                if score[best] == np.inf:  # the logarithm of a distance of 0 is no number
                    yield self.rows[alive], "set_level"
                    return
                alive[best] = False
                before = len(descent.walk.taken)
                yield self.rows[best : best + 1], None
                if len(descent.walk.taken) > before:
                    self._choose(best)
                    progress.update(int(self._costs[best]))

    def conclude(self, taken: list[int]) -> tuple[float, dict[str, np.ndarray]]:
        """See [`Ranking`]."""
        # Among the chosen, a row is not its own neighbour: one neighbour fewer than for a row outside.
        self._measure(np.array(self._chosen), len(self._chosen) - 1)
        distances = {name: self._values[name][self._chosen] for name in self._neighbors}
        return float(self._prediction[self._chosen].mean()), distances

    def _choose(self, best: int) -> None:
        distances = cosine_distances(self._vectors, self._vectors[best])
        distances[best] = np.inf
        nearer = np.flatnonzero(distances < self._nearest[:, -1])
        self._nearest[nearer, -1] = distances[nearer]
        self._nearest[nearer] = np.sort(self._nearest[nearer], axis=1)
        self._chosen.append(best)
        # Until there are as many as the farthest neighbour asks for, another neighbour counts with each.
        changed = nearer if len(self._chosen) > self._nearest.shape[1] else np.arange(len(self.rows))
        self._measure(np.setdiff1d(changed, self._chosen, assume_unique=True), len(self._chosen))

    def _measure(self, rows: np.ndarray, neighbors: int) -> None:
        """Predicts rows anew from their distance to the chosen ones, of which `neighbors` are others than the row."""
        if neighbors == 0 or not len(rows):
            return
        for name, i in self._neighbors.items():
            self._values[name][rows] = self._nearest[rows, min(i, neighbors) - 1]
        values = {name: column[rows] for name, column in self._values.items()}
        predicted = self._rule.apply(values, len(rows))
        self._prediction[rows] = np.where(np.isfinite(predicted), predicted, np.inf)


class FixedRanking:
    """Rows in an order that nothing changes: the lowest price first, equal ones in the order of the pool.

    Args:
        rows (`np.ndarray`): Row numbers, ascending.
        prices (`np.ndarray` of shape `(n,)`): What the pool's rows are ranked by; see [`price`].
        log_loss (`np.ndarray` of shape `(n,)`): The predictions of the pool.
        ties (`np.ndarray` of shape `(n,)`, *optional*): What rows of equal price are ranked by, before their order.
    """

    def __init__(self, rows: np.ndarray, prices: np.ndarray, log_loss: np.ndarray, ties: np.ndarray | None = None):
        self.rows, self._log_loss = rows, log_loss
        self._order = Ascending(prices, rows, ties)

    def blocks(self, descent: "Descent", wanted: np.ndarray) -> Iterator[tuple[np.ndarray, str | None]]:
        """See [`Ranking`]."""
        costs = descent.terms.costs
        least = min((costs[rows].min() for rows in blocks_of(self.rows)), default=np.inf)
        for head in self._order.heads():
            for start in range(0, len(head), _AHEAD):
                if descent.left < least:  # what does not fit now never will
                    return
                rows = head[start : start + _AHEAD]
                rows = rows[wanted[rows]]
                while len(rows := rows[costs[rows] <= descent.left]):
                    yield rows[:BLOCK], None
                    rows = rows[BLOCK:]

    def conclude(self, taken: list[int]) -> tuple[float, dict[str, np.ndarray]]:
        """See [`Ranking`]."""
        return float(self._log_loss[taken].mean()), {}


def follow_slope(
    rule: "Rule",
    columns: Mapping[str, Numbers],
    rows: np.ndarray,
    bent: Sequence[str],
    walk_by: "Callable[[Rule], Walk]",
) -> "Walk":
    """Chooses a set by a rule that has squares: by its slope at the set's mean, not row by row.

    Such a rule is a function of the set's mean. Ranked row by row, −x² takes both tails, whose mean is no better than
    that of a random set. At a given mean the rule is as good as linear, and the rows that lower the prediction most
    are those of the lowest tangent (Frank & Wolfe 1956, "An algorithm for quadratic programming", Naval Research
    Logistics Quarterly 3). The tangent is taken anew at each set's mean while the set's prediction falls. It starts
    from the set that the ranking row by row gives, and from each end of each squared column, since a curve may fall
    on both sides. Of all sets met, that of lowest prediction is returned, so none is worse than the plain ranking's.

    Args:
        rule ([`Rule`]): With squares.
        columns (`Mapping[str, Numbers]`): The rule's indicators over the pool.
        rows (`np.ndarray`): Those that can be chosen.
        bent (`Sequence[str]`): The squared columns.
        walk_by (`Callable`): Walks down the ranking by a rule.
    """
    best = walk_by(rule)
    mean = {name: np.array([column[rows].mean()]) for name, column in columns.items()}
    starts = [walk_means(columns, best)]
    for name in bent:
        ordered = np.sort(columns[name][rows])
        tail = max(1, min(len(best.taken), len(ordered) // 2))
        starts += [mean | {name: np.array([end.mean()])} for end in (ordered[:tail], ordered[-tail:])]
    lowest = rule.predict_means(starts[0])
    for at in starts:
        last = np.inf
        for _ in range(_ROUNDS):
            try:
                walk = walk_by(rule.tangent(at))
            except InstructMineError:  # in this order the constraints cannot be met; in the plain one they were
                break
            at = walk_means(columns, walk)
            predicted = rule.predict_means(at)
            if not predicted < last:
                break
            last = predicted
            if predicted < lowest:
                best, lowest = walk, predicted
    return best


def walk_means(columns: Mapping[str, Numbers], walk: "Walk") -> dict[str, np.ndarray]:
    """Mean of each indicator over the rows taken, shape (1,), by their distances inside the set where it has them."""
    inside = {name: column[walk.taken] for name, column in columns.items()} | walk.distances
    return {name: np.array([values.mean()]) for name, values in inside.items()}


def price(log_loss: np.ndarray, costs: np.ndarray, level: float | None) -> np.ndarray:
    """What rows are ranked by, lowest first: the predicted log loss p itself, or under a budget of tokens
    (p − level) / tokens; see [`compete`]."""
    if level is None:
        return log_loss
    with np.errstate(divide="ignore", invalid="ignore"):  # rows of no tokens, which cannot be taken
        return (log_loss - level) / costs


def compete(walk_at: Callable[[float | None], "Walk"]) -> "Walk":
    """Lets rows compete by what they cost, and returns the walk of lowest mean prediction.

    The rule predicts a set's log loss as the mean of its rows' predictions p_i. Under a budget of T tokens the number
    of rows is free: the problem is to minimise Σ p_i x_i / Σ x_i subject to Σ t_i x_i = T, x_i ∈ {0, 1}. Where q is
    the lowest mean, its set also minimises Σ (p_i − q) x_i (Dinkelbach 1967, "On nonlinear fractional programming",
    Management Science 13), a knapsack whose rows compete by (p_i − q) / t_i: what a row adds relative to the set's
    mean, per token. q is not known beforehand; taking it from the walk down the plain ranking, and from each walk
    anew, lowers it until it is stable. As rows are whole and constraints apply, this is a heuristic then, but a walk
    is only kept where its mean is below that of the one before: the result is never worse than the plain ranking's.

    Args:
        walk_at (`Callable`): Walks down the ranking by [`price`] at a level, None for the plain one.
    """
    best = walk_at(None)
    for _ in range(_ROUNDS):
        try:
            walk = walk_at(best.mean)
        except InstructMineError:  # in this order the constraints cannot be met; in the one before they were
            break
        if not walk.mean < best.mean:
            break
        best = walk
    return best
