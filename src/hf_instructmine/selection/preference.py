"""Choosing rows without a rule: by one column, or at random. A comparison knows these choices by the same names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Value

from ..data.columns import SOURCE, indicator_of, names_sources, numeric_column
from ..errors import InstructMineError, nearest


RANDOM = "random"
BALANCED = re.compile(r"balanced:(\w+)")
BY_COLUMN = re.compile(r"(highest|lowest):(\w+)(?:<([-\d.eE]+))?")
_NEIGHBOR = re.compile(r"knn_\d+")
# What one would try without a rule, where the pool has the column. IFD as its authors use it: the highest below 1,
# where the instruction helps at all (arXiv 2308.12032).
NAMED = {
    "longest": "highest:output_length",
    "lowest-perplexity": "lowest:perplexity",
    "highest-perplexity": "highest:perplexity",
    "highest-reward": "highest:reward",
    "highest-ifd": "highest:ifd<1",
}
DIVERSE, BALANCED_RANDOM = "knn-diversity", "balanced-random"
FORMS = "balanced:COLUMN, highest:COLUMN, lowest:COLUMN, highest:COLUMN<LIMIT"


def usual(scored: Dataset) -> dict[str, str]:
    """What a pool's columns allow of the usual choices, by name."""
    names = scored.column_names
    found = {name: what for name, what in NAMED.items() if column_of(what) in names}
    neighbors = [name for name in names if _NEIGHBOR.fullmatch(name)]
    diverse = {DIVERSE: f"highest:{neighbors[0]}"} if neighbors else {}
    balanced = {BALANCED_RANDOM: f"balanced:{SOURCE}"} if names_sources(scored) else {}
    return {RANDOM: RANDOM, **balanced, **found, **diverse}


def column_of(what: str) -> str | None:
    """The column that decides; None for a choice at random, and for a text that is no choice."""
    if found := BALANCED.fullmatch(what):
        return found[1]
    by_column = BY_COLUMN.fullmatch(what)
    return by_column and by_column[2]


def is_strategy(text: str) -> bool:
    """Whether it is a name or a form of a choice without a rule."""
    return text in (RANDOM, DIVERSE, BALANCED_RANDOM) or column_of(NAMED.get(text, text)) is not None


def rank_by_column(scored: Dataset, what: str) -> tuple[np.ndarray, np.ndarray]:
    """What `highest:COLUMN`, `lowest:COLUMN` and their `<LIMIT` rank by.

    Returns:
        Two arrays of shape `(n,)`: what rows are ranked by, lowest first and NaN where the value is missing; and which
        rows have a value at or above the limit.
    """
    found = BY_COLUMN.fullmatch(what)
    assert found is not None  # other texts are refused first
    end, column, limit = found.groups()
    values = numeric_column(scored, column)
    beyond = np.zeros(len(values), bool) if limit is None else values >= float(limit)
    return np.negative(values, out=values) if end == "highest" else values, beyond


def shuffled(rows: np.ndarray, draw: Sequence[int]) -> np.ndarray:
    """Rows in a random order."""
    return np.random.default_rng(list(draw)).permutation(rows)


