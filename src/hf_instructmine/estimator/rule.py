"""A rule as numbers: what it predicts of examples and of sets, how sure that is, and whether the runs reach so far."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..data.columns import Column, Numbers, check_made_alike, indicator_columns, row_count
from ..data.containers import as_table
from ..errors import InstructMineError
from ..outputs.markdown import printable
from ..outputs.shown import Drawing, Drawn, Shown
from ..regression.diagnostics import Diagnostics
from ..regression.fit import Fit
from ..regression.regressors import leverage
from ..regression.replicates import LEVEL
from ..regression.terms import Term, design


_BLOCK = 2**16  # rows that are looked at together
# In the simulations of docs/estimator.md, on 30 and on 129 runs.
AFTER_A_CHOICE = (
    "The regressors were chosen on the same runs: in simulations the first interval held the truth in 76 to 93 %, the "
    "second in 88 to 95 %"
)


def contributions_of(
    rule: "Rule", values: Mapping[str, Numbers], rows: Sequence[int] | None = None
) -> dict[str, np.ndarray]:
    """How much each term of a rule adds to each row's prediction, against the mean of the rows.

    [`Rule.contributions`] is the same by indicator.

    Args:
        rule ([`Rule`]): A sum of terms.
        values (`Mapping[str, Numbers]`): Its indicators, as [`Rule.read`] gives them, each of shape (n,).
        rows (`Sequence[int]`, *optional*): Of which rows; by default of all.

    Returns:
        `dict[str, np.ndarray]`: One array for each term, in nats of log loss: its coefficient times its value, less
        the mean over the rows that have all terms. NaN where an indicator is missing.

    Raises:
        [`InstructMineError`]: For an AutoML rule, which is no sum of terms.
    """
    if rule.regressor is not None:
        raise InstructMineError("an AutoML rule is not a sum of contributions")
    if not rule.terms:
        return {}
    total, known = np.zeros(len(rule.terms)), 0
    for _, block in _blocks(values, len(next(iter(values.values())))):
        parts = design(rule.terms, block)
        parts = parts[~np.isnan(parts).any(axis=1)]
        total, known = total + parts.sum(axis=0), known + len(parts)
    asked = {name: column[slice(None) if rows is None else list(rows)] for name, column in values.items()}
    parts = (design(rule.terms, asked) - total / max(known, 1)) * np.asarray(rule.weights)
    return {term.name: parts[:, k] for k, term in enumerate(rule.terms)}


def _blocks(values: Mapping[str, Numbers], rows: int) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Columns in pieces: the regressors of a whole pool would be its largest table."""
    for start in range(0, rows, _BLOCK):
        part = slice(start, min(start + _BLOCK, rows))
        yield part, {name: column[part] for name, column in values.items()}


@dataclass(repr=False)
class SubsetPrediction(Shown):
    """A set's predicted log loss.

    Attributes:
        log_loss (`float`): Predicted, in nats.
        mean_interval (`tuple[float, float]` or `None`): 95 % for the mean over finetunes on such sets.
        observation_interval (`tuple[float, float]` or `None`): 95 % for one finetune.
        leverage (`float` or `None`): How far the set's mean indicators lie from the runs'. The average of the n runs
            that p coefficients were fitted to is p / n.
        max_run_leverage (`float` or `None`): The largest leverage among the runs.
        size (`int`): Examples in the set.
        missing (`dict[str, int]`): How many of them lack each indicator, whose mean is over the others.
        after_choice (`bool`): Whether the rule's regressors were chosen on the runs that it was fitted to. The
            intervals take them as given, and so hold the truth less often than they say.
    """

    log_loss: float
    mean_interval: tuple[float, float] | None
    observation_interval: tuple[float, float] | None
    leverage: float | None
    max_run_leverage: float | None
    size: int
    missing: dict[str, int]
    after_choice: bool = False

    @property
    def extrapolates(self) -> bool:
        """Whether the set lies further out than any run, where the rule was not tested."""
        if self.leverage is None or self.max_run_leverage is None:
            return False
        return self.leverage > self.max_run_leverage * (1 + 1e-9)

    def __str__(self) -> str:
        lines = [f"Predicted log loss of {self.size:,} examples: {self.log_loss:.4f}"]
        if self.mean_interval is not None and self.observation_interval is not None:
            lines[0] += f" (95 % {self.mean_interval[0]:.4f} … {self.mean_interval[1]:.4f}"
            lines[0] += f"; one finetune {self.observation_interval[0]:.4f} … {self.observation_interval[1]:.4f})"
            if self.after_choice:
                lines.append(AFTER_A_CHOICE)
        if self.leverage is not None:
            where = "outside" if self.extrapolates else "within"
            lines.append(f"Leverage {self.leverage:.3f}, {where} the runs' largest, {self.max_run_leverage:.3f}")
        return "\n".join(lines)


