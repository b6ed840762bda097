"""What a comparison trains on: disjoint random parts of the pool, and what each strategy chooses in each of them.

A strategy is a way to choose, and what it chose once is one set. So each chooses anew in every part, and the parts are
what its claim is replicated over.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from datasets.table import InMemoryTable

from ..data.columns import TOKENS, indicator_names, numeric_column
from ..data.texts import usable_rows
from ..errors import InstructMineError
from ..selection.selector import Selector
from .strategies import FULL, RANDOM, Strategy, choose_rows, is_random


logger = logging.getLogger(__name__)

_CHOICE = 1.5  # a part of less than so many budgets leaves little to choose

Budget = Mapping[str, int]
# Given the mean number of rows of a random choice, the optimiser steps of all; None where the recipe decides.
Steps = Callable[[float], int | None]


@dataclass(frozen=True)
class Protocol:
    """How a comparison replicates.

    Attributes:
        parts (`int`): Disjoint random parts of the pool.
        seeds (`int`): Finetunes of each strategy in each part.
        budget (`str`): `"steps"`, the same number for all, or `"recipe"`.
        random_at (`tuple[float, ...]`): Multiples of each amount at which a random choice is trained too.
        whole_pool (`bool`): Whether what each strategy chooses of the whole pool is trained too.
        seed (`int`): Of the parts, the random choices and, counting up, the finetunes.
    """

    parts: int = 8
    seeds: int = 1
    budget: str = "steps"
    random_at: tuple[float, ...] = (0.5, 2.0, 4.0)
    whole_pool: bool = True
    seed: int = 0


class Choices:
    """Has strategies choose in the parts of a pool.

    Args:
        scored (`Dataset`): The scored pool, with `output_length`.
        protocol ([`Protocol`]): How many parts.
        columns (`Mapping[str, str]`, *optional*): Which column of the pool is which, where that is not detected.

    Attributes:
        usable (`np.ndarray`): Rows that have a response of known length and are no exact copy of an earlier one.
        parts (`list[np.ndarray]`): Row numbers of each part, ascending; sizes differ by one at most.
    """

    def __init__(self, scored: Dataset, protocol: Protocol, columns: Mapping[str, str] | None = None):
        self.scored, self.protocol, self.columns = scored, protocol, columns
        self.lengths = numeric_column(scored, TOKENS)
        usable = usable_rows(scored, columns, copies=False)
        self.usable = usable[np.isfinite(self.lengths[usable])]
        self.parts = cut(self.usable, protocol.parts, protocol.seed)
        self.means = {name: numeric_column(scored, name) for name in indicator_names(scored)}
        self._subsets = [_rows_of(scored, part) for part in self.parts]

    def check(self, budget: Budget) -> None:
        """Looks whether each part can fill a budget.

        Raises:
            [`InstructMineError`]: Where one cannot; says how much, or how many parts, would do.
        """
        ((kind, amount),) = budget.items()
        held = [self._amount(kind, part) for part in self.parts]
        if min(held) >= amount:
            if min(held) < _CHOICE * amount:
                logger.warning(
                    "%s=%d is more than two thirds of what a part can give (%.0f): all choose much the same rows",
                    kind, amount, min(held),
                )  # fmt: skip
            return
        least = int(np.argmin(held))
        fewer = (
            n
            for n in range(self.protocol.parts - 1, 0, -1)
            if min(self._amount(kind, part) for part in cut(self.usable, n, self.protocol.seed)) >= amount
        )
        most = next(fewer, 0)
        mend = [f"for at most {kind}={held[least]:.0f}"] if held[least] >= 1 else []
        mend += [f"for parts={most}"] if most > 2 else []
        raise InstructMineError(
            f"{kind}={amount} is above the {held[least]:.0f} that part {least + 1} of {len(held)} can give: "
            + (f"ask {', '.join(mend)}, or " if mend else "")
            + "give a larger pool"
        )

    def multiples(self, budget: Budget) -> list[float]:
        """The multiples of a budget, other than 1, that every part can fill."""
        ((kind, amount),) = budget.items()
        least = min(self._amount(kind, part) for part in self.parts)
        return [m for m in self.protocol.random_at if m != 1 and 1 <= round(m * amount) <= least]

    def _tell_of_multiples(self, budget: Budget) -> None:
        left = {m for m in self.protocol.random_at if m != 1} - set(self.multiples(budget))
        if left:
            ((kind, amount),) = budget.items()
            logger.warning(
                "random_at: a part of the pool cannot give %s times %s=%d: left out",
                " or ".join(f"{m:g}" for m in sorted(left)), kind, amount,
            )  # fmt: skip

    def choose(self, strategies: Mapping[str, Strategy], budgets: Sequence[Budget]) -> list[dict[str, Any]]:
        """What is chosen: part by part, so that what was finished before a kill can be paired; then of the whole pool.

        Returns:
            `list[dict]`: Subsets with `strategy`, `amount`, `part`, `multiple`, `indices` and the mean of each
            indicator.

        Raises:
            [`InstructMineError`]: Where a strategy cannot choose, or a part cannot fill a budget.
        """
        for budget in budgets:
            self.check(budget)
            self._tell_of_multiples(budget)
        found = [row for budget in budgets for row in self._of_budget(strategies, budget)]
        full = (name for name, strategy in strategies.items() if strategy == FULL)
        return [*found, *(self._row(name, FULL, self.usable) for name in full)]

    def finetunes(self, chosen: Sequence[Mapping[str, Any]], steps: Steps) -> Dataset:
        """The finetunes on what was chosen, as a table for [`run_sweep`]."""
        rows: dict[str, list[int]] = {}  # of a random choice, by amount
        for what in chosen:
            if what["strategy"] == RANDOM and what["multiple"] == 1:
                rows.setdefault(what["amount"], []).append(what["subset_size"])
        alike = {amount: steps(float(np.mean(sizes))) for amount, sizes in rows.items()}
        return Dataset.from_list([run for what in chosen for run in self._finetunes(what, alike.get(what["amount"]))])

    def _of_budget(self, strategies: Mapping[str, Strategy], budget: Budget) -> list[dict[str, Any]]:
        ((kind, limit),) = budget.items()
        amount, protocol = f"{kind}={limit}", self.protocol
        choosing = {name: strategy for name, strategy in strategies.items() if strategy != FULL}
        told = _Told(len(self.parts) + protocol.whole_pool)
        found = []
        for number in range(len(self.parts)):
            for name, strategy in choosing.items():
                with told.of(name):
                    chosen = self._in_part(name, strategy, budget, number)
                found.append(self._row(name, amount, chosen, number))
            for multiple in self.multiples(budget):
                more = {kind: round(multiple * limit)}
                found.append(self._row(RANDOM, amount, self._in_part(RANDOM, RANDOM, more, number), number, multiple))
        if protocol.whole_pool:
            for name, strategy in choosing.items():
                if not is_random(strategy):  # another random choice would say no more
                    with told.of(name):
                        found.append(self._row(name, amount, self._in_pool(name, strategy, budget)))
        told.tell()
        return found

    def _finetunes(self, what: Mapping[str, Any], steps: int | None) -> Iterator[dict[str, Any]]:
        """One for each seed: in a part the same seeds for all, in another part others."""
        first = self.protocol.seed + (what["part"] or 0)
        for k in range(self.protocol.seeds if what["part"] is not None else 1):
            own = None if steps is None else max(round(steps * what["multiple"]), 1)
            yield {**what, "seed": first + k * self.protocol.parts, "max_steps": own}

    def _in_part(self, name: str, strategy: Strategy, budget: Budget, number: int) -> np.ndarray:
        part, subset = self.parts[number], self._subsets[number]
        own = strategy.within(part) if isinstance(strategy, Selector) else strategy
        return part[self._choose(name, own, budget, subset, np.arange(len(part)), self.lengths[part], number)]

    def _in_pool(self, name: str, strategy: Strategy, budget: Budget) -> np.ndarray:
        return self._choose(name, strategy, budget, self.scored, self.usable, self.lengths, len(self.parts))

    def _choose(
        self,
        name: str,
        strategy: Strategy,
        budget: Budget,
        rows: Dataset,
        usable: np.ndarray,
        lengths: np.ndarray,
        draw: int,
    ) -> np.ndarray:
        costs = lengths if "tokens" in budget else np.ones(len(rows))
        chosen = choose_rows(rows, strategy, budget, usable, costs, (self.protocol.seed, draw), self.columns, name)
        unknown = chosen[~np.isfinite(lengths[chosen])]
        if len(unknown):
            raise InstructMineError(
                f"the strategy '{name}' chose row {unknown[0]}, whose '{TOKENS}' is unknown: score it, or drop the row"
            )
        return chosen

    def _row(
        self, name: str, amount: str, indices: np.ndarray, part: int | None = None, multiple: float = 1.0
    ) -> dict[str, Any]:
        words = [name] if amount == FULL else [name, amount.replace("=", "")]
        words += [] if multiple == 1 else [f"x{multiple:g}"]
        words += [f"part{part}"] if part is not None else [] if amount == FULL else ["whole"]
        return {
            "mixture_id": "-".join(words),
            "strategy": name,
            "amount": amount,
            "part": part,
            "multiple": float(multiple),
            "indices": indices.tolist(),
            "subset_size": len(indices),
            "subset_tokens": int(self.lengths[indices].sum()),
            **{column: _mean(values[indices]) for column, values in self.means.items()},
        }

    def _amount(self, kind: str, part: np.ndarray) -> float:
        return float(self.lengths[part].sum()) if kind == "tokens" else float(len(part))


def cut(rows: np.ndarray, parts: int, seed: int) -> list[np.ndarray]:
    """Cuts rows at random into disjoint parts of equal size, give or take one."""
    shuffled = np.random.default_rng([seed, parts]).permutation(rows)
    return [np.sort(part) for part in np.array_split(shuffled, parts)]


def _rows_of(scored: Dataset, rows: np.ndarray) -> Dataset:
    """These rows as a table of their own: datasets shows a bar whenever a column joins a selection of another's."""
    return Dataset(InMemoryTable(scored.with_format("arrow")[rows]), info=scored.info.copy())


class _Told:
    """Says what a strategy's choices warned of once, and in how many of them."""

    def __init__(self, choices: int):
        self.choices = choices
        self.noted: dict[tuple[str, str, int], list[str]] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            yield
        for note in found:
            self.noted.setdefault((name, note.filename, note.lineno), []).append(str(note.message))

    def tell(self) -> None:
        for (name, *_), messages in self.noted.items():
            where = f"in {len(messages)} of its {self.choices} choices, the first of them"
            logger.warning("the strategy '%s', %s: %s", name, where, messages[0])


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