def balance(order: np.ndarray, groups: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Takes in turn from the group of which least has been taken, each in the given order.

    Args:
        order (`np.ndarray`): Row numbers.
        groups (`np.ndarray` of shape `(n,)`): Each row's group, as [`groups_of`] numbers them.
        costs (`np.ndarray` of shape `(n,)`): What is taken by a row, 0 or more.
    """
    _, firsts, group = np.unique(groups[order], return_index=True, return_inverse=True)
    group = np.argsort(np.argsort(firsts))[group]  # of groups of which as much was taken, the one met first
    together = np.argsort(group, kind="stable")
    group, cost = group[together], costs[order[together]]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    if (cost == np.floor(cost)).all():  # whole numbers, of which sums are exact
        before = np.cumsum(cost) - cost
        before -= np.repeat(before[starts], np.diff(starts, append=len(group)))
    else:
        before = np.concatenate([np.cumsum(np.append(0.0, part[:-1])) for part in np.split(cost, starts[1:])])
    # A row's turn comes when no group has less than its own had before it.
    return order[together[np.lexsort((group, before))]]


def groups_of(pool: Dataset, column: str) -> np.ndarray:
    """A number for each row, the same where the values of a column are equal; each NaN is a group of its own."""
    values = pool.select_columns([column]).with_format("arrow")[:][column]
    if pa.types.is_floating(values.type):
        codes = np.unique(values.to_numpy(), return_inverse=True, equal_nan=False)[1]
        codes[values.is_null().to_numpy()] = -1
        return codes
    encoded = values.dictionary_encode(null_encoding="encode").unify_dictionaries()
    return np.concatenate([np.empty(0, np.int32), *(piece.indices.to_numpy() for piece in encoded.chunks)])


@dataclass(frozen=True)
class Preference:
    """A choice of rows without a rule.

    Attributes:
        name (`str`): What it was asked for as, such as `"longest"`.
        what (`str`): What it does, such as `"highest:output_length"`; empty where the pool's columns tell it.
        seed (`int`): Of a random choice.
    """

    name: str
    what: str
    seed: int = 0

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> "Preference":
        """Reads a name or a form.

        Raises:
            [`InstructMineError`]: Where it is neither.
        """
        what = NAMED.get(text, "" if text in (DIVERSE, BALANCED_RANDOM) else text)
        if not is_strategy(text):
            names = nearest(text, [RANDOM, *NAMED, BALANCED_RANDOM, DIVERSE])
            raise InstructMineError(f"{text!r:.60} is no strategy: {names}, and {FORMS}")
        limit = BY_COLUMN.fullmatch(what)
        if limit is not None and limit[3] is not None:
            try:
                float(limit[3])
            except ValueError:
                raise InstructMineError(
                    f"the strategy '{text}' has the limit '{limit[3]}', which is no number"
                ) from None
        return cls(text, what, seed)

    def on(self, pool: Dataset) -> "Preference":
        """This choice with its column named, as the pool has it.

        Raises:
            [`InstructMineError`]: Where the pool lacks the column.
        """
        what = self.what or usual(pool).get(self.name, "")
        column = column_of(what)
        if not what or (column is not None and column not in pool.column_names):
            asked = column or (SOURCE if self.name == BALANCED_RANDOM else "knn_<i>")
            maker = indicator_of(asked) or ("NeighborDistance" if asked.startswith("knn_") else None)
            mend = f": score the pool with {maker} first" if maker else ""
            raise InstructMineError(f"the strategy '{self.name}' needs the column '{asked}'{mend}")
        if BALANCED.fullmatch(what) and not isinstance(pool.features[column], Value | ClassLabel):
            raise InstructMineError(
                f"the strategy '{self.name}' balances over '{column}', which holds no single values"
            )
        return replace(self, what=what)

    @property
    def is_random(self) -> bool:
        """Whether it draws."""
        return self.what == RANDOM or self.name == BALANCED_RANDOM or BALANCED.fullmatch(self.what) is not None

    @property
    def column(self) -> str | None:
        """The column whose values decide; None where rows are drawn."""
        return None if self.is_random else column_of(self.what)

    def rank(self, pool: Dataset, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What rows are ranked by; see [`rank_by_column`]. For a random choice it is the place in the draw."""
        if not self.is_random:
            return rank_by_column(pool, self.what)
        order = shuffled(np.flatnonzero(np.isfinite(costs)), [self.seed])
        if self.what != RANDOM:
            order = balance(order, groups_of(pool, str(column_of(self.what))), costs)
        places = np.full(len(pool), np.nan)
        places[order] = np.arange(len(order))
        return places, np.zeros(len(pool), bool)

    def values(self, ranked_by: np.ndarray) -> np.ndarray:
        """The values that decided, from what rows were ranked by."""
        return -ranked_by if self.what.startswith("highest:") else ranked_by

    @property
    def called(self) -> str:
        """Its name, and what that does."""
        return self.name if self.name == self.what else f"{self.name} ({self.what})"

    def told(self) -> str:
        """Which rows it takes, in words."""
        if self.what == RANDOM:
            return f"drawn at random (seed {self.seed})"
        if found := BALANCED.fullmatch(self.what):
            return f"drawn at random (seed {self.seed}), as much of each value of {found[1]} as there is"
        found = BY_COLUMN.fullmatch(self.what)
        assert found is not None  # as it was parsed
        return f"those of the {found[1]} {found[2]}{f' below {found[3]}' if found[3] else ''}"
