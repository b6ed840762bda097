"""The rule of InstructMining: the log loss of a finetuned model, predicted from a dataset's indicators.

`log L = β0 + Σ βk·Ik + ε`, where I_k is the mean of indicator k over the finetuning set (arXiv 2307.06290). The rule
is fitted on sets and applied to single examples; the examples of lowest predicted loss are kept.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..data.containers import as_table
from ..errors import InstructMineError, nearest
from ..outputs.folder import refuse_foreign, staged_folder
from ..outputs.markdown import printable
from ..outputs.publishing import Content, Pushed, publish
from ..outputs.shown import Cells, Drawing
from ..regression.fit import FitOptions, fit_rule
from ..regression.runs import read_runs
from ..regression.terms import Term
from . import file as estimator_file
from .figures import drawings
from .rule import Rule
from .summary import in_words, not_fitted_here, summarize, tables


PUBLISHED = ("instructmining-v1", "instructmining-v2")


class LossEstimator(Rule):
    """A linear rule that predicts the log loss of a finetuned model from mean indicators.

    Build one with [`~LossEstimator.fit`], [`~LossEstimator.from_published`], [`~LossEstimator.from_pretrained`] or
    [`~LossEstimator.from_coefficients`]. A name alone at the end of a cell of a notebook shows tables and a figure.

    Attributes:
        name (`str`): What the rule is called.
        origin (`str`): One sentence on where the rule comes from.
        target (`str`): The column whose (log) loss is predicted, in nats.
        log_target (`bool`): Whether log loss is predicted, rather than loss.
        coefficients (`dict[str, float]`): By term, the intercept first.
        indicators (`list[str]`): The columns that a prediction needs.
        provenance (`dict[str, dict]`): The configuration behind each indicator column the rule expects.
        diagnostics ([`Diagnostics`], *optional*): How far a fitted rule can be trusted; None for one not fitted here.
        figures (`dict[str, str]`): What there is to `plot`, and what it shows.

    The others are those of [`~estimator.rule.Rule`].
    """

    @classmethod
    def fit(
        cls,
        runs: Any,
        target: str | Sequence[str] = "loss_self_instruct",
        indicators: Sequence[str] | None = None,
        select: str = "cv",
        seed: int = 0,
        *,
        model: str = "ols",
        log_target: bool = True,
        logged: Sequence[str] = (),
        squared: Sequence[str] = (),
        covariates: Sequence[str] = (),
        standardize: bool = False,
        weights: str | None = None,
        group: str | None = None,
        max_vif: float | None = None,
        without_sources: Sequence[str] = (),
        permutations: int | None = None,
        bootstraps: int | None = None,
        name: str | None = None,
    ) -> "LossEstimator":
        """Fits a rule to a table of runs, and measures what it is worth.

        Args:
            runs (`Dataset`, or what else [`as_dataset`] takes): One row per finetune, with mean indicators under the
                indicators' names and `loss_…` columns. `mixture_id` and `replicate_of` tell replicates,
                `status` failed runs (left out and counted), `proportions` the sources.
            target (`str` or `list[str]`, *optional*, defaults to `"loss_self_instruct"`): The evaluation loss. Several
                give a joint rule: the common slopes, with an effect per set (least squares on the sets' mean log loss,
                which is the same where every run has every set).
            indicators (`list[str]`, *optional*): The candidates, up to 40 to choose among; by default every indicator
                column present.
            select (`str`, *optional*, defaults to `"cv"`): How to choose among all their subsets: `"cv"` (10-fold,
                whole mixtures), `"bic"`, `"aic"`, `"aicc"`, `"none"`, or `"p-value"`, which reproduces the paper's way
                and is kept for that alone. Of more than 4,096 subsets (13 candidates) a stepwise search finds the best
                of each size, and the criterion chooses the size.
            seed (`int`, *optional*, defaults to 0): Of folds, permutations and bootstrap.
            model (`str`, *optional*, defaults to `"ols"`): `"ols"`, or `"ridge"`, `"elastic-net"`, `"pls"`, which keep
                every candidate, or `"automl"`, FLAML's non-linear regressors, for comparison.
            log_target (`bool`, *optional*, defaults to `True`): Fit log loss, as the paper; else loss.
            logged (`list[str]`, *optional*): Columns that enter by their logarithm (perplexity, lengths).
            squared (`list[str]`, *optional*): Indicators that may have a quadratic term besides their linear one.
            covariates (`list[str]`, *optional*): Columns to adjust for in every rule (`subset_size`, `steps`).
            standardize (`bool`, *optional*, defaults to `False`): Give coefficients per standard deviation.
            weights (`str`, *optional*): Column of row weights, inverse to the runs' variances.
            group (`str`, *optional*): Column whose values each have their own level, needed where base models or
                recipes are mixed.
            max_vif (`float`, *optional*): Consider only subsets whose variance inflation factors stay below it.
            without_sources (`list[str]`, *optional*): Use only the runs that contain none of these sources.
            permutations (`int`, *optional*): For the p-value of the nested R²; by default 1,000, and 0 for other
                models than least squares, which are slow to tune. With 0 leaving a source out is not compared with
                random splits either.
            bootstraps (`int`, *optional*): Resamples for the stability of signs and choice; by default
                2,000, and 500 for other models than least squares.
            name (`str`, *optional*): What to call the rule.

        Raises:
            [`InstructMineError`]: Where the runs cannot carry a rule; the message says why and what to do.

        Example:

        ```python
        >>> rule = LossEstimator.fit(runs, target="loss_self_instruct", logged=["perplexity"])
        >>> print(rule.summary())
        ```
        """
        options = FitOptions(
            targets=[target] if isinstance(target, str) else list(target),
            select=select,
            seed=seed,
            model=model,
            log_target=log_target,
            logged=list(logged),
            squared=list(squared),
            covariates=list(covariates),
            standardize=standardize,
            weights=weights,
            group=group,
            max_vif=max_vif,
            without_sources=list(without_sources),
            permutations=permutations,
            bootstraps=bootstraps,
        )
        table = read_runs(
            as_table(runs, "runs"), options.targets, indicators, covariates, weights, group, without_sources
        )
        found = fit_rule(table, options)
        setting = f" of {', '.join(table.facts['base_model'])}" if "base_model" in table.facts else ""
        chosen = f"regressors chosen by {options.select}" if options.select != "none" else "all regressors kept"
        known = {term.column for term in found.terms}
        return cls(
            name=name or f"{model}-{'-'.join(options.targets)}",
            origin=f"Fitted on {len(table)} finetunes{setting} ({', '.join(options.targets)}; {model}, {chosen}).",
            target=" + ".join(options.targets),
            log_target=log_target,
            model=model,
            provenance={column: made for column, made in table.provenance.items() if column in known},
            **vars(found),
        )

    @classmethod
    def from_published(cls, name: str) -> "LossEstimator":
        """Returns a rule published with the paper.

        `"instructmining-v1"` reads the paper's single `Len` as `output_length` and `KNN_6` as `knn_6`.

        Args:
            name (`str`): `"instructmining-v1"` or `"instructmining-v2"`.

        Raises:
            [`InstructMineError`]: For another name.
        """
        if name not in PUBLISHED:
            raise InstructMineError(f"no published rule '{name}': {nearest(name, PUBLISHED)}")
        text = resources.files(__package__).joinpath("published", f"{name}.json").read_text("utf-8")
        return cls(**estimator_file.read(text, f"the rule '{name}'"))

    @classmethod
    def from_coefficients(
        cls,
        coefficients: Mapping[str, float],
        *,
        name: str = "hand-set",
        origin: str = "Coefficients set by hand, fitted on nothing.",
        target: str = "loss",
        provenance: dict[str, dict[str, Any]] | None = None,
    ) -> "LossEstimator":
        """Builds a rule by hand.

        Args:
            coefficients (`Mapping[str, float]`): By term: a column (`"mtld"`), its natural logarithm
                (`"log(perplexity)"`), a square (`"mtld^2"`), and `"intercept"` (0 where absent).
            name (`str`, *optional*, defaults to `"hand-set"`): What the rule is called.
            origin (`str`, *optional*): One sentence on where the coefficients come from.
            target (`str`, *optional*, defaults to `"loss"`): The loss whose logarithm is predicted.
            provenance (`dict[str, dict]`, *optional*): The configuration behind each indicator column.

        Example:

        ```python
        >>> rule = LossEstimator.from_coefficients({"intercept": 1.0, "log(perplexity)": 0.1, "mtld": -0.002})
        >>> rule.indicators
        ['perplexity', 'mtld']
        ```
        """
        terms = [Term.parse(term) for term in coefficients if term != "intercept"]
        for term, value in coefficients.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
                raise InstructMineError(f"the coefficient of '{term}' is {value!r}: it has to be a finite number")
        if not terms:
            raise InstructMineError("a rule needs at least one term besides the intercept")
        return cls(
            name=name,
            origin=origin,
            terms=terms,
            weights=[float(value) for term, value in coefficients.items() if term != "intercept"],
            intercept=float(coefficients.get("intercept", 0.0)),
            target=target,
            provenance=dict(provenance or {}),
        )

    def summary(self) -> str:
        """Returns the diagnostics as text: tables, tests, and a last paragraph in plain words."""
        return summarize(self)

    def __str__(self) -> str:
        return self.summary()

    def _says(self) -> list[str]:
        if self.diagnostics is None:
            return [self.origin, not_fitted_here(self)]
        return [self.origin, in_words(self)]

    def _tables(self) -> list[Cells]:
        return tables(self)

    def _drawings(self) -> dict[str, Drawing]:
        return drawings(self)

    def to_json(self) -> str:
        """Returns the content of `estimator.json`, which [`~LossEstimator.from_pretrained`] reads."""
        return estimator_file.dumps(estimator_file.content_of(self))

    def save_pretrained(
        self, save_directory: str | Path, license: str | None = None, datasets: Sequence[str] = ()
    ) -> None:
        """Writes `estimator.json` and a model card with figures to a folder, which is made where absent.

        Args:
            save_directory (`str` or `Path`): The folder.
            license (`str`, *optional*): For the card: of the rule, as the Hub writes it (`"apache-2.0"`).
            datasets (`Sequence[str]`): For the card: ids on the Hub of what was finetuned on.

        Raises:
            [`InstructMineError`]: Where the folder cannot be written or holds a README of something else, or for an
                AutoML rule.
        """
        check = partial(refuse_foreign, save_directory, estimator_file.FILE_NAME, "rule")
        check()
        with staged_folder(save_directory, overwrite=True, check=check) as stage:
            self._write(stage, None, license, datasets)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool = False,
        token: str | None = None,
        *,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
        overwrite: bool = False,
    ) -> Pushed:
        """Pushes the files of [`~LossEstimator.save_pretrained`] to a model repository, as one commit.

        Args:
            repo_id (`str`): `"owner/name"`, or `"name"` for one's own. Created where absent.
            private (`bool`, *optional*, defaults to `False`): Whether a new repository is private.
            token (`str`, *optional*): Token with write access; by default the one logged in with.
            revision (`str`, *optional*): Branch to commit to, which has to exist; by default `main`.
            create_pr (`bool`, *optional*, defaults to `False`): Whether to open a pull request in place of a commit.
            commit_message (`str`, *optional*): The first line of the commit.
            overwrite (`bool`, *optional*, defaults to `False`): Whether a card in the repository is replaced where
                ours cannot be merged into it.

        Returns:
            [`~outputs.publishing.Pushed`]: The repository's id, for [`~LossEstimator.from_pretrained`]; it knows
            whether anything `changed`, and the address of a `pull_request`.

        Raises:
            [`InstructMineError`]: Without a token, before any work; for an AutoML rule; where the Hub refuses or stays
                out of reach. It says the mend, whether anything was pushed, and whether a repository was made for it.
        """
        content = Content("model", f"Add the rule {printable(self.name)}", self._write)
        return publish(
            content,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
            overwrite=overwrite,
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        repo_type: str = "model",
    ) -> "LossEstimator":
        """Reads a rule from a folder or the Hub; its predictions are bit-identical to those of the saved rule.

        Args:
            source (`str` or `Path`): A folder with `estimator.json`, or a repository id such as `"me/my-rule"`.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            token (`str`, *optional*): Token of the Hub; by default the one logged in with.
            repo_type (`str`, *optional*, defaults to `"model"`): `"dataset"` for the rule kept with a curated dataset.

        Raises:
            [`InstructMineError`]: Where there is no rule, or its file is damaged, incomplete or of a newer schema.
        """
        path = estimator_file.find(source, revision, token, repo_type)
        return cls(**estimator_file.read_file(path))

    def _write(
        self, folder: Path, repo_id: str | None = None, license: str | None = None, datasets: Sequence[str] = ()
    ) -> None:
        from .card import write_card

        (folder / estimator_file.FILE_NAME).write_text(self.to_json(), "utf-8")
        write_card(self, folder, repo_id, license, datasets)
