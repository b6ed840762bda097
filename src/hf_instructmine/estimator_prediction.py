"""What a rule says of a whole set: its predicted log loss, how sure that is, and whether the runs reach that far."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .diagnostics import LEVEL
from .errors import InstructMineError
from .estimator_terms import design


if TYPE_CHECKING:
    from .estimator import LossEstimator


@dataclass
class SubsetPrediction:
    """A set's predicted log loss.

    Attributes:
        log_loss (`float`): Predicted, in nats.
        mean_interval (`tuple[float, float]` or `None`): 95 % for the mean over finetunes on such sets.
        observation_interval (`tuple[float, float]` or `None`): 95 % for one finetune.
        leverage (`float` or `None`): Of the set's mean indicators against the runs. The runs' own average is p / n.
        max_run_leverage (`float` or `None`): The largest among the runs.
        size (`int`): Examples in the set. missing (`dict[str, int]`): how many of them lack an indicator; its mean is
            over the others.
    """

    log_loss: float
    mean_interval: tuple[float, float] | None
    observation_interval: tuple[float, float] | None
    leverage: float | None
    max_run_leverage: float | None
    size: int
    missing: dict[str, int]

    @property
    def extrapolates(self) -> bool:
        """Whether the set lies further out than any run: the rule was not tested there."""
        return self.leverage is not None and self.leverage > self.max_run_leverage * (1 + 1e-9)

    def __str__(self) -> str:
        lines = [f"Predicted log loss of {self.size:,} examples: {self.log_loss:.4f}"]
        if self.mean_interval is not None:
            lines[0] += f" (95 % {self.mean_interval[0]:.4f} … {self.mean_interval[1]:.4f}"
            lines[0] += f"; one finetune {self.observation_interval[0]:.4f} … {self.observation_interval[1]:.4f})"
        if self.leverage is not None:
            where = "outside" if self.extrapolates else "within"
            lines.append(f"Leverage {self.leverage:.3f}, {where} the runs' largest, {self.max_run_leverage:.3f}")
        return "\n".join(lines)


def set_means(values: Mapping[str, np.ndarray], rows: int, indices: Sequence[int] | None):
    """Mean of each indicator over a set, and how many values were missing.

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
        known = column[picked][~np.isnan(column[picked])]
        if len(known) == 0:
            raise InstructMineError(f"no example of the set has a value of '{name}'")
        means[name] = np.array([known.mean()])
        if len(known) < len(picked):
            missing[name] = len(picked) - len(known)
    return means, missing, len(picked)


def regressors_of_set(
    rule: "LossEstimator", means: Mapping[str, np.ndarray], size: int, covariates: Mapping[str, Any] | None
) -> np.ndarray:
    """The rule's regressors of one set, covariates first. A covariate that is not given stays at its mean over the
    runs, where it is 0; `subset_size` is the set's own size."""
    given = {"subset_size": size, **(covariates or {})}
    known = {term.column for term in rule.covariates} | {"subset_size"}
    if any(term.column.startswith("group=") for term in rule.covariates):
        known.add("group")
    if unknown := sorted(set(given) - known):
        raise InstructMineError(f"the rule has no covariate {', '.join(map(repr, unknown))}")
    held = []
    for term in rule.covariates:
        if term.column in given:
            held.append(term(np.array([float(given[term.column])]))[0])
        elif term.column.startswith("group=") and "group" in given:
            held.append(term(np.array([float(term.column == f"group={given['group']}")]))[0])
        else:
            held.append(0.0)
    return np.concatenate([held, design(rule.terms, means)[0] if rule.terms else []])


def leverage_of(rule: "LossEstimator", regressors: np.ndarray) -> float | None:
    if rule.fitted is None or rule.fitted.gram_inverse is None:
        return None
    u = _standardized(rule, regressors)
    return float(u @ np.asarray(rule.fitted.gram_inverse) @ u)


def leverages_of_rows(rule: "LossEstimator", values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The leverage each example would have as a set of its own, `(n,)`; covariates at their means over the runs."""
    matrix = design(rule.terms, values)
    held = np.zeros((len(matrix), len(rule.covariates)))
    u = (np.column_stack([held, matrix]) - rule.fitted.mean) / rule.fitted.sd
    u = np.column_stack([np.ones(len(u)), u])
    return np.einsum("ij,jk,ik->i", u, np.asarray(rule.fitted.gram_inverse), u)


def predict_set(
    rule: "LossEstimator",
    values: Mapping[str, np.ndarray],
    rows: int,
    indices: Sequence[int] | None,
    covariates: Mapping[str, Any] | None,
) -> SubsetPrediction:
    """Does the work of [`LossEstimator.predict_subset`]."""
    means, missing, size = set_means(values, rows, indices)
    regressors = regressors_of_set(rule, means, size, covariates)
    adjusted = float(np.dot(regressors[: len(rule.covariates)], rule.covariate_weights))
    log_loss = float(rule._apply(regressors[None, len(rule.covariates) :])[0]) + adjusted
    mean_interval = observation_interval = None
    if rule.fitted is not None and rule.fitted.covariance is not None:
        from scipy.stats import t

        u = _standardized(rule, regressors)
        variance = float(u @ np.asarray(rule.fitted.covariance) @ u)
        reach = t.ppf((1 + LEVEL) / 2, rule.fitted.df)
        near, far = reach * np.sqrt(variance), reach * np.sqrt(variance + rule.fitted.residual_variance)
        mean_interval = (float(log_loss - near), float(log_loss + near))
        observation_interval = (float(log_loss - far), float(log_loss + far))
    prediction = SubsetPrediction(
        log_loss=log_loss,
        mean_interval=mean_interval,
        observation_interval=observation_interval,
        leverage=leverage_of(rule, regressors),
        max_run_leverage=rule.max_leverage,
        size=size,
        missing=missing,
    )
    if prediction.extrapolates:
        warnings.warn(
            f"the set's leverage {prediction.leverage:.3g} is above the runs' largest, {rule.max_leverage:.3g}: the "
            f"rule is extrapolating",
            stacklevel=3,
        )
    return prediction


def contributions_of(rule: "LossEstimator", values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Does the work of [`LossEstimator.contributions`]."""
    if rule.regressor is not None:
        raise InstructMineError("an AutoML rule is not a sum of contributions")
    parts = design(rule.terms, values) * np.asarray(rule.weights)
    known = ~np.isnan(parts).any(axis=1)
    parts = parts - parts[known].mean(axis=0) if known.any() else parts
    columns = np.array([term.column for term in rule.terms])
    return {name: parts[:, columns == name].sum(axis=1) for name in rule.indicators}


def _standardized(rule: "LossEstimator", regressors: np.ndarray) -> np.ndarray:
    return np.concatenate([[1.0], (regressors - rule.fitted.mean) / rule.fitted.sd])
