"""What a selector gives: the curated dataset, what explains it, and the folder or repository that holds both."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..data.provenance import get_provenance
from ..estimator import file as estimator_file
from ..outputs.folder import staged_folder
from ..outputs.markdown import PARQUET_FILE, count
from .card import FIGURE_FILE, build_card
from .figures import plot_predicted_log_loss
from .record import SelectionRecord


if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

    from ..outputs.markdown import Evidence


class Selection(SelectionRecord):
    """A curated dataset and all that explains it: a [`SelectionRecord`] with its card, on disk and on the Hub.

    Made by [`~selection.Selector.select`].
    """

    @property
    def card(self) -> "DatasetCard":
        """The dataset card, built anew each time."""
        return build_card(self)

    def __str__(self) -> str:
        return self.summary()

    def attach_evidence(self, evidence: "Evidence") -> None:
        """Puts a comparison's tables, figure and verdict into the card; evidence attached before is replaced.

        Args:
            evidence ([`StrategyComparison`]): Of this rule with a random choice, and with other
                strategies: from [`~comparison.compare_strategies`] or [`~comparison.load_comparison`].
        """
        section = evidence.section()
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
        from ..outputs.hub import create_repo, push_folder

        # First, for the card to name the repository in full, and for a refusal to come before the work.
        full_id = create_repo(repo_id, repo_type="dataset", private=private, token=token)
        with TemporaryDirectory() as folder:
            self._write(Path(folder), full_id)
            return push_folder(
                folder,
                full_id,
                repo_type="dataset",
                commit_message=f"Add {count(self.num_selected, 'row')} chosen by hf-instructmine",
                private=private,
                token=token,
            )

    def _write(self, folder: Path, repo_id: str | None = None) -> None:
        (folder / PARQUET_FILE).parent.mkdir()
        self.dataset.to_parquet(folder / PARQUET_FILE)
        # The rule alone: its own card would be in the way of ours.
        (folder / estimator_file.FILE_NAME).write_text(
            estimator_file.dumps(estimator_file.content_of(self.estimator)), "utf-8"
        )
        configurations = json.dumps(get_provenance(self.dataset), indent=2, sort_keys=True)
        (folder / "indicators.json").write_text(configurations + "\n", "utf-8")
        plot_predicted_log_loss(self.pool_log_loss, self.log_loss, folder / FIGURE_FILE)
        for section in self.sections:
            for name, png in section.figures.items():
                (folder / name).write_bytes(png)
        build_card(self, repo_id).save(folder / "README.md")
