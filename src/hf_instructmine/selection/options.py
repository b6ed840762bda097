"""The options of a [`Selector`]: checked, noted down, and made into what a walk keeps to."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from ..data.columns import SOURCE, TOKENS, names_sources
from ..data.texts import has_text
from ..errors import InstructMineError
from ..outputs.markdown import count
from .budget import Budget
from .near_copies import Sketches, check_near_duplicates
from .ranking import neighbor_columns
from .shares import Shares, bin_shares, check_quotas, quota_shares


if TYPE_CHECKING:
    from ..data.decontamination import Overlaps
    from ..data.evaluation_sets import EvaluationSet
    from ..estimator.rule import Rule


@dataclass
class Options:
    """What a [`Selector`] was given, documented there; None where nothing was asked for."""

    embeddings: np.ndarray | None = field(default=None, repr=False)
    max_similarity: float | None = None
    quotas: Mapping[str, tuple[float | None, float | None]] | None = None
    max_response_tokens: int | None = None
    length_bins: int | None = None
    eval_sets: "Mapping[str, Dataset | EvaluationSet] | None" = None
    set_level: bool = False
    near_duplicates: float | None = None
    _unit: np.ndarray | None = field(default=None, init=False, repr=False, compare=False)

    def check(self, rule: "Rule | None") -> None:
        """Refuses what no pool can mend.

        Raises:
            [`InstructMineError`]: Names the option.
        """
        for name, needed in (("max_similarity", self.max_similarity is not None), ("set_level", self.set_level)):
            if needed and self.embeddings is None:
                raise InstructMineError(f"{name} needs embeddings: pass embeddings=NeighborDistance(…).embed(scored)")
        if self.embeddings is not None and np.ndim(self.embeddings) != 2:
            raise InstructMineError(f"embeddings have shape {np.shape(self.embeddings)}: give one row for each row")
        if self.set_level and rule is None:
            raise InstructMineError("set_level replaces a rule's knn_<i>, and a strategy is no rule: leave it out")
        if self.set_level and rule is not None and not neighbor_columns(rule):
            raise InstructMineError(
                f"set_level replaces a rule's knn_<i>, and '{rule.name}' has none, only {', '.join(rule.indicators)}"
            )
        self._check_likeness()
        if self.quotas is not None:
            self.quotas = check_quotas(self.quotas)
        for name, least in (("max_response_tokens", 1), ("length_bins", 2)):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, _whole(name, value, least))

    def _check_likeness(self) -> None:
        if self.max_similarity is not None:
            self.max_similarity = _number("max_similarity", self.max_similarity)
            if not -1 <= self.max_similarity <= 1:
                raise InstructMineError(f"max_similarity={self.max_similarity} has to be a cosine, from -1 to 1")
        if self.near_duplicates is not None:
            self.near_duplicates = check_near_duplicates(self.near_duplicates)

    @property
    def given(self) -> dict[str, Any]:
        """The options that were asked for, for people to read: embeddings by shape, evaluation sets by name."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        given = {name: value for name, value in given.items() if value is not None and value is not False}
        if "embeddings" in given:
            given["embeddings"] = tuple(np.shape(given["embeddings"]))
        if "eval_sets" in given:
            given["eval_sets"] = list(given["eval_sets"])
        return given

    def check_pool(self, dataset: Dataset, budget: Budget) -> None:
        """Refuses what the pool or the budget does not allow, before any work.

        Raises:
            [`InstructMineError`]: Names the option.
        """
        if self.embeddings is not None and len(self.embeddings) != len(dataset):
            found = count(len(self.embeddings), "row")
            raise InstructMineError(f"embeddings have {found} and the pool has {len(dataset)}: give one for each")
        for name in ("quotas", "length_bins", "set_level"):
            if getattr(self, name) and budget.kind == "max_log_loss":
                raise InstructMineError(
                    f"with {name} give size, fraction or tokens: max_log_loss is no amount to fill"
                )
        if self.quotas and not names_sources(dataset):
            raise InstructMineError(f"quotas need a column '{SOURCE}' of names")
        for name in ("max_response_tokens", "length_bins"):
            if getattr(self, name) is not None and TOKENS not in dataset.column_names:
                raise InstructMineError(f"{name} needs the column '{TOKENS}': score the pool with OutputLength first")

    @property
    def by_length(self) -> bool:
        """Whether the rows' lengths matter."""
        return self.max_response_tokens is not None or self.length_bins is not None

    def exclude(
        self,
        rows: np.ndarray,
        budget: Budget,
        costs: np.ndarray,
        lengths: np.ndarray | None,
        overlaps: "Overlaps | None",
        beyond: np.ndarray | None = None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Leaves out those of `rows` (numbers, ascending) that no walk may take whatever else is taken.

        Returns:
            The other rows, and the rows left out by reason, each under the first that applies. A reason that was
            looked for and applies to no row has an empty array.
        """
        reasons: dict[str, np.ndarray] = {}
        if beyond is not None and beyond.any():
            reasons["limit"] = beyond
        if budget.kind == "tokens":
            reasons["empty"] = costs <= 0  # costs nothing, teaches nothing, and has no price per token
        if overlaps is not None:
            reasons["eval_sets"] = np.zeros(len(costs), bool)
            reasons["eval_sets"][overlaps.rows] = True
        if self.by_length:
            assert lengths is not None  # they are read where they matter
            reasons["output_length"] = np.isnan(lengths)
            if self.max_response_tokens is not None:
                reasons["max_response_tokens"] = lengths > self.max_response_tokens
        if (vectors := self.unit_embeddings) is not None:
            reasons["embeddings"] = np.isnan(vectors).any(axis=1)
        excluded = {}
        for reason, mask in reasons.items():
            out = mask[rows]
            excluded[reason], rows = rows[out], rows[~out]
        return rows, excluded

    @property
    def unit_embeddings(self) -> np.ndarray | None:
        """The embeddings with rows of length 1, float32; NaN where there is none."""
        if self.embeddings is None or not (self.max_similarity is not None or self.set_level):
            return None
        if self._unit is None:
            vectors = np.asarray(self.embeddings, dtype=np.float32)
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            self._unit = vectors / np.where(norms > 0, norms, np.nan)
        return self._unit

    def sketches(self, dataset: Dataset, columns: Mapping[str, Any] | None) -> Sketches | None:
        """What near copies are told by, where they are looked for.

        Raises:
            [`InstructMineError`]: Where the pool has no texts in a known layout.
        """
        if self.near_duplicates is None:
            return None
        if not has_text(dataset, columns):
            raise InstructMineError("near_duplicates compares texts, and the pool has none: leave it out")
        return Sketches(dataset, columns, self.near_duplicates)

    def shares(
        self,
        rows: np.ndarray,
        budget: Budget,
        costs: np.ndarray,
        lengths: np.ndarray | None,
        sources: tuple[np.ndarray, list[str]],
    ) -> list[Shares]:
        """How the budget is shared out among rows."""
        limit = budget.limit(len(costs))
        shares = []
        if self.quotas:
            shares.append(quota_shares(self.quotas, *sources, limit))
        if self.length_bins is not None and len(rows):
            assert lengths is not None  # as above
            shares.append(bin_shares(lengths, rows, self.length_bins, costs, limit))
        return shares


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InstructMineError(f"{name}={value!r} has to be a number") from None


def _whole(name: str, value: Any, least: int) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise InstructMineError(f"{name}={value!r} has to be a whole number") from None
    if value < least:
        raise InstructMineError(f"{name}={value} has to be at least {least}")
    return value
