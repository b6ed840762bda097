"""From a scored pool and a rule to a curated dataset: the examples of lowest predicted log loss (arXiv 2307.06290)."""

import warnings
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from ..data.columns import TOKENS, Column, Numbers, names_sources, numeric_column, read_sources
from ..data.containers import as_dataset
from ..data.evaluation_sets import open_eval_sets
from ..data.texts import TextKeys, has_text
from ..data.unread import unread_columns
from ..errors import InstructMineError
from .budget import Budget
from .curated import Selection
from .decisions import decide
from .examples import choose_examples
from .options import Options
from .preference import FORMS, Preference, is_strategy
from .ranking import (
    FixedRanking,
    SetRanking,
    compete,
    follow_slope,
    measured_inside,
    price,
    squared_columns,
    walk_means,
)
from .record import LOG_LOSS, count_by_source, count_bytes, count_tokens, rows_of
from .walk import Terms, Walk


if TYPE_CHECKING:
    from ..estimator.rule import Rule


_DEFAULTS = {"drop_duplicates": True, "columns": None, "max_leverage": None, "allow_mismatch": False}


@dataclass
class RankedPool:
    """What is read of a pool, once, before rows are taken from it.

    Attributes:
        dataset (`Dataset`): The pool.
        values (`Mapping[str, Numbers]`): The rule's indicators.
        log_loss (`np.ndarray` of shape `(n,)`): The rule's predictions; for a strategy, what it ranks by.
        rows (`np.ndarray`): Numbers of those that can be taken, ascending.
        unscored (`np.ndarray`): The rows that have no prediction, or of which the budget does not know the cost.
        sources (`tuple[np.ndarray, list[str]]`): Each row's source, and the sources' names.
        contaminated (`dict[str, int]`): Rows in which prompts of each evaluation set were found.
        unread (`list[str]`): Columns that carry text or meaning and are not read.
        terms ([`Terms`]): What every walk keeps to.
        lengths (`np.ndarray`, *optional*): Of the responses, in tokens, where they matter to the choice.
        strategy ([`Preference`], *optional*): What ranks without a rule.
    """

    dataset: Dataset
    values: Mapping[str, Numbers]
    log_loss: np.ndarray
    rows: np.ndarray
    unscored: np.ndarray
    sources: tuple[np.ndarray, list[str]]
    contaminated: dict[str, int]
    unread: list[str]
    terms: Terms
    lengths: np.ndarray | None = None
    strategy: Preference | None = None


