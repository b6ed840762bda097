"""How much a selection may take, and in which order rows compete for it."""

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.columns import TOKENS
from ..errors import InstructMineError
from .order import rows_where


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

    @property
    def unit(self) -> str:
        """What is counted."""
        return "response tokens" if self.kind == "tokens" else "rows"

    def limit(self, rows: int) -> float:
        """What may be spent in a pool of `rows`, in the budget's unit; infinite for `max_log_loss`."""
        if self.kind == "max_log_loss":
            return np.inf
        return round(self.amount * rows) if self.kind == "fraction" else self.amount

    def check_pool(self, dataset: Dataset) -> None:
        """Refuses what the pool cannot give, from its size and columns alone.

        Raises:
            [`InstructMineError`]: Where the pool is too small, or does not know its response tokens.
        """
        if self.kind == "size" and self.amount > len(dataset):
            raise InstructMineError(f"{self} is above the pool's {len(dataset)} rows")
        if self.kind == "fraction" and self.limit(len(dataset)) < 1:
            raise InstructMineError(f"{self} of {len(dataset)} rows is no row: raise it, or pass size=1")
        if self.kind == "tokens" and TOKENS not in dataset.column_names:
            raise InstructMineError(f"{self} needs the column '{TOKENS}': score the pool with OutputLength first")

    def costs(self, rows: int, lengths: np.ndarray | None) -> np.ndarray:
        """What each of a pool's rows takes of the budget, shape `(rows,)`; NaN where that is unknown.

        Args:
            rows (`int`): Of the pool.
            lengths (`np.ndarray` of shape `(rows,)`, *optional*): Response tokens, for a budget of tokens.
        """
        if self.kind == "tokens":
            assert lengths is not None  # they are read for such a budget
            return lengths
        return np.broadcast_to(0.0 if self.kind == "max_log_loss" else 1.0, rows)  # one number, however many rows

    def rankable(self, log_loss: np.ndarray, costs: np.ndarray, lack: str = "prediction") -> np.ndarray:
        """Numbers of the rows that may be taken, ascending.

        Without a rule there is a `lack` of a `"value"`, not of a `"prediction"`.

        Raises:
            [`InstructMineError`]: Where there is none.
        """
        known = np.isfinite(log_loss) & np.isfinite(costs)
        rows = rows_where(known)
        if len(rows) == 0:
            why = ": an indicator of the rule is missing in each" if lack == "prediction" else " to be chosen by"
            raise InstructMineError(f"none of {len(log_loss)} rows has a {lack}{why}")
        if self.kind == "max_log_loss":
            lowest = log_loss[rows].min()
            rows = rows_where(known & (log_loss <= self.amount))
            if len(rows) == 0:
                raise InstructMineError(f"{self} selects nothing: the lowest prediction is {lowest:.6g}")
        return rows
