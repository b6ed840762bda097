"""How much a selection may take, and the walk down a ranking that takes it."""

import operator
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset

from .errors import InstructMineError


TOKENS = "output_length"


@dataclass
class Walk:
    """The rows met on the way down a ranking, by what became of them.

    Attributes:
        taken (`list[int]`): Row numbers in the order they were taken.
        duplicates (`list[int]`): Rows passed over because an equal one had been taken.
        empty (`list[int]`): Rows passed over because they have no response.
        spent (`float`): The part of the budget that was used.
        full (`bool`): Whether the budget, rather than the end of the ranking, ended the walk.
    """

    taken: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    spent: float = 0.0
    full: bool = False


@dataclass(frozen=True)
class Budget:
    """One of four ways to say how much: `size` rows, a `fraction` of the pool, all up to `max_log_loss`, `tokens`."""

    kind: str
    amount: int | float

    @classmethod
    def of(cls, **budgets: Any) -> "Budget":
        """Takes the one that is not None.

        Raises:
            [`InstructMineError`]: Where there is none or more than one, or its value is out of range.
        """
        given = [(kind, amount) for kind, amount in budgets.items() if amount is not None]
        if len(given) != 1:
            named = " and ".join(kind for kind, _ in given) or "none"
            raise InstructMineError(
                f"give exactly one of {', '.join(budgets)} to say how much to select; given: {named}"
            )
        kind, amount = given[0]
        whole = kind in ("size", "tokens")
        try:
            amount = operator.index(amount) if whole else float(amount)
        except (TypeError, ValueError):
            raise InstructMineError(f"{kind}={amount!r} has to be a {'whole ' if whole else ''}number") from None
        if whole and amount < 1:
            raise InstructMineError(f"{kind}={amount} selects nothing: it has to be at least 1")
        if kind == "fraction" and not 0 < amount <= 1:
            raise InstructMineError(f"fraction={amount} has to be above 0 and at most 1")
        if not np.isfinite(amount):
            raise InstructMineError(f"{kind}={amount} has to be a finite number")
        return cls(kind, amount)

    def __str__(self) -> str:
        return f"{self.kind}={self.amount}"

    def check_pool(self, dataset: Dataset) -> None:
        """Refuses what the pool cannot give, from its size and columns alone.

        Raises:
            [`InstructMineError`]: Where the pool is too small, or does not know its response tokens.
        """
        if self.kind == "size" and self.amount > len(dataset):
            raise InstructMineError(f"{self} is above the pool's {len(dataset)} rows")
        if self.kind == "fraction" and self._limit(dataset) < 1:
            raise InstructMineError(f"{self} of {len(dataset)} rows is no row: raise it, or pass size=1")
        if self.kind == "tokens" and TOKENS not in dataset.column_names:
            raise InstructMineError(f"{self} needs the column '{TOKENS}': score the pool with OutputLength first")

    def costs(self, dataset: Dataset) -> np.ndarray:
        """What each row takes of the budget, shape `(n,)`; NaN where that is unknown."""
        if self.kind == "tokens":
            lengths = dataset.select_columns([TOKENS]).with_format("arrow")[:][TOKENS]
            return lengths.cast("float64").to_numpy()
        return np.full(len(dataset), 0.0 if self.kind == "max_log_loss" else 1.0)

    def rank(self, log_loss: np.ndarray, costs: np.ndarray) -> np.ndarray:
        """Row numbers that may be taken, lowest predicted log loss first, equal ones in the order of the pool.

        Raises:
            [`InstructMineError`]: Where there is none.
        """
        ranking = np.argsort(log_loss, kind="stable")
        ranking = ranking[np.isfinite(log_loss[ranking]) & np.isfinite(costs[ranking])]
        if len(ranking) == 0:
            raise InstructMineError(
                f"none of {len(log_loss)} rows has a prediction: an indicator of the rule is missing in each"
            )
        if self.kind == "max_log_loss":
            lowest = log_loss[ranking[0]]
            ranking = ranking[log_loss[ranking] <= self.amount]
            if len(ranking) == 0:
                raise InstructMineError(f"{self} selects nothing: the lowest prediction is {lowest:.6g}")
        return ranking

    def walk(self, dataset: Dataset, costs: np.ndarray, keys: Iterable[tuple[int, Hashable | None]]) -> Walk:
        """Takes rows until the budget is filled.

        Args:
            dataset (`Dataset`): The pool.
            costs (`np.ndarray` of shape `(n,)`): As [`~Budget.costs`] returns them.
            keys (iterable of pairs): Row numbers in the order of the ranking, each with what makes a row equal to
                another, or None where the row has no response. Read no further than needed.

        Raises:
            [`InstructMineError`]: Where the rows do not fill the budget, with what stood in the way.
        """
        walk, seen, limit = Walk(), set(), self._limit(dataset)
        for row, key in keys:
            if key is None:
                walk.empty.append(row)
                continue
            if key in seen:
                walk.duplicates.append(row)
                continue
            if walk.spent + costs[row] > limit:
                walk.full = True
                break
            seen.add(key)
            walk.taken.append(row)
            walk.spent += costs[row]
            if walk.spent == limit:
                walk.full = True
                break
        self._check_filled(walk, len(dataset))
        return walk

    def _limit(self, dataset: Dataset) -> float:
        if self.kind == "max_log_loss":
            return np.inf
        return round(self.amount * len(dataset)) if self.kind == "fraction" else self.amount

    def _check_filled(self, walk: Walk, rows: int) -> None:
        if walk.full and not walk.taken:
            raise InstructMineError(f"{self} is less than the response of the best row alone: raise it")
        if not walk.taken or not (walk.full or self.kind == "max_log_loss"):
            passed = len(walk.duplicates) + len(walk.empty)
            reached = f"{walk.spent:.0f} response tokens" if self.kind == "tokens" else f"{len(walk.taken)} rows"
            raise InstructMineError(
                f"{self} is above the {reached} that can be selected: of {rows} rows, "
                f"{rows - len(walk.taken) - passed} have no prediction, {len(walk.duplicates)} are exact duplicates "
                f"and {len(walk.empty)} have no response; ask for less"
            )