class Selector:
    """Keeps the rows of a scored pool for which a rule predicts the lowest log loss.

    Args:
        rule ([`LossEstimator`], [`Rule`] or `str`): Predicts the log loss of each row from its indicator columns. A
            text chooses without a rule, as a comparison does: `"longest"`, `"random"`, `"highest:ifd<1"` and what else
            [`~comparison.strategies.choose_rows`] and [`~comparison.strategies.usual_strategies`] name. Rows without a
            value are never chosen then.
        embeddings (`np.ndarray` of shape `(n, d)`, *optional*): Of the pool's rows, as [`NeighborDistance.embed`]
            returns them; what `max_similarity` and `set_level` measure by. A row of NaN cannot be selected then.
        max_similarity (`float`, *optional*): On the way down the ranking, pass over a row whose cosine similarity to
            an already selected one is above this, as DEITA does (arXiv 2312.15685): rows alike have predictions
            alike, so the best of a pool are often variants of each other.
        quotas (`dict[str, tuple[float, float]]`, *optional*): Least and greatest share of the budget, in its own
            unit, of sources (column `source`), from 0 to 1 or None: a rule may like one source alone, and what a
            model is to be able to do is known beforehand. The least shares are filled first, each from the best rows
            of its source.
        max_response_tokens (`int`, *optional*): Longest response (column `output_length`): nothing is learnt
            from what training cuts off.
        length_bins (`int`, *optional*): Cut the rows into this many bins of equal count by response length, and give
            each the share of the budget that it has of the pool. A response's length confounds what models say of it,
            its NLL above all; within a bin they are compared among their like.
        eval_sets (`Mapping[str, Any]`, `str` or `Sequence[str]`, *optional*): Leave out the rows whose prompt holds
            one of these sets', by 8-grams; see [`find_contaminated`]. A loss measured on what was trained on means
            nothing.
        set_level (`bool`, *optional*, defaults to `False`): Choose one row after another, each by its distance to
            those chosen so far in place of its distance in the pool (the rule's `knn_<i>`): the rule was fitted on
            distances inside subsets. Takes time in proportion to the rows chosen times those of the pool.
        seed (`int`, *optional*, defaults to 0): Of a strategy that draws at random.
        near_duplicates (`float`, *optional*): Pass over a row whose word triples have at least this Jaccard
            similarity, from 0 to 1, to those of a selected row, by MinHash (extra `dedup`). It needs no embeddings.

    Raises:
        [`InstructMineError`]: Where an option cannot be met by any pool.

    Example:

    ```python
    >>> rule = LossEstimator.from_published("instructmining-v2")
    >>> selection = Selector(rule).select(scored, size=2000)
    >>> selection.save_to_disk("curated")
    ```
    """

    def __init__(
        self,
        rule: "Rule | str",
        *,
        embeddings: np.ndarray | None = None,
        max_similarity: float | None = None,
        quotas: Mapping[str, tuple[float | None, float | None]] | None = None,
        max_response_tokens: int | None = None,
        length_bins: int | None = None,
        eval_sets: Any = None,
        set_level: bool = False,
        seed: int = 0,
        near_duplicates: float | None = None,
    ):
        self.rule = None if isinstance(rule, str) else rule
        self.strategy = _strategy(rule, seed) if isinstance(rule, str) else None
        eval_sets = None if eval_sets is None else open_eval_sets(eval_sets)
        self.options = Options(
            embeddings, max_similarity, quotas, max_response_tokens, length_bins, eval_sets, set_level, near_duplicates
        )
        self.options.check(self.rule)

    @property
    def chooses_by(self) -> "Rule | str":
        """The rule, or what the strategy does."""
        if self.strategy is not None:
            return self.strategy.what or self.strategy.name
        assert self.rule is not None  # one of the two chooses
        return self.rule

    def within(self, rows: np.ndarray) -> "Selector":
        """The same selector for a pool of these rows alone, in this order: what it knows of each row is theirs."""
        if self.options.embeddings is None:
            return self
        narrowed = copy(self)
        narrowed.options = replace(self.options, embeddings=np.asarray(self.options.embeddings)[rows])
        return narrowed

    def select(
        self,
        dataset: Any,
        *,
        size: int | None = None,
        fraction: float | None = None,
        max_log_loss: float | None = None,
        tokens: int | None = None,
        drop_duplicates: bool = True,
        columns: Mapping[str, str] | None = None,
        max_leverage: float | None = None,
        allow_mismatch: bool = False,
    ) -> Selection:
        """Selects from the lowest predicted log loss upwards, equal predictions in the order of the pool.

        A rule with squares ranks by its slope at the mean of the set, see [`~selection.ranking.follow_slope`].

        Exactly one of `size`, `fraction`, `max_log_loss` and `tokens` says how much. Rows without a finite prediction
        are never selected.

        Args:
            dataset (`Dataset`, or what else [`as_dataset`] takes): A pool with the rule's indicator columns.
            size (`int`, *optional*): How many rows.
            fraction (`float`, *optional*): Which share of the pool's rows, above 0 and at most 1.
            max_log_loss (`float`, *optional*): All rows predicted at most this, in nats (log loss).
            tokens (`int`, *optional*): At most this many response tokens, by the column `output_length`, and short of
                it by less than the shortest row left out. The number of rows is free then, so rows compete by what
                they do to the set's mean prediction per token; see [`compete`]. Rows of no tokens are not selected.
            drop_duplicates (`bool`, *optional*, defaults to `True`): Pass over rows whose prompt and response, with
                reasoning, tool calls and tools, are exactly those of an already selected row, and rows without a
                response. With `False`, no text is read but those of the few rows that
                the card shows.
            columns (`Mapping[str, str]`, *optional*): Which column holds the `prompt` and `response` (or `messages`),
                where the layout is not one that is detected.
            max_leverage (`float`, *optional*): Stay where the rule was tested: rows are left out, the ones farthest
                from the runs first, until the selection's leverage is at most this; `rule.max_leverage` is the largest
                of the runs. Without it a selection that lies beyond the runs gives a warning.
            allow_mismatch (`bool`, *optional*, defaults to `False`): Accept indicators made otherwise than those the
                rule was fitted on.

        Returns:
            [`Selection`]

        Raises:
            [`InstructMineError`]: Where the pool is empty or lacks columns, has a column `predicted_log_loss`, or
                cannot fill what was asked for; where a strategy is asked for what only a rule has.
        """
        if self.strategy is not None:
            of_rules = {"max_log_loss": max_log_loss, "max_leverage": max_leverage, "allow_mismatch": allow_mismatch}
            _refuse_of_rules(self.strategy, of_rules)
        budget = Budget.of(size=size, fraction=fraction, max_log_loss=max_log_loss, tokens=tokens)
        dataset = as_dataset(dataset, "dataset", columns=columns)
        self._check(dataset, budget)
        pool = self._rank(dataset, budget, drop_duplicates, columns, allow_mismatch)
        if max_leverage is None:
            walk, far = self._take(pool, pool.rows), np.array([], np.int64)
        else:
            walk, far = self._stay_inside(pool, max_leverage)
        given = {
            "drop_duplicates": drop_duplicates,
            "columns": columns,
            "max_leverage": None if max_leverage is None else float(max_leverage),
            "allow_mismatch": allow_mismatch,
        }
        changed = {name: value for name, value in given.items() if value != _DEFAULTS[name]}
        return self._report(pool, walk, far, {budget.kind: budget.amount, **changed})

    def _check(self, dataset: Dataset, budget: Budget) -> None:
        """Refuses what the pool's size and columns do not allow."""
        if len(dataset) == 0:
            raise InstructMineError("the dataset is empty: there is no row to select")
        if self.rule is not None and LOG_LOSS in dataset.column_names:
            raise InstructMineError(
                f"the column '{LOG_LOSS}' exists already, from an earlier selection perhaps: remove it with "
                f"dataset.remove_columns('{LOG_LOSS}'), or rename it"
            )
        budget.check_pool(dataset)
        self.options.check_pool(dataset, budget)

    def _rank(
        self,
        dataset: Dataset,
        budget: Budget,
        drop_duplicates: bool,
        columns: Mapping[str, str] | None,
        allow_mismatch: bool,
    ) -> RankedPool:
        """Reads the pool, predicts its rows, and leaves out those that cannot be taken."""
        compare = drop_duplicates and has_text(dataset, columns)
        sources = read_sources(dataset)
        by_length = self.options.by_length or budget.kind == "tokens"
        strategy = None if self.strategy is None else self.strategy.on(dataset)
        lengths = numeric_column(dataset, TOKENS) if by_length else None
        costs = budget.costs(len(dataset), lengths)
        values, log_loss, beyond = self._judge(dataset, costs, strategy, allow_mismatch)
        # Without the rows that may not be taken whatever else is.
        rows = budget.rankable(log_loss, costs, "prediction" if strategy is None else "value")
        overlaps = None
        if self.options.eval_sets:
            from ..data.decontamination import find_contaminated

            overlaps = find_contaminated(dataset, self.options.eval_sets, columns)
        rows, excluded = self.options.exclude(rows, budget, costs, lengths, overlaps, beyond)
        unscored = np.flatnonzero(~(np.isfinite(log_loss) & np.isfinite(costs)))
        terms = Terms(
            budget,
            costs,
            keys=TextKeys(dataset, columns) if compare else None,
            unscored=len(unscored),
            excluded=excluded,
            shares=self.options.shares(rows, budget, costs, lengths, sources),
            embeddings=self.options.unit_embeddings,
            max_similarity=self.options.max_similarity,
            sketches=self.options.sketches(dataset, columns),
            options=self.options.given,
            lack="prediction" if strategy is None else "value",
        )
        contaminated = overlaps.counts if overlaps is not None else {}
        unread = unread_columns(dataset, columns) if compare else []
        return RankedPool(
            dataset, values, log_loss, rows, unscored, sources, contaminated, unread, terms, lengths, strategy
        )

    def _judge(
        self, dataset: Dataset, costs: np.ndarray, strategy: Preference | None, allow_mismatch: bool
    ) -> tuple[Mapping[str, Numbers], np.ndarray, np.ndarray | None]:
        """The columns that decide, what rows are ranked by, and which rows are beyond a strategy's limit."""
        if self.rule is not None:
            values = self.rule.read(dataset, allow_mismatch)
            return values, self.rule.apply(values, len(dataset)), None
        assert strategy is not None  # one of the two chooses
        ranked_by, beyond = strategy.rank(dataset, costs)
        return ({strategy.column: Column(dataset, strategy.column)} if strategy.column else {}), ranked_by, beyond

    def _take(self, pool: RankedPool, rows: np.ndarray) -> Walk:
        """Takes from rows, given by their numbers, ascending."""
        terms, own = pool.terms, self.rule
        if own is None:  # a strategy says nothing of what a set gains by a row
            return terms.walk(FixedRanking(rows, pool.log_loss, pool.log_loss))

        def walk_by(rule: "Rule") -> Walk:
            log_loss = pool.log_loss if rule is own else rule.apply(pool.values, len(pool.log_loss))

            def ordinary(level: float | None) -> Walk:
                if rule is own and level is None:
                    return terms.walk(FixedRanking(rows, log_loss, log_loss))
                return terms.walk(FixedRanking(rows, price(log_loss, terms.costs, level), log_loss, pool.log_loss))

            def one_by_one(level: float | None) -> Walk:
                assert vectors is not None  # set_level is refused without embeddings
                return terms.walk(SetRanking(rule, pool.values, vectors, rows, log_loss, terms.costs, level))

            walk_down = compete if terms.budget.kind == "tokens" else lambda walk_at: walk_at(None)
            vectors = self.options.unit_embeddings
            if not self.options.set_level:
                return walk_down(ordinary)
            greedy = walk_down(one_by_one)
            # One row after another is a heuristic: in small pools the ordinary ranking may give the better set.
            try:
                other = walk_down(ordinary)
            except InstructMineError:  # in this order the constraints cannot be met
                return greedy
            if vectors is None or len(other.taken) < 2:
                return greedy
            other = measured_inside(rule, pool.values, vectors, other)
            return other if other.mean < greedy.mean else greedy

        bent = squared_columns(own, self.options.set_level)
        # All rows up to a prediction are the same whatever the order.
        if not bent or terms.budget.kind == "max_log_loss":
            return walk_by(own)
        ranking = rows[np.argsort(pool.log_loss[rows], kind="stable")]
        return follow_slope(own, pool.values, ranking, bent, walk_by)

    def _leverage(self, pool: RankedPool, walk: Walk) -> float:
        """Of the rows taken, by their distances inside the set where they were chosen by these."""
        inside = {name: column[walk.taken] for name, column in pool.values.items()} | walk.distances
        assert self.rule is not None  # a strategy has no runs
        return self.rule.leverage_of_set(inside, len(walk.taken))

    def _stay_inside(self, pool: RankedPool, max_leverage: float) -> tuple[Walk, np.ndarray]:
        """Takes from as many of the rows nearest to the runs as the bound allows, found by bisection.

        Returns:
            The walk, and the numbers of the rows that were left out for it.
        """
        rows = pool.rows
        assert self.rule is not None  # as above
        distance = self.rule.leverage_of_rows(pool.values, len(pool.log_loss))[rows]
        order = np.lexsort((pool.log_loss[rows], distance))  # rows as far as another: the better one is kept
        too_few, too_many = 0, len(rows) + 1
        best: tuple[Walk, np.ndarray] | None = None
        nearest, lowest, kept = rows, np.inf, len(rows)
        while too_many - too_few > 1:
            try:
                walk = self._take(pool, nearest)
            except InstructMineError:  # too few rows are left to fill the budget
                if kept == len(rows):
                    raise
                too_few = kept
            else:
                leverage = self._leverage(pool, walk)
                lowest = min(lowest, leverage)
                if leverage <= max_leverage:
                    best, too_few = (walk, rows[order[kept:]]), kept
                else:
                    too_many = kept
            kept = (too_few + too_many) // 2
            nearest = rows[np.sort(order[:kept])]
        if best is None:
            raise InstructMineError(
                f"no selection of this amount has a leverage of at most max_leverage={max_leverage:.3g}; the lowest "
                f"found is {lowest:.3g}: ask for more rows, raise the bound, or fit on runs that reach further"
            )
        return best

    def _report(self, pool: RankedPool, walk: Walk, far: np.ndarray, asked: dict[str, Any]) -> Selection:
        """What was taken, with all that explains it."""
        # Whatever the order in which they were taken.
        indices = np.sort(np.asarray(walk.taken, dtype=np.int64))
        indices = indices[np.argsort(pool.log_loss[indices], kind="stable")]
        total, sources = count_by_source(*pool.sources, walk, pool.unscored)
        leverage, most = None, None if self.rule is None else self.rule.max_leverage
        if most is not None:
            leverage = self._leverage(pool, walk)
            if leverage > most and "max_leverage" not in asked:
                warnings.warn(
                    f"the selection's leverage {leverage:.3g} is above the runs' largest, {most:.3g}: the rule "
                    "extrapolates; max_leverage=rule.max_leverage mends it",
                    stacklevel=3,
                )
        decisions = decide(pool.dataset, walk, pool.unscored, far, pool.terms.lack)
        named = names_sources(pool.dataset)
        selected = rows_of(pool.dataset, indices, None if self.rule is None else pool.log_loss)
        return Selection(
            dataset=selected,
            estimator=self.rule,
            indices=indices,
            pool_log_loss=pool.log_loss,
            asked=asked,
            options=self.options.given,
            total=total,
            sources=sources if named else [],
            duplicates_checked=pool.terms.keys is not None,
            leverage=leverage,
            set_log_loss=None if self.rule is None else self.rule.predict_means(walk_means(pool.values, walk)),
            skipped_far=len(far),
            skipped={name: len(rows) for name, rows in walk.passed.items() if name not in ("duplicates", "empty")},
            contaminated=pool.contaminated,
            unread=pool.unread,
            tokens=count_tokens(pool.dataset, indices, pool.lengths),
            num_bytes=count_bytes(selected),
            examples=choose_examples(
                pool.dataset, decisions, pool.log_loss, self.rule, pool.values, asked.get("columns"),
                pool.sources if named else None,
            ),
            decisions=decisions,
            strategy=pool.strategy,
        )  # fmt: skip


def _strategy(text: str, seed: int) -> Preference:
    """Reads a strategy; the name of a rule is told apart.

    Raises:
        [`InstructMineError`]: Where it is none.
    """
    if not is_strategy(text):
        raise InstructMineError(
            f"the rule is a name, {text!r:.60}: open it with LossEstimator.from_pretrained; or write a strategy: "
            f"random, {FORMS}"
        )
    return Preference.parse(text, seed)


def _refuse_of_rules(strategy: Preference, given: Mapping[str, Any]) -> None:
    """Refuses what only a rule can be asked for.

    Raises:
        [`InstructMineError`]: Names the first.
    """
    for name, value in given.items():
        if value is not None and value is not False:
            raise InstructMineError(f"{name} is about a rule, and '{strategy.name}' is none: leave it out")
