"""From a scored pool and a rule to a curated dataset: the examples of lowest predicted log loss (arXiv 2307.06290)."""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from .budget import Budget, compete, price
from .constraints import REASONS, FixedRanking, Ranking, Terms, Walk
from .errors import InstructMineError
from .estimator_terms import indicator_columns
from .pool_texts import TextKeys, has_text
from .provenance import get_provenance
from .selector_options import Options
from .set_level import SetRanking
from .source_counts import SourceCount, count_by_source


if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

    from .comparison import StrategyComparison
    from .estimator import LossEstimator
    from .evaluation.loss import EvaluationSet
    from .publishing.card import CardSection


LOG_LOSS = "predicted_log_loss"
_DEFAULTS = {"drop_duplicates": True, "columns": None, "max_leverage": None, "allow_mismatch": False}


@dataclass
class Selection:
    """A curated dataset and all that explains it. Made by [`Selector.select`].

    Attributes:
        dataset (`Dataset`): The selected rows, lowest predicted log loss first, with every column of the pool and
            `predicted_log_loss`.
        estimator ([`LossEstimator`]): The rule that chose.
        indices (`np.ndarray` of shape `(k,)`): The pool's row numbers of `dataset`, in its order.
        pool_log_loss (`np.ndarray` of shape `(n,)`): Predicted log loss of every row of the pool, in its order.
        request (`dict`): What [`Selector.select`] was asked for, such as `{"size": 2000}`. There is no seed: nothing
            is random.
        options (`dict`): The options of the [`Selector`], such as `{"max_similarity": 0.9}`; embeddings by their
            shape, evaluation sets by their names. `request` has them too.
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
        license (`str`, *optional*): For the card's metadata: that of the data, which cannot be known from it.
        source_datasets (`list[str]`): For the card's metadata: the Hub ids of the pool.
        sections (`list[CardSection]`): Further sections of the card.
    """

    dataset: Dataset
    estimator: "LossEstimator"
    indices: np.ndarray
    pool_log_loss: np.ndarray
    request: dict[str, Any]
    total: SourceCount
    sources: list[SourceCount] = field(default_factory=list)
    duplicates_checked: bool = True
    leverage: float | None = None
    skipped_far: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    contaminated: dict[str, int] = field(default_factory=dict)
    license: str | None = None
    source_datasets: list[str] = field(default_factory=list)
    sections: list["CardSection"] = field(default_factory=list)

    @property
    def num_pool(self) -> int:
        return self.total.pool

    @property
    def num_selected(self) -> int:
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

    @property
    def card(self) -> "DatasetCard":
        """The dataset card, built anew each time."""
        from .publishing.card import build_card

        return build_card(self)

    def summary(self) -> str:
        """A few lines for a person to read."""
        from .publishing.card import printable

        pool = self.pool_log_loss[np.isfinite(self.pool_log_loss)]
        asked = ", ".join(f"{name}={value}" for name, value in self.request.items())
        lines = [
            f"Selected {self.num_selected:,} of {self.num_pool:,} rows with {self.estimator.name} ({asked})",
            f"Predicted log loss: median {np.median(self.log_loss):.4f}, at most {self.log_loss[-1]:.4f}; "
            f"pool median {np.median(pool):.4f}",
            f"Passed over: {self.skipped_unscored:,} without a prediction, "
            + (f"{self.skipped_duplicates:,} exact duplicates, " if self.duplicates_checked else "")
            + f"{self.skipped_empty:,} without a response",
        ]
        if self.skipped:
            lines.append(f"Of the others, {self.describe_skipped()}")
        if self.contaminated:
            lines.append(f"Evaluation prompts found: {self.describe_contaminated()}")
        if self.leverage is not None:
            lines.append(self.describe_leverage())
        names = [printable(count.name) for count in self.sources]
        width = max(map(len, names), default=0)
        lines += [f"  {name:<{width}}  {c.selected:>9,} of {c.pool:,}" for name, c in zip(names, self.sources)]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()

    def describe_skipped(self) -> str:
        """How many rows each option passed over, such as "12 have a longer response (max_response_tokens=800)"."""
        return ", ".join(
            f"{count:,} {REASONS[name].format(self.options.get(name))}" for name, count in self.skipped.items()
        )

    def describe_contaminated(self) -> str:
        """In how many rows of the pool each evaluation set was found, such as "mmlu in 0 rows"."""
        from .publishing.card import printable

        return ", ".join(f"{printable(name)} in {count:,} rows" for name, count in self.contaminated.items())

    def describe_leverage(self) -> str:
        """One sentence on whether the rule was tested where the selection lies."""
        most = self.estimator.max_leverage
        place = "within" if self.leverage <= most else "beyond"
        left_out = f"; {self.skipped_far:,} rows far from the runs were left out" if self.skipped_far else ""
        return f"Leverage {self.leverage:.3g}, {place} the runs' largest of {most:.3g}{left_out}"

    def attach_evidence(self, comparison: "StrategyComparison") -> None:
        """Puts a comparison's tables, figure and verdict into the card; evidence attached before is replaced.

        Args:
            comparison ([`~comparison.StrategyComparison`]): Of this rule with a random choice, and with other
                strategies: from [`~comparison.compare_strategies`] or [`~comparison.load_comparison`].
        """
        section = comparison.section()
        self.sections = [*(other for other in self.sections if other.title != section.title), section]

    def save_to_disk(self, folder: str | Path, overwrite: bool = False) -> None:
        """Writes a folder that `load_dataset` and `LossEstimator.from_pretrained` open.

        It holds the rows as Parquet, the card (`README.md`) with its figure, the rule (`estimator.json`), and the
        configuration that made each indicator column (`indicators.json`). It is complete or it is not there.

        Args:
            folder (`str` or `Path`): Made where absent.
            overwrite (`bool`, *optional*, defaults to `False`): Whether files of an earlier selection are replaced.

        Raises:
            [`InstructMineError`]: Where the folder cannot be written, or holds files and `overwrite` is `False`.
        """
        from .publishing.folder import staged_folder

        with staged_folder(folder, overwrite) as stage:
            self._write(stage)

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Pushes the files of [`~Selection.save_to_disk`] to a dataset repository, as one commit.

        Args:
            repo_id (`str`): `"owner/name"`, or `"name"` for one's own. Created where absent.
            private (`bool`, *optional*, defaults to `False`): Whether a new repository is private.
            token (`str`, *optional*): Token with write access; by default the one logged in with.

        Returns:
            `str`: The repository's id, for `load_dataset`.

        Raises:
            [`InstructMineError`]: Without a token, before any work; where the Hub refuses or stays out of reach.
        """
        from .publishing.hub import create_repo, push_folder

        # First, for the card to name the repository in full, and for a refusal to come before the work.
        full_id = create_repo(repo_id, repo_type="dataset", private=private, token=token)
        with TemporaryDirectory() as folder:
            self._write(Path(folder), full_id)
            return push_folder(
                folder,
                full_id,
                repo_type="dataset",
                commit_message=f"Add {self.num_selected:,} rows chosen by hf-instructmine",
                private=private,
                token=token,
            )

    def _write(self, folder: Path, repo_id: str | None = None) -> None:
        from .publishing.card import FIGURE_FILE, PARQUET_FILE, build_card
        from .publishing.figures import plot_predicted_log_loss

        (folder / PARQUET_FILE).parent.mkdir()
        self.dataset.to_parquet(folder / PARQUET_FILE)
        # The rule alone: its own card would be in the way of ours.
        (folder / "estimator.json").write_text(self.estimator.to_json(), "utf-8")
        configurations = json.dumps(get_provenance(self.dataset), indent=2, sort_keys=True)
        (folder / "indicators.json").write_text(configurations + "\n", "utf-8")
        plot_predicted_log_loss(self.pool_log_loss, self.log_loss, folder / FIGURE_FILE)
        for section in self.sections:
            for name, png in section.figures.items():
                (folder / name).write_bytes(png)
        build_card(self, repo_id).save(folder / "README.md")


class Selector:
    """Keeps the rows of a scored pool for which a rule predicts the lowest log loss.

    Args:
        rule ([`LossEstimator`]): Predicts the log loss of each row from its indicator columns.
        embeddings (`np.ndarray` of shape `(n, d)`, *optional*): Of the pool's rows, as [`NeighborDistance.embed`]
            returns them; what `max_similarity` and `set_level` measure by. A row of NaN cannot be selected then.
        max_similarity (`float`, *optional*): On the way down the ranking, pass over a row whose cosine similarity to
            an already selected one is above this, as DEITA does (arXiv 2312.15685): rows alike have predictions
            alike, so the best of a pool are often variants of each other.
        quotas (`dict[str, tuple[float, float]]`, *optional*): Least and greatest share of the budget, in its own
            unit, of sources (column `source`), from 0 to 1 or None: a rule may like one source alone, and what a
            model is to be able to do is known beforehand. The least shares are filled first, each from the best rows
            of its source.
        max_response_tokens (`int`, *optional*): Longest response (column `output_length`): what is cut off in
            training is not learnt from.
        length_bins (`int`, *optional*): Cut the rows into this many bins of equal count by response length, and give
            each the share of the budget that it has of the pool. A response's length confounds what models say of it,
            its NLL above all; within a bin they are compared among their like.
        eval_sets (`dict[str, Dataset | EvaluationSet]`, *optional*): Leave out the rows whose prompt holds one of
            these sets', by 8-grams; see [`find_contaminated`]. A loss measured on what was trained on means nothing.
        set_level (`bool`, *optional*, defaults to `False`): Choose one row after another, each by its distance to
            those chosen so far in place of its distance in the pool (the rule's `knn_<i>`): the rule was fitted on
            distances inside subsets. Takes time in proportion to the rows chosen times those of the pool.

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
        rule: "LossEstimator",
        *,
        embeddings: np.ndarray | None = None,
        max_similarity: float | None = None,
        quotas: Mapping[str, tuple[float | None, float | None]] | None = None,
        max_response_tokens: int | None = None,
        length_bins: int | None = None,
        eval_sets: "Mapping[str, Dataset | EvaluationSet] | None" = None,
        set_level: bool = False,
    ):
        self.rule = rule
        self.options = Options(
            embeddings, max_similarity, quotas, max_response_tokens, length_bins, eval_sets, set_level
        )
        self.options.check(rule)

    def select(
        self,
        dataset: Dataset,
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

        Exactly one of `size`, `fraction`, `max_log_loss` and `tokens` says how much. Rows without a finite prediction
        are never selected.

        Args:
            dataset (`Dataset`): A pool with the rule's indicator columns.
            size (`int`, *optional*): How many rows.
            fraction (`float`, *optional*): Which share of the pool's rows, above 0 and at most 1.
            max_log_loss (`float`, *optional*): All rows predicted at most this, in nats (log loss).
            tokens (`int`, *optional*): At most this many response tokens, by the column `output_length`, and short of
                it by less than the shortest row left out. The number of rows is free then, so rows compete by what
                they do to the set's mean prediction per token; see [`compete`]. Rows of no tokens are not selected.
            drop_duplicates (`bool`, *optional*, defaults to `True`): Pass over rows whose prompt and response are
                exactly those of an already selected row, and rows without a response. With `False`, no text is read.
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
                cannot fill what was asked for.
        """
        budget = Budget.of(size=size, fraction=fraction, max_log_loss=max_log_loss, tokens=tokens)
        if not isinstance(dataset, Dataset):
            raise InstructMineError(
                f"select needs a Dataset, not a {type(dataset).__name__}: pass one split, such as dataset['train']"
            )
        if len(dataset) == 0:
            raise InstructMineError("the dataset is empty: there is no row to select")
        if LOG_LOSS in dataset.column_names:
            raise InstructMineError(
                f"the column '{LOG_LOSS}' exists already, from an earlier selection perhaps: remove it with "
                f"dataset.remove_columns('{LOG_LOSS}'), or rename it"
            )
        budget.check_pool(dataset)
        self.options.check_pool(dataset, budget)
        compare = drop_duplicates and has_text(dataset, columns)

        log_loss = np.asarray(self.rule.predict(dataset, allow_mismatch=allow_mismatch), dtype=np.float64)
        costs = budget.costs(dataset)
        unscored = np.flatnonzero(~(np.isfinite(log_loss) & np.isfinite(costs)))
        ranking = budget.rank(log_loss, costs)
        overlaps = None
        if self.options.eval_sets:
            from .decontamination import find_contaminated

            overlaps = find_contaminated(dataset, self.options.eval_sets, columns)
        ranking, excluded = self.options.exclude(dataset, ranking, costs, budget, overlaps)
        keys = TextKeys(dataset, columns) if compare else None
        terms = self.options.terms(
            dataset, budget, costs, ranking, keys=keys, unscored=len(unscored), excluded=excluded
        )

        def take(rows: np.ndarray) -> Walk:
            def walk_at(level: float | None) -> Walk:
                return terms.walk(self._rank(dataset, rows, log_loss, terms, level))

            return compete(walk_at) if budget.kind == "tokens" else walk_at(None)

        far = 0
        if max_leverage is None:
            walk = take(ranking)
        else:
            walk, far = self._stay_inside(dataset, ranking, take, max_leverage, allow_mismatch)
        # Whatever the order in which they were taken.
        indices = np.sort(np.asarray(walk.taken, dtype=np.int64))
        indices = indices[np.argsort(log_loss[indices], kind="stable")]
        total, sources = count_by_source(dataset, walk, unscored)
        given = {
            "drop_duplicates": drop_duplicates,
            "columns": columns,
            "max_leverage": max_leverage,
            "allow_mismatch": allow_mismatch,
        }
        changed = {name: value for name, value in given.items() if value != _DEFAULTS[name]}
        leverage = None
        if self.rule.max_leverage is not None:
            leverage = self._leverage(dataset, walk, allow_mismatch)
            if leverage > self.rule.max_leverage and max_leverage is None:
                warnings.warn(
                    f"the selection's leverage {leverage:.3g} is above the runs' largest, "
                    f"{self.rule.max_leverage:.3g}: the rule extrapolates; max_leverage=rule.max_leverage mends it",
                    stacklevel=2,
                )
        return Selection(
            dataset=dataset.with_format(None).add_column(LOG_LOSS, log_loss).select(indices),
            estimator=self.rule,
            indices=indices,
            pool_log_loss=log_loss,
            request={budget.kind: budget.amount, **self.options.given, **changed},
            total=total,
            sources=sources,
            duplicates_checked=compare,
            leverage=leverage,
            skipped_far=far,
            options=self.options.given,
            skipped={name: len(rows) for name, rows in walk.passed.items() if name not in ("duplicates", "empty")},
            contaminated=overlaps.counts if overlaps is not None else {},
        )

    def _rank(
        self, dataset: Dataset, rows: np.ndarray, log_loss: np.ndarray, terms: Terms, level: float | None
    ) -> Ranking:
        """The order in which rows, given from the lowest prediction upwards, compete at a level; see [`compete`]."""
        if self.options.set_level:
            columns = indicator_columns(dataset, self.rule.indicators)
            return SetRanking(self.rule, columns, self.options.unit_embeddings, rows, log_loss, terms.costs, level)
        order = np.argsort(price(log_loss[rows], terms.costs[rows], level), kind="stable")
        return FixedRanking(rows[order], log_loss)

    def _leverage(self, dataset: Dataset, walk: Walk, allow_mismatch: bool) -> float:
        """Of the rows taken, by their distances inside the set where they were chosen by these."""
        if not walk.distances:
            return self.rule.leverage(dataset, walk.taken, allow_mismatch)
        columns = indicator_columns(dataset, self.rule.indicators)
        inside = {name: column[walk.taken] for name, column in columns.items()} | walk.distances
        return self.rule.leverage(inside, allow_mismatch=True)  # which has been checked

    def _stay_inside(
        self,
        dataset: Dataset,
        ranking: np.ndarray,
        take: Callable[[np.ndarray], Walk],
        max_leverage: float,
        allow_mismatch: bool,
    ) -> tuple[Walk, int]:
        """Takes from as many of the rows nearest to the runs as the bound allows, found by bisection."""
        distance = self.rule.row_leverages(dataset, allow_mismatch)[ranking]
        order = np.argsort(distance, kind="stable")
        too_few, too_many = 0, len(ranking) + 1
        best: tuple[Walk, int] | None = None
        nearest, lowest, kept = ranking, np.inf, len(ranking)
        while too_many - too_few > 1:
            try:
                walk = take(nearest)
            except InstructMineError:  # too few rows are left to fill the budget
                if kept == len(ranking):
                    raise
                too_few = kept
            else:
                leverage = self._leverage(dataset, walk, allow_mismatch)
                lowest = min(lowest, leverage)
                if leverage <= max_leverage:
                    best, too_few = (walk, len(ranking) - kept), kept
                else:
                    too_many = kept
            kept = (too_few + too_many) // 2
            nearest = ranking[np.sort(order[:kept])]
        if best is None:
            raise InstructMineError(
                f"no selection of this amount has a leverage of at most max_leverage={max_leverage:.3g}; the lowest "
                f"found is {lowest:.3g}: ask for more rows, raise the bound, or fit on runs that reach further"
            )
        return best
