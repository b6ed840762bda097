"""What a selector gives: the curated dataset, what explains it, and the folder or repository that holds both."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.provenance import get_provenance
from ..errors import InstructMineError
from ..estimator import file as estimator_file
from ..outputs.folder import resolved, staged_folder
from ..outputs.markdown import count, printable
from ..outputs.publishing import Content, Pushed, publish
from ..outputs.shards import MAX_SHARD_SIZE
from .card import FIGURE_FILE, FIGURE_WITHOUT_RULE, build_card, figure_file
from .origin import check_stated, read_origin
from .preference import RANDOM
from .record import SelectionRecord
from .saved import RECORD_FILE, read, write


if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

    from ..outputs.markdown import Evidence


# What a selection by a rule has and one by a strategy has not, or the other way round.
KINDS_OF_FILES = {estimator_file.FILE_NAME, FIGURE_FILE, FIGURE_WITHOUT_RULE}


class Selection(SelectionRecord):
    """A curated dataset and all that explains it: a [`SelectionRecord`] with its card, on disk and on the Hub.

    Made by [`~selection.Selector.select`], or opened again by [`~Selection.load`]. A name alone at the end of a cell
    of a notebook shows tables and a figure.

    Attributes:
        dataset (`Dataset`): The selected rows, lowest predicted log loss first, with `predicted_log_loss`.
        estimator ([`Rule`]): The rule that chose.
        indices (`np.ndarray` of shape `(k,)`): The pool's row numbers of `dataset`, in its order.
        log_loss (`np.ndarray` of shape `(k,)`): Predicted log loss of the selected rows, ascending.
        pool_log_loss (`np.ndarray` of shape `(n,)`): Predicted log loss of every row of the pool.
        request (`dict`): All that was asked for, the selector's options included.
        num_selected (`int`): Rows selected.
        num_pool (`int`): Rows of the pool.
        sources (`list[SourceCount]`): What became of the rows of each source.
        sections (`list[CardSection]`): Evidence that is in the card.

    The others are those of [`SelectionRecord`].

    Example:

    ```python
    selection = him.Selector(rule).select(scored, size=2000)
    selection.save_to_disk("curated")
    ```
    """

    @classmethod
    def load(cls, folder: str | Path) -> "Selection":
        """Opens a selection that [`~Selection.save_to_disk`] wrote, to attach evidence or to push it.

        Saved again it gives the same bytes, by the same releases of the libraries.

        Args:
            folder (`str` or `Path`): On this machine.

        Raises:
            [`InstructMineError`]: Where the folder holds no selection, a damaged one, or one of an earlier version,
                which kept too little to reopen it.
        """
        return cls(**read(folder))

    @property
    def card(self) -> "DatasetCard":
        """The dataset card, built anew each time."""
        return build_card(self)

    def describe(
        self,
        *,
        license: str | None = None,
        language: Sequence[str] | None = None,
        source_license: Mapping[str, str] | Sequence[str] | None = None,
        pretty_name: str | None = None,
        inputs: Sequence[str] = (),
    ) -> None:
        """Says what the rows cannot: licence, languages and a name, for the card and its metadata.

        What is not said is taken from the cards of the inputs. Where their licences differ, or some have none, a
        warning and the card say so, and no licence is stated.

        Args:
            license (`str`, *optional*): Of the whole, as the Hub writes it: `"apache-2.0"`.
            language (`Sequence[str]`, *optional*): Codes of languages, such as `["en"]`.
            source_license (`Mapping[str, str]` or `Sequence[str]`, *optional*): By source (column `source`), or as
                texts `SOURCE=LICENSE`.
            pretty_name (`str`, *optional*): What the data set is called.
            inputs (`Sequence[str]`): What the pool was read from, as [`load_pool`] takes it: a folder's `README.md`
                and the card of a dataset on the Hub are read.

        Raises:
            [`InstructMineError`]: Where a licence or a language is written otherwise than on the Hub, or a source is
                not in the pool.
        """
        license, languages, given = check_stated(license, language, source_license)
        named = {source.name for source in self.sources}
        if absent := sorted(set(given) - named):
            raise InstructMineError(f"the pool has no source '{printable(absent[0])}' to have a licence")
        origin = read_origin(inputs)
        self.languages = languages or origin.languages
        self.source_datasets = self.source_datasets or origin.source_datasets
        of_inputs = {name: found for name, found in origin.licenses.items() if found and name in named}
        self.source_licenses = {**of_inputs, **given}
        self.pretty_name = pretty_name
        self.license = license or origin.license
        notes = [] if license is not None else [origin.conflict, self._conflict()]
        self.notes = [note for note in notes if note]
        for note in self.notes:
            warnings.warn(note, stacklevel=2)

    def _conflict(self) -> str | None:
        """What is to be said where the sources that rows were taken from have several licences, or some have none."""
        if not self.source_licenses:
            return None
        found = {self.source_licenses.get(source.name) for source in self.sources if source.selected}
        if len(found) == 1:
            self.license = self.license or found.pop()
            return None
        self.license = None
        some = ", ".join(sorted(one or "not known" for one in found))
        return f"the rows are from sources of several licences ({some}): none holds for the whole"

    def attach_evidence(self, evidence: "Evidence") -> None:
        """Puts a comparison's tables, figure and verdict into the card; evidence attached before is replaced.

        Where the comparison does not record which rules it is of, as those of earlier versions, a warning and the card
        say so.

        Args:
            evidence ([`StrategyComparison`]): Of this rule with a random choice, and with other
                strategies: from [`~comparison.compare_strategies`] or [`~comparison.load_comparison`]. An
                [`Evaluation`] of models joins it, with a warning: on what these were trained is not recorded.

        Raises:
            [`InstructMineError`]: Where no strategy of the comparison is this rule or strategy.
        """
        kind, name = "rule" if self.strategy is None else "strategy", printable(self.chooser)
        if self.chosen_by == RANDOM:
            raise InstructMineError("these rows are a random choice: a comparison is with such a one, and not of it")
        found = evidence.strategies_of(self.chosen_by)
        if found == []:
            raise InstructMineError(
                f"no strategy of the comparison is the {kind} '{name}' of this selection: compare that {kind}, or "
                f"attach the evidence to a selection by a {kind} that was compared"
            )
        section = evidence.section(found or ())
        if found is None:
            unchecked = f"It cannot be checked that the comparison is of this {kind}: it does not record its {kind}s."
            warnings.warn(f"the {kind} '{name}': {unchecked}", stacklevel=2)
            section.verdict.append(unchecked)
            section.markdown = f"{unchecked}\n\n{section.markdown}"
        self.sections = [*(other for other in self.sections if other.title != section.title), section]

    def save_to_disk(self, folder: str | Path, overwrite: bool = False) -> None:
        """Writes a folder that `load_dataset` and `LossEstimator.from_pretrained` open.

        It holds the rows as Parquet, the card (`README.md`) with its figure, the rule (`estimator.json`), the
        configuration that made each indicator column (`indicators.json`), and what [`~Selection.load`] needs besides
        (`selection.json`, `predictions.parquet`). It is complete or it is not there.

        Args:
            folder (`str` or `Path`): Made where absent.
            overwrite (`bool`, *optional*, defaults to `False`): Whether files of an earlier selection are replaced.

        Raises:
            [`InstructMineError`]: Where the folder cannot be written, or holds files and `overwrite` is `False`.
        """
        earlier = resolved(folder) / RECORD_FILE
        of_earlier = KINDS_OF_FILES if earlier.is_file() else set()
        with staged_folder(folder, overwrite) as stage:
            self._write(stage)
            stale = of_earlier - {path.name for path in stage.iterdir()}
        for name in stale:  # a rule's beside rows of a strategy would be taken for theirs
            (resolved(folder) / name).unlink(missing_ok=True)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool = False,
        token: str | None = None,
        *,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
        max_shard_size: int | str = MAX_SHARD_SIZE,
        overwrite: bool = False,
    ) -> Pushed:
        """Pushes the files of [`~Selection.save_to_disk`] to a dataset repository, as one commit.

        A card that is there is kept but for our part of it: see `docs/hub.md`.

        Args:
            repo_id (`str`): `"owner/name"`, or `"name"` for one's own. Created where absent.
            private (`bool`, *optional*, defaults to `False`): Whether a new repository is private.
            token (`str`, *optional*): Token with write access; by default the one logged in with.
            revision (`str`, *optional*): Branch to commit to, which has to exist; by default `main`.
            create_pr (`bool`, *optional*, defaults to `False`): Whether to open a pull request in place of a commit.
            commit_message (`str`, *optional*): The first line of the commit.
            max_shard_size (`int` or `str`, *optional*, defaults to `"500MB"`): Bytes of Arrow in a Parquet file.
                Shards are written and uploaded one after another: no more than one lies on the disk.
            overwrite (`bool`, *optional*, defaults to `False`): Whether a card in the repository is replaced where
                ours cannot be merged into it.

        Returns:
            [`~outputs.publishing.Pushed`]: The repository's id, for `load_dataset`; it knows whether anything
            `changed`, and the address of a `pull_request`.

        Raises:
            [`InstructMineError`]: Without a token, before any work; where the Hub refuses or stays out of reach. It
                says the mend, whether anything was pushed, and whether a repository was made for it.
        """
        content = Content(
            repo_type="dataset",
            message=f"Add {count(self.num_selected, 'row')} chosen by hf-instructmine",
            write=self._write,
            rows=self.dataset,
        )
        return publish(
            content,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
            max_shard_size=max_shard_size,
            overwrite=overwrite,
        )

    def _write(self, folder: Path, repo_id: str | None = None) -> None:
        """All files; for a repository all but the rows, which go there in shards."""
        write(self, folder, rows=repo_id is None)
        configurations = json.dumps(get_provenance(self.dataset), indent=2, sort_keys=True)
        (folder / "indicators.json").write_text(configurations + "\n", "utf-8")
        self._draw(folder)
        build_card(self, repo_id).save(folder / "README.md")

    def _draw(self, folder: Path) -> None:
        """The figure of what decided; none where rows were drawn."""
        name = figure_file(self)
        if name is None:
            return
        self.plot(folder / name)
