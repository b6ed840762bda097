"""Which rows a trial of the size search trains on: the selector's best, random ones, or all."""

import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.texts import usable_rows
from ..errors import InstructMineError
from ..estimator.estimator import LossEstimator
from ..selection.curated import Selection
from ..selection.selector import Selector


logger = logging.getLogger(__name__)

# What `Selector.select` takes that a search may turn; the amount is the search's own.
_SELECT_KNOBS = {"drop_duplicates": True, "max_leverage": None}
_SELECTOR_OPTIONS = {n: p.default for n, p in inspect.signature(Selector).parameters.items() if n != "rule"}

Chooser = Callable[..., Any]


class Subsets:
    """Subsets of a pool, by size.

    Args:
        scored (`Dataset`): The pool.
        selector ([`Selector`], [`LossEstimator`] or callable): Who selects. A rule is given to a [`Selector`], whose
            options then are knobs; a callable gets `(scored, size, **knobs)` and returns row numbers.
        columns (`Mapping[str, str]`, *optional*): Which column of the pool is which, where that is not detected.
        select_options (`Mapping[str, Any]`, *optional*): For [`Selector.select`], such as `max_leverage`; with a rule
            also for [`Selector`], such as `embeddings`.
        seed (`int`, defaults to 0): Of the random draws.

    Raises:
        [`InstructMineError`]: Where the selector is none or has no such option, or no row has a response.
    """

    def __init__(
        self,
        scored: Dataset,
        selector: "Selector | LossEstimator | Chooser",
        columns: Mapping[str, str] | None = None,
        select_options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ):
        if not isinstance(selector, Selector | LossEstimator) and not callable(selector):
            raise InstructMineError(
                f"selector must be a Selector, a LossEstimator or a function, not a {type(selector).__name__}"
            )
        self.scored, self.selector, self.columns, self.seed = scored, selector, columns, seed
        self.options = dict(select_options or {})
        known = {*_SELECT_KNOBS, "allow_mismatch", *(_SELECTOR_OPTIONS if isinstance(selector, LossEstimator) else ())}
        unknown = sorted(self.options.keys() - (known if isinstance(selector, Selector | LossEstimator) else set()))
        if unknown:
            raise InstructMineError(f"select_options names '{unknown[0]}', no option of this selector")
        self.usable = usable_rows(scored, columns)
        self._warned: set[tuple[str, int]] = set()

    def knobs(self) -> dict[str, Any] | None:
        """What a search may turn, by name, with the present value; None where the callable takes any name.

        Raises:
            [`InstructMineError`]: Where the callable has arguments without a default, which the grid needs.
        """
        if isinstance(self.selector, Selector):  # it is as it is
            return {}
        if isinstance(self.selector, LossEstimator):
            return {**_SELECTOR_OPTIONS, **_SELECT_KNOBS, **self.options}
        taken = list(inspect.signature(self.selector).parameters.values())
        if any(p.kind is p.VAR_KEYWORD for p in taken):
            return None
        missing = next((p.name for p in taken[2:] if p.default is p.empty), None)
        if missing is not None:
            raise InstructMineError(f"the selector's argument '{missing}' has no default, which the grid needs")
        return {p.name: p.default for p in taken[2:]}

    def largest(self) -> int:
        """How many rows can be selected.

        Raises:
            [`InstructMineError`]: Where the selector cannot tell.
        """
        if not isinstance(self.selector, Selector | LossEstimator):
            return len(self.usable)
        return min(self._select({}, max_log_loss=sys.float_info.max).num_selected, len(self.usable))

    def selected(self, size: int, knobs: Mapping[str, Any] | None = None) -> list[int]:
        """The selector's rows, in its order.

        Raises:
            [`InstructMineError`]: Where it cannot give so many.
        """
        knobs = knobs or {}
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            if isinstance(self.selector, Selector | LossEstimator):
                chosen = self._select(knobs, size=size).indices
            else:
                chosen = self.selector(self.scored, size, **knobs)
        for note in noted:  # each of many trials would say the same
            if (note.filename, note.lineno) not in self._warned:
                self._warned.add((note.filename, note.lineno))
                logger.warning("selecting %d rows: %s", size, note.message)
        rows = [int(row) for row in chosen]
        if len(rows) != size or len(set(rows)) != size:
            raise InstructMineError(f"the selector was asked for {size} rows and gave {len(set(rows))} different ones")
        mute = np.setdiff1d(rows, self.usable[np.searchsorted(self.usable, rows) % len(self.usable)])
        if len(mute):
            raise InstructMineError(f"the selector gave row {mute[0]}, which is not in the pool or has no response")
        return rows

    def _select(
        self, knobs: Mapping[str, Any], *, size: int | None = None, max_log_loss: float | None = None
    ) -> Selection:
        options = {**self.options, **knobs}
        own = {name: options.pop(name) for name in _SELECTOR_OPTIONS if name in options}
        selector = self.selector
        if not isinstance(selector, Selector):
            assert isinstance(selector, LossEstimator)  # a function chooses by itself
            selector = Selector(selector, **own)
        return selector.select(self.scored, size=size, max_log_loss=max_log_loss, columns=self.columns, **options)

    def random(self, size: int, draw: int) -> list[int]:
        """Random rows with a response. Those of a smaller size are among those of a larger one of the same draw."""
        return np.random.default_rng([self.seed, draw]).permutation(self.usable)[:size].tolist()

    def all(self) -> list[int]:
        """Every row with a response."""
        return self.usable.tolist()
