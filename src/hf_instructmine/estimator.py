"""The rule of InstructMining: the log loss of a finetuned model, predicted from a dataset's indicators.

`log L = β0 + Σ βk·Ik + ε`, where I_k is the mean of indicator k over the finetuning set (arXiv 2307.06290). The rule
is fitted on sets and applied to single examples; the examples of lowest predicted loss are kept.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from . import estimator_file
from .diagnostics import Diagnostics
from .errors import InstructMineError
from .estimator_comparison import compare
from .estimator_fit import Fit, check_options, fit_rule
from .estimator_prediction import (
    SubsetPrediction,
    contributions_of,
    leverage_of,
    leverages_of_rows,
    predict_set,
    regressors_of_set,
    set_means,
)
from .estimator_runs import read_runs
from .estimator_summary import summarize
from .estimator_terms import Term, check_made_alike, design, indicator_columns, row_count


__all__ = ["LossEstimator", "compare"]

PERMUTATIONS = {"ols": 1000}
BOOTSTRAPS = {"ols": 2000, "automl": 0}
PUBLISHED = ("instructmining-v1", "instructmining-v2")


@dataclass
class LossEstimator:
    """A linear rule that predicts the log loss of a finetuned model from mean indicators.

    Build one with [`~LossEstimator.fit`], [`~LossEstimator.from_published`], [`~LossEstimator.from_pretrained`] or
    [`~LossEstimator.from_coefficients`].

    Args:
        name (`str`): What the rule is called.
        origin (`str`): One sentence on where the rule comes from.
        terms (`list[Term]`): The regressors made of indicator columns.
        weights (`list[float]`): One coefficient per term.
        intercept (`float`): The constant.
        target (`str`, *optional*, defaults to `"loss"`): The column whose (log) loss is predicted.
        log_target (`bool`, *optional*, defaults to `True`): Whether log loss is predicted, rather than loss. In nats.
        model (`str`, *optional*, defaults to `"ols"`): How the coefficients were found.
        provenance (`dict[str, dict]`, *optional*): The configuration behind each indicator column the rule expects.
        covariates (`list[Term]`, *optional*), covariate_weights (`list[float]`, *optional*): What the fit adjusted for
            (subset size, steps, group effects); a prediction holds them at their mean over the runs.
        fitted ([`Fit`], *optional*): What intervals and leverage need; `None` for a rule that was not fitted here.
        diagnostics ([`Diagnostics`], *optional*): How far a fitted rule can be trusted.
        regressor (*optional*): FLAML's regressor, for `model="automl"`.
    """

    name: str
    origin: str
    terms: list[Term]
    weights: list[float]
    intercept: float
    target: str = "loss"
    log_target: bool = True
    model: str = "ols"
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    covariates: list[Term] = field(default_factory=list)
    covariate_weights: list[float] = field(default_factory=list)
    fitted: Fit | None = None
    diagnostics: Diagnostics | None = None
    regressor: Any = field(default=None, compare=False, repr=False)

    @property
    def indicators(self) -> list[str]:
        """The columns that [`~LossEstimator.predict`] needs, in order."""
        return list(dict.fromkeys(term.column for term in self.terms))

    @property
    def coefficients(self) -> dict[str, float]:
        """The coefficient of each term, such as `{"intercept": 1.07, "reward": -0.15, "log(perplexity)": 0.02}`."""
        return {"intercept": self.intercept, **{term.name: w for term, w in zip(self.terms, self.weights)}}

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
            runs (`Dataset`, `pandas.DataFrame` or mapping of sequences): One row per finetune, with mean indicators
                under the indicators' names and `loss_…` columns. `mixture_id` and `replicate_of` tell replicates,
                `status` failed runs (left out and counted), `proportions` the sources.
            target (`str` or `list[str]`, *optional*, defaults to `"loss_self_instruct"`): The evaluation loss. Several
                give a joint rule: the common slopes, with an effect per set (least squares on the sets' mean log loss,
                which is the same where every run has every set).
            indicators (`list[str]`, *optional*): The candidates; by default every indicator column present.
            select (`str`, *optional*, defaults to `"cv"`): How to choose among all their subsets: `"cv"` (10-fold,
                whole mixtures), `"bic"`, `"aic"`, `"aicc"`, `"none"`, or `"p-value"`, which reproduces the paper's way
                and is kept for that alone.
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
                models than least squares, which are slow to tune.
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
        targets = [target] if isinstance(target, str) else list(target)
        check_options(model, select, weights, max_vif)
        table = read_runs(runs, targets, indicators, covariates, weights, group, without_sources)
        options = {
            "select": select if model == "ols" else "none",
            "seed": seed,
            "logged": list(logged),
            "squared": list(squared),
            "covariates": list(covariates),
            "standardize": standardize,
            "weights": weights,
            "group": group,
            "max_vif": max_vif,
            "without_sources": list(without_sources),
        }
        fields = fit_rule(
            table,
            targets,
            **{key: options[key] for key in ("select", "seed", "logged", "squared", "covariates", "standardize")},
            max_vif=max_vif,
            model=model,
            log_target=log_target,
            permutations=PERMUTATIONS.get(model, 0) if permutations is None else permutations,
            bootstraps=BOOTSTRAPS.get(model, 500) if bootstraps is None else bootstraps,
        )
        fields["fitted"].options = options
        known = {term.column for term in fields["terms"]}
        setting = "".join(f" of {', '.join(table.facts[key])}" for key in ("base_model",) if key in table.facts)
        chosen = f"regressors chosen by {options['select']}" if options["select"] != "none" else "all regressors kept"
        return cls(
            name=name or f"{model}-{'-'.join(targets)}",
            origin=f"Fitted on {len(table)} finetunes{setting} ({', '.join(targets)}; {model}, {chosen}).",
            target=" + ".join(targets),
            log_target=log_target,
            model=model,
            provenance={column: found for column, found in table.provenance.items() if column in known},
            **fields,
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
            raise InstructMineError(f"no published rule '{name}': there are {' and '.join(PUBLISHED)}")
        text = resources.files(__package__).joinpath("rules", f"{name}.json").read_text("utf-8")
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

    def predict(self, dataset: Any, allow_mismatch: bool = False) -> np.ndarray:
        """Predicts the log loss that each example stands for; lower is better.

        The rule is linear in sets' means, so a single example's value ranks examples; it is not the loss on that
        example.

        Args:
            dataset (`Dataset`, `pandas.DataFrame` or mapping of sequences): Has the columns of `rule.indicators`.
            allow_mismatch (`bool`, *optional*, defaults to `False`): Accept columns that were made by another
                configuration than the rule was fitted with.

        Returns:
            `np.ndarray` of shape (n,), in nats (log loss); NaN where an indicator is missing or NaN.

        Raises:
            [`InstructMineError`]: Where columns are missing, or were made otherwise than the rule expects.
        """
        values = self._columns(dataset, allow_mismatch)
        if not self.terms:
            warnings.warn(f"the rule '{self.name}' keeps no indicator: it predicts the same everywhere", stacklevel=2)
            return np.full(row_count(dataset), self.intercept)
        return self._apply(design(self.terms, values))

    def _apply(self, matrix: np.ndarray) -> np.ndarray:
        if self.regressor is None:
            return self.intercept + matrix @ np.asarray(self.weights)
        known = ~np.isnan(matrix).any(axis=1)
        predicted = np.full(len(matrix), np.nan)
        z = (matrix[known] - self.fitted.mean[: len(self.terms)]) / self.fitted.sd[: len(self.terms)]
        z = np.column_stack([np.zeros((len(z), len(self.covariates))), z])  # the fit has the covariates first
        predicted[known] = self.regressor.predict(z)
        return predicted

    def predict_subset(
        self,
        scored: Any,
        indices: Sequence[int] | None = None,
        covariates: Mapping[str, Any] | None = None,
        allow_mismatch: bool = False,
    ) -> SubsetPrediction:
        """Predicts the log loss of a model finetuned on a set, with its intervals, and warns of extrapolation.

        Args:
            scored (`Dataset`, `pandas.DataFrame` or mapping of sequences): The scored pool.
            indices (`Sequence[int]`, *optional*): The set's rows in it; by default all.
            covariates (`Mapping[str, Any]`, *optional*): Values of the covariates the rule was adjusted for, such as
                `{"steps": 300}`, or `{"group": "Qwen/Qwen3-0.6B"}` for one level of a grouped fit. By default they
                are held at their means over the runs, and `subset_size` is the set's size.
            allow_mismatch (`bool`, *optional*, defaults to `False`): As for [`~LossEstimator.predict`].

        Returns:
            [`SubsetPrediction`]: Without intervals and leverage for a rule that was not fitted here.
        """
        values = self._columns(scored, allow_mismatch)
        return predict_set(self, values, row_count(scored), indices, covariates)

    def leverage(self, scored: Any, indices: Sequence[int] | None = None, allow_mismatch: bool = False) -> float:
        """How far a set's mean indicators lie from the runs': uᵀ(UᵀU)⁻¹u; compare `rule.max_leverage`.

        Raises:
            [`InstructMineError`]: For a rule without runs (published, set by hand) or without least squares.
        """
        if self.max_leverage is None:
            raise InstructMineError(f"the rule '{self.name}' was not fitted by least squares here: it has no leverage")
        means, _, size = set_means(self._columns(scored, allow_mismatch), row_count(scored), indices)
        return leverage_of(self, regressors_of_set(self, means, size, None))

    def row_leverages(self, scored: Any, allow_mismatch: bool = False) -> np.ndarray:
        """How far each example lies from the runs' mean indicators, as a set of its own; shape (n,).

        Raises:
            [`InstructMineError`]: As [`~LossEstimator.leverage`] does.
        """
        if self.max_leverage is None:
            raise InstructMineError(f"the rule '{self.name}' was not fitted by least squares here: it has no leverage")
        return leverages_of_rows(self, self._columns(scored, allow_mismatch))

    @property
    def max_leverage(self) -> float | None:
        """The largest leverage among the runs; a set beyond it is extrapolated to."""
        return self.fitted.max_leverage if self.fitted is not None else None

    def contributions(self, scored: Any, allow_mismatch: bool = False) -> dict[str, np.ndarray]:
        """How much each indicator adds to each example's prediction, against the pool's average.

        Returns:
            `dict[str, np.ndarray]`: One array of shape (n,) per indicator, in nats of log loss; over the indicators
            they add up to `predict(scored)` less its mean. An example kept for its reward has a negative `reward`.
        """
        return contributions_of(self, self._columns(scored, allow_mismatch))

    def summary(self) -> str:
        """Returns the diagnostics as text: tables, tests, and a last paragraph in plain words."""
        return summarize(self)

    def to_json(self) -> str:
        """Returns the content of `estimator.json`, which [`~LossEstimator.from_pretrained`] reads."""
        return estimator_file.dumps(estimator_file.content_of(self))

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes `estimator.json` and a model card with figures to a folder, which is made where absent.

        Raises:
            [`InstructMineError`]: Where the folder cannot be written, or for an AutoML rule.
        """
        self._save(Path(save_directory))

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Pushes the files of [`~LossEstimator.save_pretrained`] to a model repository, as one commit.

        Args:
            repo_id (`str`): `"owner/name"`, or `"name"` for one's own. Created where absent.
            private (`bool`, *optional*, defaults to `False`): Whether a new repository is private.
            token (`str`, *optional*): Token with write access; by default the one logged in with.

        Returns:
            `str`: The repository's id, for [`~LossEstimator.from_pretrained`].

        Raises:
            [`InstructMineError`]: Without a token, before any work; where the Hub refuses or stays out of reach.
        """
        from .publishing.hub import check_repo_id, push_folder, require_token

        token = require_token(token)
        check_repo_id(repo_id)
        with TemporaryDirectory() as folder:
            self._save(Path(folder), repo_id)
            return push_folder(
                folder,
                repo_id,
                repo_type="model",
                commit_message=f"Add the rule {self.name}",
                private=private,
                token=token,
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
        return cls(**estimator_file.read(path.read_text("utf-8"), f"'{path}'"))

    def _save(self, folder: Path, repo_id: str | None = None) -> None:
        from .estimator_card import write_card

        text = self.to_json()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / estimator_file.FILE_NAME).write_text(text, "utf-8")
            write_card(self, folder, repo_id)
        except OSError as error:
            raise InstructMineError(f"the folder '{folder}' cannot be written: {error.strerror or error}") from error

    def _columns(self, dataset: Any, allow_mismatch: bool) -> dict[str, np.ndarray]:
        values = indicator_columns(dataset, self.indicators)
        if self.provenance and not allow_mismatch:
            unknown = check_made_alike(self.provenance, self.indicators, dataset, partial=self.fitted is None)
            if unknown:
                warnings.warn(
                    f"nothing records which model made the column {', '.join(map(repr, unknown))}, so it is not "
                    f"checked that the rule '{self.name}' was fitted on such numbers",
                    stacklevel=3,
                )
        return values
