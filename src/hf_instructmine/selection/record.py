"""What a selection is made of, as data: the rows, the rule, the request, and what became of every row."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from ..data.columns import TOKENS, Column
from ..errors import InstructMineError
from ..estimator.file import rule_digest
from ..estimator.summary import WIDTH
from ..estimator.verdict import in_a_title, paragraph
from ..outputs.digests import fast_digest
from ..outputs.markdown import CardSection, count, printable
from ..outputs.shown import Cells, Drawing, Drawn
from .decisions import Decisions
from .figures import WITHOUT_RULE, count_predicted_log_loss, draw_predicted_log_loss
from .order import blocks_of, quantile
from .preference import RANDOM, Preference
from .walk import Walk, passed_over


if TYPE_CHECKING:
    from ..estimator.rule import Rule


LOG_LOSS = "predicted_log_loss"
_HELD = 2**28  # bytes of selected rows
_GATHERED = 512  # of them at a time
_COUNTED = 2**16  # rows of a pool whose tokens are counted at a time
# A pool whose `source` is a URL per row would make a summary or a card of a million lines.
MAX_SOURCES, SHOWN_SOURCES = 40, 20  # in the card, and on a screen


@dataclass
class SourceCount:
    """What became of the rows of one source.

    Attributes:
        name (`str`): The value of the column `source`.
        pool (`int`): Rows in the pool.
        selected (`int`): Rows selected.
        unscored (`int`): Rows that cannot be ranked, because their prediction is NaN or infinite.
        duplicates (`int`): Rows passed over as exact duplicates of an already selected prompt and response.
        empty (`int`): Rows passed over because they have no response.
    """

    name: str
    pool: int
    selected: int
    unscored: int
    duplicates: int
    empty: int


def count_by_source(
    codes: np.ndarray, names: list[str], walk: Walk, unscored: np.ndarray
) -> tuple[SourceCount, list[SourceCount]]:
    """Counts what became of the rows of the whole pool, and of those of each source.

    Args:
        codes (`np.ndarray` of shape `(n,)`): Each row's source.
        names (`list[str]`): The sources.
        walk ([`Walk`]): Which rows were taken and passed over.
        unscored (`np.ndarray`): Rows that cannot be ranked.
    """
    fates: dict[str, np.ndarray | list[int]] = {
        "selected": walk.taken,
        "unscored": unscored,
        "duplicates": walk.passed["duplicates"],
        "empty": walk.passed["empty"],
    }
    counts = {fate: np.bincount(codes[rows], minlength=len(names)).tolist() for fate, rows in fates.items()}
    counts["pool"] = np.sum([np.bincount(part, minlength=len(names)) for part in blocks_of(codes)], axis=0).tolist()
    sources = [SourceCount(name, **{fate: counts[fate][code] for fate in counts}) for code, name in enumerate(names)]
    total = SourceCount("all", **{fate: sum(counts[fate]) for fate in counts})
    return total, sources


def count_tokens(pool: Dataset, indices: np.ndarray, lengths: np.ndarray | None) -> dict[str, dict[str, float]]:
    """Response tokens of a pool and of the rows selected, as [`SelectionRecord`] keeps them; rows without are left
    out. `lengths` are those of the pool, where they have been read."""
    if lengths is None and TOKENS not in pool.column_names:
        return {}
    try:
        column = Column(pool, TOKENS) if lengths is None else lengths
    except InstructMineError:  # a column of that name with something else in it
        return {}
    parts = (column[start : start + _COUNTED] for start in range(0, len(pool), _COUNTED))
    return {"pool": _tokens_of(parts), "selected": _tokens_of([column[indices]])}


def _tokens_of(parts: Iterable[np.ndarray]) -> dict[str, float]:
    """By how often each length is there: no array as long as the pool is sorted for its median."""
    lengths, counts = np.empty(0), np.empty(0, np.int64)
    for part in parts:
        known, often = np.unique(part[~np.isnan(part)], return_counts=True)
        lengths, places = np.unique(np.concatenate([lengths, known]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([counts, often]), len(lengths)).astype(np.int64)
    if not len(lengths):
        return {"total": 0.0, "median": 0.0}
    middle = np.searchsorted(np.cumsum(counts), [(counts.sum() - 1) // 2, counts.sum() // 2], side="right")
    return {"total": float((lengths * counts).sum()), "median": float(lengths[middle].mean())}


def count_bytes(dataset: Dataset) -> int:
    """How many bytes the rows take as Arrow."""
    rows = dataset.with_format("arrow")
    return sum(rows[start : start + 1000].combine_chunks().nbytes for start in range(0, len(dataset), 1000))


def rows_of(pool: Dataset, indices: np.ndarray, log_loss: np.ndarray | None) -> Dataset:
    """The rows selected, in this order, with their predictions as a last column where the pool has any.

    They are read several times, and a view of a pool gathers them one by one each time: up to [`_HELD`] bytes are
    gathered once, and held.
    """
    import pyarrow as pa
    from datasets.fingerprint import Hasher
    from datasets.table import InMemoryTable

    pool = pool.with_format(None)
    if pool.data.nbytes / max(pool.data.num_rows, 1) * len(indices) > _HELD:
        return (pool if log_loss is None else pool.add_column(LOG_LOSS, log_loss)).select(indices)
    arrow = pool.with_format("arrow")
    # Rows that are gathered are tables of one row each until they are combined: of many at once that takes more room
    # than the rows themselves.
    starts = range(0, max(len(indices), 1), _GATHERED)
    table = pa.concat_tables(arrow[indices[start : start + _GATHERED]].combine_chunks() for start in starts)
    # Without a fingerprint all texts would be pickled to make one.
    told = Hasher.hash([pool._fingerprint, indices.tobytes()])
    rows = Dataset(InMemoryTable(table), info=pool.info.copy(), split=pool.split, fingerprint=told)
    return rows if log_loss is None else rows.add_column(LOG_LOSS, log_loss[indices])


@dataclass(repr=False)
class SelectionRecord(Drawn):
    """A selection as data.

    Attributes:
        dataset (`Dataset`): The selected rows, lowest predicted log loss first, with every column of the pool and
            `predicted_log_loss`. A strategy predicts nothing and adds no column.
        estimator ([`Rule`], *optional*): The rule that chose; None where a strategy did.
        indices (`np.ndarray` of shape `(k,)`): The pool's row numbers of `dataset`, in its order.
        pool_log_loss (`np.ndarray` of shape `(n,)`): Predicted log loss of every row of the pool, in its order.
            Where a strategy chose, what it ranked by, lowest first.
        asked (`dict`): What [`Selector.select`] was asked for, such as `{"size": 2000}`. There is no seed: nothing is
            random but a strategy that draws, which has its own.
        options (`dict`): The options of the [`Selector`], such as `{"max_similarity": 0.9}`; embeddings by their
            shape, evaluation sets by their names.
        total ([`SourceCount`]): Counts over the whole pool.
        sources (`list[SourceCount]`): The same by value of the column `source`; empty where there is no such column.
        duplicates_checked (`bool`): Whether texts were compared.
        leverage (`float`, *optional*): How far the selection's mean indicators lie from the runs that the rule was
            fitted to; None for a rule without runs. Above `estimator.max_leverage` the rule extrapolates.
        skipped_far (`int`): Rows left out so that `leverage` stays within what was asked.
        skipped (`dict[str, int]`): Rows that each option of the [`Selector`] kept out, each row under the first: over
            the whole pool for what holds whatever else is taken (`eval_sets`, `output_length`, `max_response_tokens`,
            `embeddings`), and of the rows met before the budget was filled for the others.
        contaminated (`dict[str, int]`): Rows of the pool in which prompts of each evaluation set were found, 0 where
            there are none; empty where none was looked for.
        unread (`list[str]`): Columns of the pool that carry text or meaning and are not read: see [`unread_columns`].
        license (`str`, *optional*): For the card's metadata: that of the data, which cannot be known from it.
        source_datasets (`list[str]`): For the card's metadata: the Hub ids of the pool.
        sections (`list[CardSection]`): Further sections of the card.
        set_log_loss (`float`, *optional*): Predicted log loss of the selection as a set, from its mean indicators. It
            is the mean of its rows' predictions for a linear rule alone.
        languages (`list[str]`): For the card's metadata: codes of the data's languages.
        pretty_name (`str`, *optional*): For the card's metadata: what the data set is called.
        source_licenses (`dict[str, str]`): The licence of each source, as far as it is known.
        notes (`list[str]`): What is to be said of the licences.
        tokens (`dict[str, dict[str, float]]`): Response tokens (column `output_length`) of `pool` and `selected`:
            their `total` and the `median` of a row; empty without that column.
        num_bytes (`int`, *optional*): Of the rows as Arrow.
        examples (`list[dict]`): Rows that were kept and not, as [`choose_examples`] gives them.
        decisions ([`Decisions`], *optional*): What became of every row of the pool; None where an earlier version
            saved the selection.
        strategy ([`Preference`], *optional*): What chose without a rule.
    """

    dataset: Dataset
    estimator: "Rule | None"
    indices: np.ndarray
    pool_log_loss: np.ndarray
    asked: dict[str, Any]
    options: dict[str, Any]
    total: SourceCount
    sources: list[SourceCount] = field(default_factory=list)
    duplicates_checked: bool = True
    leverage: float | None = None
    skipped_far: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    contaminated: dict[str, int] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    license: str | None = None
    source_datasets: list[str] = field(default_factory=list)
    sections: list[CardSection] = field(default_factory=list)
    set_log_loss: float | None = None
    languages: list[str] = field(default_factory=list)
    pretty_name: str | None = None
    source_licenses: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tokens: dict[str, dict[str, float]] = field(default_factory=dict)
    num_bytes: int | None = None
    examples: list[dict[str, Any]] = field(default_factory=list)
    decisions: Decisions | None = None
    strategy: Preference | None = None

    def _line(self) -> str:
        kind = "rule" if self.strategy is None else "strategy"
        return f"{self.num_selected:,} of {count(self.num_pool, 'row')} by the {kind} {printable(self.chooser, 60)}"

    def __str__(self) -> str:
        return self.summary()

    def _says(self) -> list[str]:
        return [self.verdict()]

    def _tables(self) -> list[Cells]:
        numbers = [["rows", f"{self.num_selected:,}", f"{self.num_pool:,}"]]
        if self.deciding:
            name, chosen, values = self.what_decided()
            medians = np.median(chosen), quantile(values, 0.5)
            numbers.append([f"{name}, median", *(f"{median:.4f}" for median in medians)])
        if self.tokens:
            kept, pool = self.tokens["selected"], self.tokens["pool"]
            numbers.append(["response tokens", f"{kept['total']:,.0f}", f"{pool['total']:,.0f}"])
            numbers.append(["median of a row", f"{kept['median']:,.0f}", f"{pool['median']:,.0f}"])
        tables = [Cells("Selected, and what there was", ["", "selected", "pool"], numbers)]
        if shown := self.largest_sources():
            rows = [[source.name, f"{source.selected:,}", f"{source.pool:,}"] for source in shown]
            tables.append(Cells("By source", ["source", "selected", "pool"], rows))
        return tables

    def _drawings(self) -> dict[str, Drawing]:
        if not self.deciding:
            return {}
        name, chosen, pool = self.what_decided()
        if self.strategy is None:
            figure, title, axis = "predicted_log_loss", in_a_title(self.rule), ""
        else:
            figure, title, axis = "what_decided", WITHOUT_RULE, name
        draw = partial(draw_predicted_log_loss, pool, chosen, title, axis)
        caption = f"{name} of the pool and of the selection"
        return {figure: Drawing(caption, draw, partial(count_predicted_log_loss, pool, chosen), 200)}

    @property
    def rule(self) -> "Rule":
        """The rule that chose; to be asked for where there is one."""
        assert self.estimator is not None  # as `strategy` says
        return self.estimator

    @property
    def chooser(self) -> str:
        """The name of the rule or of the strategy."""
        return self.rule.name if self.strategy is None else self.strategy.name

    @property
    def chosen_by(self) -> str:
        """What a comparison knows the choice by: the rule's digest, or what the strategy does."""
        return rule_digest(self.rule) if self.strategy is None else self.strategy.what

    @property
    def deciding(self) -> list[str]:
        """The columns that decided; none where rows were drawn, or by a rule that keeps no indicator."""
        if self.strategy is None:
            return self.rule.indicators
        return [self.strategy.column] if self.strategy.column else []

    @property
    def lack(self) -> str:
        """What rows that cannot be ranked have not."""
        return "prediction" if self.strategy is None else "value"

    @property
    def digest(self) -> str:
        """Of the numbers of the selected rows in the pool, in their order."""
        return fast_digest([np.ascontiguousarray(self.indices, dtype="<i8").tobytes()])

    @property
    def request(self) -> dict[str, Any]:
        """All that was asked for, the selector's options included."""
        return {**self.asked, **self.options}

    @property
    def num_pool(self) -> int:
        """Rows of the pool."""
        return self.total.pool

    @property
    def num_selected(self) -> int:
        """Rows selected."""
        return self.total.selected

    @property
    def skipped_unscored(self) -> int:
        """Rows of the pool that no selection can contain, because their prediction is NaN or infinite."""
        return self.total.unscored

    @property
    def skipped_duplicates(self) -> int:
        """Exact duplicates of an already selected prompt and response that were met before the budget was filled."""
        return self.total.duplicates

    @property
    def skipped_empty(self) -> int:
        """Rows without a response that were met before the budget was filled."""
        return self.total.empty

    @property
    def log_loss(self) -> np.ndarray:
        """Predicted log loss of the selected rows, ascending; shape `(k,)`."""
        return self.pool_log_loss[self.indices]

    def verdict(self) -> str:
        """Whether the rule may be used, how well it predicts, whether it extrapolates here, and what it was fitted on.

        Where a strategy chose, that there is no rule, and which rows were taken. One line of plain text, which the
        summary and the top of the card show; see [`~estimator.verdict.paragraph`].
        """
        if self.strategy is None:
            return paragraph(self.rule, self.leverage)
        return without_rule(self.strategy)

    def summary(self) -> str:
        """A few lines for a person to read; what the rule is worth comes first."""
        asked = printable(", ".join(f"{name}={value}" for name, value in self.request.items()), None)
        lines = [
            f"Selected {self.num_selected:,} of {count(self.num_pool, 'row')} with {printable(self.chooser)} "
            f"({asked})",
            fill(self.verdict(), WIDTH),
            *self._medians(),
            f"Passed over: {self.skipped_unscored:,} without a {self.lack}, "
            + (f"{count(self.skipped_duplicates, 'exact duplicate')}, " if self.duplicates_checked else "")
            + f"{self.skipped_empty:,} without a response",
        ]
        if self.skipped:
            lines.append(f"Of the others, {self.describe_skipped()}")
        if self.contaminated:
            lines.append(f"Evaluation prompts found: {self.describe_contaminated()}")
        if self.leverage is not None:
            lines.append(self.describe_leverage())
        shown = self.largest_sources()
        names = [printable(source.name) for source in shown]
        width = max(map(len, names), default=0)
        lines += [f"  {name:<{width}}  {c.selected:>9,} of {c.pool:,}" for name, c in zip(names, shown)]
        if len(shown) < len(self.sources):
            lines.append(f"  The {len(shown)} largest of {len(self.sources):,} sources are listed.")
        return "\n".join(lines)

    def _medians(self) -> list[str]:
        """What decided, over the selection and over the pool; nothing where rows were drawn."""
        if not self.deciding:
            return []
        name, chosen, pool = self.what_decided()
        most = "at most" if chosen[-1] >= chosen[0] else "at least"
        whole = self.set_log_loss
        return [
            f"{name}: median {np.median(chosen):.4f}, {most} {chosen[-1]:.4f}; pool median {quantile(pool, 0.5):.4f}",
            *([] if whole is None else [f"{name} of the set: {whole:.4f}"]),
        ]

    def what_decided(self) -> tuple[str, np.ndarray, np.ndarray]:
        """What rows were ranked by: its name, its values in the selection, in its order, and in the pool."""
        if self.strategy is None:
            return "Predicted log loss", self.log_loss, self.pool_log_loss
        values = self.strategy.values(self.pool_log_loss)
        return printable(self.strategy.column or "place in the draw"), values[self.indices], values

    def largest_sources(self) -> list[SourceCount]:
        """All sources in their order, or the `SHOWN_SOURCES` largest where there are more."""
        if len(self.sources) <= SHOWN_SOURCES:
            return self.sources
        return sorted(self.sources, key=lambda source: (-source.pool, source.name))[:SHOWN_SOURCES]

    def describe_skipped(self) -> str:
        """How many rows each option passed over, such as "12 have a longer response (max_response_tokens=800)"."""
        return ", ".join(passed_over(reason, rows, self.options) for reason, rows in self.skipped.items())

    def describe_contaminated(self) -> str:
        """In how many rows of the pool each evaluation set was found, such as "mmlu in 0 rows"."""
        return ", ".join(f"{printable(name)} in {count(rows, 'row')}" for name, rows in self.contaminated.items())

    def describe_leverage(self) -> str:
        """One sentence on whether the rule was tested where the selection lies."""
        most = self.rule.max_leverage
        assert self.leverage is not None and most is not None  # only a rule with runs has either
        place = "within" if self.leverage <= most else "beyond"
        far = count(self.skipped_far, "row far from the runs was", "rows far from the runs were")
        left_out = f"; {far} left out" if self.skipped_far else ""
        return f"Leverage {self.leverage:.3g}, {place} the runs' largest of {most:.3g}{left_out}"


def without_rule(strategy: Preference) -> str:
    """What is known of a choice by a strategy, in one line of plain text."""
    told = f"No rule: the rows are {strategy.told()}, by the strategy {printable(strategy.name)}."
    if strategy.what == RANDOM:
        return f"{told} It is what other choices are compared with."
    return f"{told} By itself that says nothing of whether they beat rows drawn at random."
