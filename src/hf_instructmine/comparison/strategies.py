"""Ways to choose rows, at equal response tokens or equal numbers of rows, so that they can be compared."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value

from ..data.containers import as_dataset
from ..errors import InstructMineError
from ..estimator.estimator import LossEstimator
from ..selection.preference import BALANCED, RANDOM, balance, column_of, groups_of, rank_by_column, shuffled, usual
from ..selection.selector import Selector


# What a strategy may be: see [`choose_rows`].
Strategy = str | LossEstimator | Selector | Callable[..., Sequence[int]]

FULL = "full"


def usual_strategies(scored: Any) -> dict[str, Strategy]:
    """The baselines that a pool's columns allow: random, random balanced over sources (column `source`), longest
    response, lowest and highest perplexity, highest reward, highest IFD below 1, kNN diversity (highest distance to
    the i-th neighbour).

    Args:
        scored (`Dataset`, or what else [`as_dataset`] takes): The scored pool.

    Returns:
        `dict[str, str]`: By name, for [`compare_strategies`].

    Example:

    ```python
    >>> him.usual_strategies(him.load_sample_pool())
    {'random': 'random', 'balanced-random': 'balanced:source'}
    ```
    """
    return dict(usual(as_dataset(scored, "scored")))


def is_random(strategy: Strategy) -> bool:
    """Whether it chooses at random, so that what it chose once is like what it would choose again."""
    return isinstance(strategy, str) and (strategy == RANDOM or BALANCED.fullmatch(strategy) is not None)


def check_strategy(name: str, strategy: Strategy, scored: Dataset) -> None:
    """Refuses what cannot choose from this pool.

    Raises:
        [`InstructMineError`]: Names the strategy and the column.
    """
    if not re.fullmatch(r"\w[\w.-]{0,59}", name):
        raise InstructMineError(f"the strategy's name {name!r:.70} must be letters, digits, '-', '_' and '.'")
    if isinstance(strategy, str) and strategy not in (RANDOM, FULL):
        column = column_of(strategy)
        if column is None:
            raise InstructMineError(
                f"the strategy '{name}' is {strategy!r}: write random, balanced:COLUMN, full, highest:COLUMN, "
                "lowest:COLUMN, or highest:COLUMN<LIMIT"
            )
        if column not in scored.column_names:
            raise InstructMineError(f"the strategy '{name}' needs the column '{column}': score the pool with it first")
        if BALANCED.fullmatch(strategy) and not isinstance(scored.features[column], Value | ClassLabel):
            raise InstructMineError(f"the strategy '{name}' balances over '{column}', which holds no single values")
    elif not isinstance(strategy, str | LossEstimator | Selector) and not callable(strategy):
        raise InstructMineError(f"the strategy '{name}' is a {type(strategy).__name__}, which cannot choose rows")


def choose_rows(
    scored: Dataset,
    strategy: Strategy,
    budget: Mapping[str, int],
    usable: np.ndarray,
    costs: np.ndarray,
    draw: Sequence[int] = (0,),
    columns: Mapping[str, str] | None = None,
    name: str = "mine",
) -> np.ndarray:
    """Chooses rows up to a budget.

    Args:
        scored (`Dataset`): The scored pool.
        strategy: `"random"`; `"balanced:COLUMN"`, at random, as much of each value of the column; `"full"`, which
            knows no budget; `"highest:COLUMN"` or `"lowest:COLUMN"`, from that end of the column on, without the rows
            that are NaN in it (`highest:COLUMN<LIMIT`: nor those at or above the limit); a [`LossEstimator`] or
            [`Selector`]; or a callable that gets the pool and `size=` or `tokens=` and returns row numbers.
        budget (`Mapping[str, int]`): `{"size": rows}` or `{"tokens": response tokens}`.
        usable (`np.ndarray`): Rows that may be chosen, in the order of the pool.
        costs (`np.ndarray` of shape `(n,)`): What each row takes of the budget.
        draw (`Sequence[int]`): Seed of a random choice.
        columns (`Mapping[str, str]`, *optional*): Which column of the pool is which, where that is not detected.
        name (`str`): Of the strategy, for errors.

    Returns:
        `np.ndarray`: Row numbers, ascending.

    Raises:
        [`InstructMineError`]: Where the rows do not fill the budget.
    """
    if strategy == FULL:
        return usable
    if isinstance(strategy, LossEstimator | Selector):
        selector = strategy if isinstance(strategy, Selector) else Selector(strategy)
        chosen = selector.select(scored, size=budget.get("size"), tokens=budget.get("tokens"), columns=columns)
        return np.sort(chosen.indices)
    if callable(strategy):
        return _checked(name, strategy(scored, **budget), len(scored), costs, budget)
    ((kind, amount),) = budget.items()
    if is_random(strategy):
        order = shuffled(usable, draw)
        if strategy != RANDOM:
            order = balance(order, groups_of(scored, strategy.partition(":")[2]), costs)
    else:
        order = _ranked(scored, strategy)
        order = order[np.isin(order, usable)]
    return take(order, costs, amount, f"{kind}={amount}")


def take(order: np.ndarray, costs: np.ndarray, amount: int, what: str) -> np.ndarray:
    """The rows met first that fit into the budget, ascending; those that do not fit are passed over.

    Raises:
        [`InstructMineError`]: Where all rows together do not fill it.
    """
    total = costs[order].sum()
    if total < amount:
        raise InstructMineError(f"{what} is above the {total:.0f} that can be chosen: ask for less")
    taken, rest, least = [], amount, costs[order].min()
    for row in order:
        if costs[row] <= rest:
            taken.append(row)
            rest -= costs[row]
        if rest < least:
            break
    if not taken:
        raise InstructMineError(f"{what} is less than every row takes: raise it")
    return np.sort(np.array(taken, dtype=np.int64))


def _ranked(scored: Dataset, strategy: str) -> np.ndarray:
    ranked_by, beyond = rank_by_column(scored, strategy)
    order = np.argsort(ranked_by, kind="stable")
    return order[(np.isfinite(ranked_by) & ~beyond)[order]]


def _checked(name: str, rows: Sequence[int], given: int, costs: np.ndarray, budget: Mapping[str, int]) -> np.ndarray:
    """What a function chose of a dataset.

    Raises:
        [`InstructMineError`]: Where that is nothing, rows that it was not given, or more than the budget.
    """
    try:
        chosen = np.unique(np.asarray(rows))
    except (TypeError, ValueError):  # of rows that have no order, or no shape
        chosen = np.array([None])
    if len(chosen) and chosen.dtype.kind not in "iu":
        raise InstructMineError(f"the strategy '{name}' returned no row numbers: return a list of whole numbers")
    if not len(chosen):
        raise InstructMineError(f"the strategy '{name}' chose no row")
    outside = chosen[(chosen < 0) | (chosen >= given)]
    if len(outside):
        raise InstructMineError(
            f"the strategy '{name}' chose row {outside[0]}, and was given {given} rows: row numbers count within the "
            "dataset that it is called with, a part of the pool"
        )
    ((kind, amount),) = budget.items()
    if (spent := costs[chosen].sum()) > amount:
        raise InstructMineError(f"the strategy '{name}' chose {kind}={spent:.0f} where {kind}={amount} was asked for")
    return chosen
