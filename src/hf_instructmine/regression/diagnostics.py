"""How far a rule can be trusted: in-sample statistics, held-out ones, and what could be attained at all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import numpy as np

from ..outputs.markdown import count
from ..outputs.reading import typed
from ..outputs.shown import Cells, Shown
from .choice import Problem
from .replicates import added_terms_p, jackknife_covariance, lack_of_fit


# Fields that rules saved by earlier versions have not.
_LATER = ("partial_r2", "partial_r2_interval", "replicates", "unequal_noise_p")


@dataclass
class Coefficient:
    """One coefficient of a rule.

    Attributes:
        name (`str`): The term, or `"intercept"`.
        estimate (`float`): In log loss per unit of the term.
        error (`float`): Robust standard error (HC3; CR3 by mixture where replicates exist). For the models other than
            least squares, the bootstrap's.
        low (`float`): Lower end of the 95 % interval, which takes the regressors as given: after a choice it is short.
        high (`float`): Upper end of the interval.
        p (`float` or `None`): Two-sided, by Student's t. As the interval, it takes the regressors as given.
        standardized (`float` or `None`): Standard deviations of the target per standard deviation of the term.
        vif (`float` or `None`): Variance inflation factor among the rule's regressors.
        sign_stability (`float` or `None`): Share of bootstrap resamples with this sign.
    """

    name: str
    estimate: float
    error: float
    low: float
    high: float
    p: float | None
    standardized: float | None
    vif: float | None
    sign_stability: float | None


@dataclass
class InSample:
    """Statistics of the runs that were fitted, named as in [`Diagnostics`]; None is what only least squares has."""

    r2: float
    residuals: list[float]
    fitted: list[float]
    adj_r2: float | None = None
    aic: float | None = None
    bic: float | None = None
    aicc: float | None = None
    press: float | None = None
    loo_r2: float | None = None
    lack_of_fit: dict[str, float | None] | None = None
    reset_p: float | None = None
    breusch_pagan: dict[str, float] | None = None
    jarque_bera: dict[str, float] | None = None
    cooks_distance: list[float] | None = None
    leverage: list[float] | None = None


class _Test(TypedDict):
    p: float


class _LackOfFit(TypedDict):
    f: float
    p: float
    df_lack: float
    df_pure: float


class _LeftOut(TypedDict):
    r2: float
    spearman: float | None
    train_runs: int
    test_runs: int
    largest_training_share: float
    skill: NotRequired[float]
    as_bad: NotRequired[float | None]


class _OtherSet(TypedDict):
    r2: float
    spearman: float | None


class _Replicates(TypedDict):
    runs: list[int]
    sd: float
    share: float


class _Inner(TypedDict):
    """What stands in the mappings of [`Diagnostics`]."""

    lack_of_fit: _LackOfFit | None
    breusch_pagan: _Test | None
    jarque_bera: _Test | None
    leave_one_source_out_r2: dict[str, _LeftOut]
    other_evaluation_sets: dict[str, _OtherSet]
    replicates: NotRequired[list[_Replicates]]


@dataclass(repr=False)
class Diagnostics(Shown):
    """What is known of a fitted rule. R² is always 1 − Σ(y − ŷ)² / Σ(y − ȳ)², which is below 0 where the rule does
    worse than the mean; "held out" always leaves out whole mixtures, with all their replicates.

    Attributes:
        n (`int`): Runs.
        num_mixtures (`int`): Different mixtures among them.
        failed (`int`): Runs left out as failed.
        p (`int`): Regressors besides the constant.
        r2 (`float`): In sample.
        adj_r2 (`float` or `None`): In sample, adjusted for the number of regressors.
        aic (`float` or `None`): As statsmodels counts it.
        bic (`float` or `None`): As statsmodels counts it.
        aicc (`float` or `None`): AIC with the correction for few runs.
        press (`float` or `None`): Σ of squared leave-one-mixture-out residuals. The regressors are taken as given, so
            after a choice it is too small.
        loo_r2 (`float` or `None`): The R² that `press` gives; after a choice it is too high.
        nested_cv_r2 (`float`): R² of the whole procedure, the choice of regressors included, by nested 10-fold
            cross-validation; the mean over repeated partitions.
        nested_cv_r2_sd (`float`): Its spread over the partitions.
        nested_cv_r2_interval (`list[float]`): 95 %, by resampling the mixtures' held-out errors.
        spearman_cv (`float` or `None`): Rank correlation of predicted and measured held-out loss, mean over the
            partitions.
        partial_r2 (`float` or `None`): What the indicators add to the columns in every rule (covariates, groups):
            1 − Σ(y − ŷ)² / Σ(y − b)² of the same held-out predictions, b being the prediction by those columns alone,
            fitted to the same folds. `None` without such columns, and for a rule saved by a version without it.
        partial_r2_interval (`list[float]` or `None`): 95 %, as that of the nested R².
        permutation_p (`float` or `None`): Share of targets dealt anew among mixtures whose nested-CV R² (partial R²,
            where there is one) is as high.
        coefficients (`list[Coefficient]`): The constant first.
        candidates (`list[str]`): What the choice was among.
        chosen_share (`dict[str, float]`): Share of resamples in which the choice, done again, took each candidate.
        subsets (`int`): How many sets of regressors were compared: all, or the best of each size.
        rivals (`int` or `None`): How many of them are as good as the best: within one standard error of its CV error,
            or two units of the criterion.
        interchangeable (`list[list[str]]`): Pairs of a regressor and a correlated one left out that could replace it.
        vif (`dict[str, float]`): Variance inflation factors of the rule's regressors.
        candidate_vif (`dict[str, float]`): Variance inflation factors of all candidates.
        correlation (`list[list[float]]`): Of the candidates.
        condition_number (`float`): Of the rule's standardised regressors; above 30 is severe.
        source_r2 (`dict[str, float]`): Share of each indicator's variance that the source proportions explain. Where
            all are near 1, at most (sources − 1) indicators can be told apart, however many runs there are.
        lack_of_fit (`dict` or `None`): F test against the replicates' pure error (`f`, `p`, `df_lack`, `df_pure`), and
            `own_noise_p`, which does not take all mixtures as equally noisy.
        reset_p (`float` or `None`): p-value of Ramsey's test of curvature.
        breusch_pagan (`dict` or `None`): Test of constant variance.
        jarque_bera (`dict` or `None`): Test of normal residuals.
        cooks_distance (`list[float]` or `None`): One per run.
        leverage (`list[float]` or `None`): One per run.
        residuals (`list[float]`): One per run.
        fitted (`list[float]`): One per run.
        held_out (`list[float]`): The held-out prediction of each run, in the first partition.
        measured (`list[float]`): What was to be explained of each run.
        regressors (`list[list[float]]`): The rule's standardised regressors, one row per run.
        noise_ceiling (`float` or `None`): Share of the variance between runs that is not replicate noise: the R² that
            a perfect rule would reach.
        noise_ceiling_interval (`list[float]` or `None`): 95 %.
        noise_sd (`float` or `None`): Standard deviation between replicates.
        replicates (`list[dict]`): Per repeated mixture, the widest apart first: `runs` (positions among the finished
            ones), `sd`, `share` of the replicates' sum of squares.
        unequal_noise_p (`float` or `None`): p-value that the first of them is no noisier than the others.
        leave_one_source_out_r2 (`dict[str, dict]`): Per source, fitted on the runs with none (or least) of it, tested
            on the others: `skill` over the mean of the training runs (over covariates and groups fitted to them),
            `as_bad` (share of random splits of the same sizes whose skill is no higher; `None` where not compared),
            `r2` about the mean of the tested runs, `spearman`, `train_runs`, `test_runs`, `largest_training_share`.
        other_evaluation_sets (`dict[str, dict]`): Per other `loss_…` column: `r2` of the held-out predictions, once
            shifted to that set's mean, and `spearman`.
        covariance_type (`str`): `"HC3"`, `"CR3"` (by mixture, where some are repeated) or `"bootstrap"`.
        partitions (`int`): Partitions of the nested cross-validation.
        permutations (`int`): Targets dealt anew.
        bootstraps (`int`): Resamples.
        set_effects (`dict[str, float]`): Of a joint rule: each evaluation set's distance from the common prediction.
        set_slopes_p (`dict[str, float or None]`): Of a joint rule: the p-value of a set's slopes being the common
            ones.
        notes (`list[str]`): What a reader should know besides.
    """

    n: int
    num_mixtures: int
    failed: int
    p: int
    r2: float
    adj_r2: float | None
    aic: float | None
    bic: float | None
    aicc: float | None
    press: float | None
    loo_r2: float | None
    nested_cv_r2: float
    nested_cv_r2_sd: float
    nested_cv_r2_interval: list[float]
    spearman_cv: float | None
    permutation_p: float | None
    coefficients: list[Coefficient]
    candidates: list[str]
    chosen_share: dict[str, float]
    subsets: int
    rivals: int | None
    interchangeable: list[list[str]]
    vif: dict[str, float]
    candidate_vif: dict[str, float]
    correlation: list[list[float]]
    condition_number: float
    source_r2: dict[str, float]
    lack_of_fit: dict[str, float | None] | None
    reset_p: float | None
    breusch_pagan: dict[str, float] | None
    jarque_bera: dict[str, float] | None
    cooks_distance: list[float] | None
    leverage: list[float] | None
    residuals: list[float]
    fitted: list[float]
    held_out: list[float]
    measured: list[float]
    regressors: list[list[float]]
    noise_ceiling: float | None
    noise_ceiling_interval: list[float] | None
    noise_sd: float | None
    leave_one_source_out_r2: dict[str, dict[str, Any]]
    other_evaluation_sets: dict[str, dict[str, float]]
    covariance_type: str
    partitions: int
    permutations: int
    bootstraps: int
    set_effects: dict[str, float] = field(default_factory=dict)
    set_slopes_p: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    partial_r2: float | None = None
    partial_r2_interval: list[float] | None = None
    replicates: list[dict[str, Any]] = field(default_factory=list)
    unequal_noise_p: float | None = None

    def _line(self) -> str:
        low, high = self.nested_cv_r2_interval
        return (
            f"{count(self.n, 'run')} of {count(self.num_mixtures, 'mixture')}, {count(self.p, 'regressor')}: held-out "
            f"R² {self.nested_cv_r2:.3f} (95 % {low:.3f} to {high:.3f}), in sample {self.r2:.3f}"
        )

    def _tables(self) -> list[Cells]:
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        names = dict.fromkeys([*self.candidates, *self.vif])
        factors = [(name, self.candidate_vif.get(name), self.vif.get(name)) for name in names]
        return [
            Cells("Numbers", ["measure", "value"], [[name, f"{value:.6g}"] for name, value in numbers.items()]),
            Cells(
                "Variance inflation factors",
                ["regressor", "among the candidates", "in the rule"],
                [[name, *("–" if vif is None else f"{vif:.1f}" for vif in vifs)] for name, *vifs in factors],
            ),
        ]

    @property
    def in_every(self) -> list[str]:
        """The covariates and groups, which are regressors of the rule whatever is chosen."""
        return [name for name in self.vif if name not in self.candidates]

    @property
    def worth(self) -> tuple[float, list[float]] | None:
        """The held-out R² that the indicators earn, with its interval; `None` where it is not known."""
        if not self.in_every:
            return self.nested_cv_r2, self.nested_cv_r2_interval
        if self.partial_r2 is None or self.partial_r2_interval is None:
            return None
        return self.partial_r2, self.partial_r2_interval

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the rule's file. Fields that earlier versions had not are left out where not known."""
        known = {name: value for name, value in self.__dict__.items() if name not in _LATER or value not in (None, [])}
        return {**known, "coefficients": [dict(c.__dict__) for c in self.coefficients]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Diagnostics":
        """From what [`~Diagnostics.to_dict`] gave; a number that was written as null is NaN.

        Raises:
            `TypeError`: Where a field is missing, unknown or of another kind.
        """
        found = typed({**content, **typed(content, _Inner, "diagnostics", nan=True)}, cls, "diagnostics", nan=True)
        for name in ("nested_cv_r2_interval", "noise_ceiling_interval", "partial_r2_interval"):
            if getattr(found, name) is not None and len(getattr(found, name)) != 2:
                raise TypeError(f"'diagnostics.{name}' has not two ends")
        for name in ("residuals", "fitted", "held_out", "measured", "regressors", "cooks_distance", "leverage"):
            if getattr(found, name) is not None and len(getattr(found, name)) != found.n:
                raise TypeError(f"'diagnostics.{name}' is not of {found.n} runs")
        if [len(row) for row in found.correlation] != [len(found.candidates)] * len(found.candidates):
            raise TypeError(f"'diagnostics.correlation' is not of {len(found.candidates)} candidates")
        if unknown := found.set_effects.keys() - found.set_slopes_p.keys():
            raise TypeError(f"'diagnostics.set_slopes_p.{min(unknown)}' is missing")
        return found


def least_squares_statistics(x: np.ndarray, problem: Problem) -> tuple[Any, np.ndarray, InSample]:
    """A regression on the columns x (the constant first), by statsmodels.

    Returns:
        statsmodels' result, the robust covariance of the coefficients, and the in-sample statistics and tests.
    """
    import statsmodels.api as sm
    from statsmodels.stats.diagnostic import het_breuschpagan
    from statsmodels.stats.stattools import jarque_bera

    y, weights, n, k = problem.y, problem.weights, len(problem.y), x.shape[1]
    result = sm.WLS(y, x, weights=weights).fit()
    root = np.sqrt(weights)
    influence = sm.OLS(root * y, root[:, None] * x).fit().get_influence()
    covariance, left_out = jackknife_covariance(x, result.resid, weights, problem.mixtures)
    press = float(weights @ left_out**2)
    total = weights @ (y - np.average(y, weights=weights)) ** 2
    lm, lm_p, *_ = het_breuschpagan(result.wresid, x) if k > 1 else (np.nan, np.nan)
    jb, jb_p, *_ = jarque_bera(result.wresid)
    in_sample = InSample(
        r2=float(result.rsquared) if k > 1 else 0.0,
        adj_r2=float(result.rsquared_adj) if k > 1 else 0.0,
        aic=float(result.aic),
        bic=float(result.bic),
        aicc=float(result.aic + 2 * (k + 1) * (k + 2) / (n - k - 2)) if n > k + 2 else None,
        press=press,
        loo_r2=float(1 - press / total),
        lack_of_fit=lack_of_fit(x, y, weights, problem.mixtures),
        reset_p=added_terms_p(x, result.fittedvalues**2, y, weights) if k > 1 else None,
        breusch_pagan={"lm": float(lm), "p": float(lm_p)} if k > 1 else None,
        jarque_bera={"jb": float(jb), "p": float(jb_p)},
        cooks_distance=influence.cooks_distance[0].tolist(),
        leverage=influence.hat_matrix_diag.tolist(),
        residuals=result.resid.tolist(),
        fitted=result.fittedvalues.tolist(),
    )
    return result, covariance, in_sample


def source_r2(names: Sequence[str], x: np.ndarray, shares: np.ndarray | None) -> dict[str, float]:
    """How much of each column's variance the source proportions explain (R², adjusted for their number)."""
    if shares is None:
        return {}
    design = np.column_stack([np.ones(len(x)), shares])
    free = len(x) - np.linalg.matrix_rank(design)
    if free < 1:
        return {}
    residual = x - design @ np.linalg.lstsq(design, x, rcond=1e-10)[0]
    explained = 1 - (residual**2).sum(axis=0) / free / x.var(axis=0, ddof=1)
    return dict(zip(names, explained.clip(0, 1).tolist()))