def set_means(
    values: Mapping[str, Numbers], rows: int, indices: Sequence[int] | None
) -> tuple[dict[str, np.ndarray], dict[str, int], int]:
    """Mean of each indicator over a set, how many values were missing, and how many examples the set has.

    Raises:
        [`InstructMineError`]: Where the set is empty, an index is not a row, or an indicator is missing throughout.
    """
    picked = np.arange(rows) if indices is None else np.asarray(indices)
    if len(picked) == 0:
        raise InstructMineError("the set is empty: there is nothing to predict")
    if picked.dtype == bool or not np.issubdtype(picked.dtype, np.integer):
        raise InstructMineError(f"indices have to be row numbers, not {picked.dtype}")
    outside = picked[(picked < 0) | (picked >= rows)]
    if len(outside):
        raise InstructMineError(f"there is no row {outside[0]}: the data has {rows} rows")
    means, missing = {}, {}
    for name, column in values.items():
        known = column[picked]
        known = known[~np.isnan(known)]
        if len(known) == 0:
            raise InstructMineError(f"no example of the set has a value of '{name}'")
        means[name] = np.array([known.mean()])
        if len(known) < len(picked):
            missing[name] = len(picked) - len(known)
    return means, missing, len(picked)


@dataclass(repr=False)
class Rule(Drawn):
    """A linear rule that predicts the log loss of a finetuned model from mean indicators.

    Numbers and no more: [`LossEstimator`] fits it, tells about it, keeps and publishes it.

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
        covariates (`list[Term]`, *optional*): What the fit adjusted for: subset size, steps, group effects. A
            prediction holds them at their mean over the runs.
        covariate_weights (`list[float]`, *optional*): One coefficient per covariate.
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

    def _line(self) -> str:
        terms = ", ".join(f"{value:.4g} {name}" for name, value in self.coefficients.items())
        return f"{printable(self.name, 60)} for {printable(self.target, 60)}: {terms}"

    def __str__(self) -> str:
        return repr(self)

    def _drawings(self) -> dict[str, Drawing]:
        return {}

    @property
    def indicators(self) -> list[str]:
        """The columns that [`~Rule.predict`] needs, in order."""
        return list(dict.fromkeys(term.column for term in self.terms))

    @property
    def coefficients(self) -> dict[str, float]:
        """The coefficient of each term, such as `{"intercept": 1.07, "reward": -0.15, "log(perplexity)": 0.02}`."""
        return {"intercept": self.intercept, **{term.name: w for term, w in zip(self.terms, self.weights)}}

    def predict(self, dataset: Any, allow_mismatch: bool = False) -> np.ndarray:
        """Predicts the log loss that each example stands for; lower is better.

        The rule is linear in sets' means, so a single example's value ranks examples; it is not the loss on that
        example.

        Args:
            dataset (`Dataset`, or what else [`as_dataset`] takes): Has the columns of `rule.indicators`.
            allow_mismatch (`bool`, *optional*, defaults to `False`): Accept columns that were made by another
                configuration than the rule was fitted with.

        Returns:
            `np.ndarray` of shape (n,), in nats (log loss); NaN where an indicator is missing or NaN.

        Raises:
            [`InstructMineError`]: Where columns are missing, or were made otherwise than the rule expects.
        """
        dataset = as_table(dataset, "dataset")
        return self.apply(self.read(dataset, allow_mismatch), row_count(dataset))

    def apply(self, values: Mapping[str, Numbers], rows: int) -> np.ndarray:
        """Predicts from the rule's indicators as [`~Rule.read`] gives them.

        Args:
            values (`Mapping[str, Numbers]`): Each indicator, of shape (rows,).
            rows (`int`): How many; a rule without terms predicts the same for all of them.

        Returns:
            `np.ndarray` of shape (rows,); NaN where an indicator is NaN.
        """
        if not self.terms:
            warnings.warn(f"the rule '{self.name}' keeps no indicator: it predicts the same everywhere", stacklevel=3)
            return np.full(rows, self.intercept)
        predicted = np.empty(rows)
        for part, block in _blocks(values, rows):
            predicted[part] = self._apply(design(self.terms, block))
        return predicted

    def _apply(self, matrix: np.ndarray) -> np.ndarray:
        if self.regressor is None:
            return self.intercept + matrix @ np.asarray(self.weights)
        assert self.fitted is not None  # a regressor is kept nowhere: it was fitted here
        known = ~np.isnan(matrix).any(axis=1)
        predicted = np.full(len(matrix), np.nan)
        z = (matrix[known] - self.fitted.mean[: len(self.terms)]) / self.fitted.sd[: len(self.terms)]
        z = np.column_stack([np.zeros((len(z), len(self.covariates))), z])  # the fit has the covariates first
        predicted[known] = self.regressor.predict(z)
        return predicted

    def tangent(self, means: Mapping[str, np.ndarray]) -> "Rule":
        """The linear rule that predicts as this one does at a set's mean indicators, and nearby.

        A rule with squares or logarithms is a function of the set's mean. What one example more does to a set is the
        slope there, times how far the example lies from the mean.

        Args:
            means (`Mapping[str, np.ndarray]`): Of each indicator, of shape (1,).
        """
        slopes = dict.fromkeys(self.indicators, 0.0)
        for term, weight in zip(self.terms, self.weights):
            at = float(means[term.column][0])
            inner = 1 / (at * term.scale) if term.log else 1 / term.scale
            linear = float(replace(term, power=1)(means[term.column])[0])
            slopes[term.column] += weight * term.power * linear ** (term.power - 1) * inner
        level = self.predict_means(means) - sum(slope * float(means[name][0]) for name, slope in slopes.items())
        terms = [Term(name) for name in slopes]
        return Rule(self.name, self.origin, terms=terms, weights=list(slopes.values()), intercept=level)

    def predict_means(self, means: Mapping[str, np.ndarray]) -> float:
        """The log loss predicted for a set from its mean indicators, each of shape (1,); covariates at their means."""
        return float(self._apply(design(self.terms, means))[0]) if self.terms else self.intercept

    def predict_subset(
        self,
        scored: Any,
        indices: Sequence[int] | None = None,
        covariates: Mapping[str, Any] | None = None,
        allow_mismatch: bool = False,
    ) -> SubsetPrediction:
        """Predicts the log loss of a model finetuned on a set, with its intervals, and warns of extrapolation.

        Args:
            scored (`Dataset`, or what else [`as_dataset`] takes): The scored pool.
            indices (`Sequence[int]`, *optional*): The set's rows in it; by default all.
            covariates (`Mapping[str, Any]`, *optional*): Values of the covariates the rule was adjusted for, such as
                `{"steps": 300}`, or `{"group": "Qwen/Qwen3-0.6B"}` for one level of a grouped fit. By default they
                are held at their means over the runs, and `subset_size` is the set's size.
            allow_mismatch (`bool`, *optional*, defaults to `False`): As for [`~Rule.predict`].

        Returns:
            [`SubsetPrediction`]: Without intervals and leverage for a rule that was not fitted here.
        """
        scored = as_table(scored, "scored")
        means, missing, size = set_means(self.read(scored, allow_mismatch), row_count(scored), indices)
        regressors = self._regressors(means, size, covariates)
        adjusted = float(np.dot(regressors[: len(self.covariates)], self.covariate_weights))
        log_loss = float(self._apply(regressors[None, len(self.covariates) :])[0]) + adjusted
        mean_interval, observation_interval = self._intervals(regressors, log_loss)
        prediction = SubsetPrediction(
            log_loss=log_loss,
            mean_interval=mean_interval,
            observation_interval=observation_interval,
            leverage=self._leverage(regressors),
            max_run_leverage=self.max_leverage,
            size=size,
            missing=missing,
            after_choice=self.fitted is not None and self.fitted.options.get("select") != "none",
        )
        if prediction.extrapolates:
            warnings.warn(
                f"the set's leverage {prediction.leverage:.3g} is above the runs' largest, {self.max_leverage:.3g}: "
                "the rule is extrapolating",
                stacklevel=2,
            )
        return prediction

    def leverage(self, scored: Any, indices: Sequence[int] | None = None, allow_mismatch: bool = False) -> float:
        """How far a set's mean indicators lie from the runs': uᵀ(UᵀU)⁻¹u; compare `rule.max_leverage`.

        Raises:
            [`InstructMineError`]: For a rule without runs (published, set by hand) or without least squares.
        """
        scored = as_table(scored, "scored")
        return self.leverage_of_set(self.read(scored, allow_mismatch), row_count(scored), indices)

    def row_leverages(self, scored: Any, allow_mismatch: bool = False) -> np.ndarray:
        """How far each example lies from the runs' mean indicators, as a set of its own; shape (n,).

        Raises:
            [`InstructMineError`]: As [`~Rule.leverage`] does.
        """
        scored = as_table(scored, "scored")
        return self.leverage_of_rows(self.read(scored, allow_mismatch), row_count(scored))

    def leverage_of_set(self, values: Mapping[str, Numbers], rows: int, indices: Sequence[int] | None = None) -> float:
        """As [`~Rule.leverage`], of indicators that [`~Rule.read`] gave, each of shape (rows,)."""
        self._check_leverage()
        means, _, size = set_means(values, rows, indices)
        found = self._leverage(self._regressors(means, size, None))
        assert found is not None  # as was checked
        return found

    def leverage_of_rows(self, values: Mapping[str, Numbers], rows: int) -> np.ndarray:
        """As [`~Rule.row_leverages`], of indicators that [`~Rule.read`] gave, each of shape (rows,)."""
        fit = self._check_leverage()
        gram_inverse, found = np.asarray(fit.gram_inverse), np.empty(rows)
        for part, block in _blocks(values, rows):
            # Covariates stay at their means over the runs, where they are 0.
            held = np.zeros((part.stop - part.start, len(self.covariates)))
            regressors = np.column_stack([held, design(self.terms, block)]) if self.terms else held
            found[part] = leverage(
                np.column_stack([np.ones(len(held)), (regressors - fit.mean) / fit.sd]), gram_inverse
            )
        return found

    def _check_leverage(self) -> Fit:
        """What leverage is measured by."""
        if self.fitted is None or self.fitted.max_leverage is None:
            raise InstructMineError(f"the rule '{self.name}' was not fitted by least squares here: it has no leverage")
        return self.fitted

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
        parts = contributions_of(self, self.read(scored, allow_mismatch))
        columns = np.array([term.column for term in self.terms])
        values = np.array(list(parts.values()))
        return {name: values[columns == name].sum(axis=0) for name in self.indicators}

    def read(self, dataset: Any, allow_mismatch: bool = False) -> dict[str, Column]:
        """The rule's indicators over a scored pool, each of shape (n,); `column[:]` is all of one.

        Args:
            dataset (`Dataset`, or what else [`as_dataset`] takes): Has the columns of `rule.indicators`.
            allow_mismatch (`bool`, *optional*, defaults to `False`): As for [`~Rule.predict`].

        Raises:
            [`InstructMineError`]: Where columns are missing, or were made otherwise than the rule expects.
        """
        dataset = as_table(dataset, "dataset")
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

    def _regressors(
        self, means: Mapping[str, np.ndarray], size: int, covariates: Mapping[str, Any] | None
    ) -> np.ndarray:
        """The regressors of one set, covariates first.

        A covariate that is not given stays at its mean over the runs, where it is 0. `subset_size` is the set's size.
        """
        given = {"subset_size": size, **(covariates or {})}
        known = {term.column for term in self.covariates} | {"subset_size"}
        if any(term.column.startswith("group=") for term in self.covariates):
            known.add("group")
        if unknown := sorted(set(given) - known):
            raise InstructMineError(f"the rule has no covariate {', '.join(map(repr, unknown))}")
        held = []
        for term in self.covariates:
            if term.column in given:
                held.append(term(np.array([float(given[term.column])]))[0])
            elif term.column.startswith("group=") and "group" in given:
                held.append(term(np.array([float(term.column == f"group={given['group']}")]))[0])
            else:
                held.append(0.0)
        return np.concatenate([held, design(self.terms, means)[0] if self.terms else []])

    def _standardized(self, regressors: np.ndarray) -> np.ndarray:
        assert self.fitted is not None  # its callers have looked
        return np.concatenate([[1.0], (regressors - self.fitted.mean) / self.fitted.sd])

    def _leverage(self, regressors: np.ndarray) -> float | None:
        if self.fitted is None or self.fitted.gram_inverse is None:
            return None
        return float(leverage(self._standardized(regressors)[None], np.asarray(self.fitted.gram_inverse))[0])

    def _intervals(self, regressors: np.ndarray, log_loss: float) -> tuple[tuple | None, tuple | None]:
        """95 % intervals of the mean over finetunes on such sets, and of one finetune; None without least squares."""
        if self.fitted is None or self.fitted.covariance is None:
            return None, None
        from scipy.stats import t

        u = self._standardized(regressors)
        variance = float(u @ np.asarray(self.fitted.covariance) @ u)
        reach = t.ppf((1 + LEVEL) / 2, self.fitted.df)
        near, far = reach * np.sqrt(variance), reach * np.sqrt(variance + self.fitted.residual_variance)
        return (float(log_loss - near), float(log_loss + near)), (float(log_loss - far), float(log_loss + far))
