"""What a selector gives: the curated dataset, what explains it, and the folder or repository that holds both."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from .constraints import REASONS
from .provenance import get_provenance
from .source_counts import SourceCount


if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

    from .comparison import StrategyComparison
    from .estimator import LossEstimator
    from .publishing.card import CardSection


@dataclass
class Selection:
    """A curated dataset and all that explains it. Made by [`~selection.Selector.select`].

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
