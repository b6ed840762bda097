"""How far a rule can be trusted: in-sample statistics, held-out ones, and what could be attained at all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .choice import (
    FOLDS,
    Problem,
    assign_folds,
    bootstrap_weights,
    cross_fit,
    least_squares,
    permuted_targets,
    r_squared,
)
from .runs import RunTable


LEVEL = 0.95


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
    lack_of_fit: dict[str, float] | None = None
    reset_p: float | None = None
    breusch_pagan: dict[str, float] | None = None
    jarque_bera: dict[str, float] | None = None
    cooks_distance: list[float] | None = None
    leverage: list[float] | None = None


@dataclass
class Diagnostics:
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
        permutation_p (`float` or `None`): Share of targets dealt anew among mixtures whose nested-CV R² is as high.
        coefficients (`list[Coefficient]`): The constant first.
        candidates (`list[str]`): What the choice was among.
        chosen_share (`dict[str, float]`): Share of resamples in which the choice, done again, took each candidate.
        subsets (`int`): How many sets of regressors were compared.
        rivals (`int` or `None`): How many of them are as good as the best: within one standard error of its CV error,
            or two units of the criterion.
        interchangeable (`list[list[str]]`): Pairs of a regressor and a correlated one left out that could replace it.
        vif (`dict[str, float]`): Variance inflation factors of the rule's regressors.
        candidate_vif (`dict[str, float]`): Variance inflation factors of all candidates.
        correlation (`list[list[float]]`): Of the candidates.
        condition_number (`float`): Of the rule's standardised regressors; above 30 is severe.
        source_r2 (`dict[str, float]`): Share of each indicator's variance that the source proportions explain. Where
            all are near 1, at most (sources − 1) indicators can be told apart, however many runs there are.
        lack_of_fit (`dict` or `None`): F test against the replicates' pure error.
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
        leave_one_source_out_r2 (`dict[str, dict]`): Per source, fitted on the runs with none (or least) of it, tested
            on the others: `r2`, `spearman`, `train_runs`, `test_runs`, `largest_training_share`.
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
    lack_of_fit: dict[str, float] | None
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the rule's file."""
        return {**self.__dict__, "coefficients": [dict(c.__dict__) for c in self.coefficients]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Diagnostics":
        """From what [`~Diagnostics.to_dict`] gave."""
        return cls(**{**content, "coefficients": [Coefficient(**c) for c in content["coefficients"]]})


def jackknife_covariance(
    x: np.ndarray, residuals: np.ndarray, weights: np.ndarray, mixtures: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of least-squares coefficients, robust to unequal variances and to the likeness of replicates.

    CR3: the sum over mixtures of (β₍₋g₎ − β)(β₍₋g₎ − β)ᵀ. It is HC3 where every mixture has one run.

    Returns:
        The covariance, shape (k, k), and the leave-one-mixture-out residuals, shape (n,).
    """
    root = np.sqrt(weights)
    x, residuals = root[:, None] * x, root * residuals
    bread = np.linalg.pinv(x)
    bread = bread @ bread.T
    left_out = np.empty_like(residuals)
    scores = []
    for g in np.unique(mixtures):
        rows = mixtures == g
        hat = x[rows] @ bread @ x[rows].T
        left_out[rows] = np.linalg.lstsq(np.eye(rows.sum()) - hat, residuals[rows], rcond=1e-10)[0]
        scores.append(x[rows].T @ left_out[rows])
    meat = np.stack(scores).T @ np.stack(scores)
    return bread @ meat @ bread, left_out / root


def noise_ceiling(y: np.ndarray, mixtures: np.ndarray) -> dict[str, Any]:
    """The share of the variance between runs that is not replicate noise: the intraclass correlation.

    Estimate and interval after Thomas & Hultquist (1978), for unequal numbers of replicates: F = h·Var(means) / MSW,
    with h the harmonic mean of the numbers, on G − 1 and n − G degrees of freedom.

    Returns:
        `dict` with `ceiling` and `sd` (`None` without replicates) and `interval`.
    """
    from scipy.stats import f

    codes, counts = np.unique(mixtures, return_counts=True)
    between, within = len(codes) - 1, len(y) - len(codes)
    if within == 0 or between == 0:
        return {"ceiling": None, "interval": None, "sd": None}
    means = np.bincount(mixtures, y) / np.bincount(mixtures)
    variance = ((y - means[mixtures]) ** 2).sum() / within
    harmonic = len(codes) / (1 / counts).sum()
    ratio = harmonic * means.var(ddof=1) / max(variance, 1e-300)

    def share(value: float) -> float:
        return float(np.clip((value - 1) / (value - 1 + harmonic), 0, 1))

    tail = (1 - LEVEL) / 2
    interval = [share(ratio / f.ppf(1 - tail, between, within)), share(ratio / f.ppf(tail, between, within))]
    return {"ceiling": share(ratio), "interval": interval, "sd": float(np.sqrt(variance))}


def lack_of_fit(x: np.ndarray, y: np.ndarray, weights: np.ndarray, mixtures: np.ndarray) -> dict[str, float] | None:
    """F test of a regression against one free mean per mixture, by the pure error of the replicates.

    Where replicates differ a little in x (same recipe, other rows), the free means come on top of the slopes.

    Returns:
        `dict` with `f`, `p`, `df_lack`, `df_pure`, or `None` without replicates or degrees of freedom.
    """
    found = _f_test(x, mixtures[:, None] == np.unique(mixtures), y, weights)
    return None if found is None else dict(zip(("f", "p", "df_lack", "df_pure"), found))


def added_terms_p(x: np.ndarray, added: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float | None:
    """p-value of the F test that the columns `added` bring nothing to a regression of y on x."""
    found = _f_test(x, added, y, weights)
    return None if found is None else found[1]


def _f_test(
    x: np.ndarray, added: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> tuple[float, float, int, int] | None:
    """F, its p-value and its degrees of freedom, for columns added to a regression; `None` where none are left."""
    from scipy.stats import f

    full = np.column_stack([x, added])
    ranks = [np.linalg.matrix_rank(matrix) for matrix in (x, full)]
    extra, freedom = int(ranks[1] - ranks[0]), int(len(y) - ranks[1])
    if extra < 1 or freedom < 1:
        return None
    rss = [weights @ (y - m @ least_squares(m, y[:, None], weights)[:, 0]) ** 2 for m in (x, full)]
    ratio = ((rss[0] - rss[1]) / extra) / max(rss[1] / freedom, 1e-300)
    return float(ratio), float(f.sf(ratio, extra, freedom)), extra, freedom


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Rank correlation, or `None` where one side is constant."""
    from scipy.stats import spearmanr

    return None if np.ptp(a) == 0 or np.ptp(b) == 0 else float(spearmanr(a, b).statistic)


def held_out_statistics(
    held_out: Callable[..., np.ndarray], problem: Problem, repeats: int, permutations: int, seed: int
) -> dict[str, Any]:
    """Nested cross-validation over several partitions, its spread and interval, and the permutation test."""
    rng = np.random.default_rng([seed, 1])
    y, weights = problem.y, problem.weights
    partitions = [assign_folds(problem.mixtures, FOLDS, rng) for _ in range(repeats)]
    predicted = cross_fit(held_out, problem, y[:, None], partitions, rng)[..., 0]
    scores = r_squared(np.tile(y[:, None], repeats), predicted.T, weights)
    ranks = [r for r in (spearman(p, y) for p in predicted) if r is not None]

    # The interval: the R² of resampled mixtures, at the held-out errors.
    error = ((y - predicted) ** 2).mean(axis=0)
    resampled = bootstrap_weights(problem, 2000, rng)
    resampled = resampled[(resampled > 0).sum(axis=1) > 1]
    mean = resampled @ y / resampled.sum(axis=1)
    total = resampled @ y**2 - resampled.sum(axis=1) * mean**2
    boot = 1 - (resampled @ error)[total > 0] / total[total > 0]

    # The test: how often targets dealt anew among the mixtures are predicted as well.
    p = None
    if permutations:
        targets = np.column_stack([y, permuted_targets(problem, permutations, rng)])
        null = cross_fit(held_out, problem, targets, partitions[:1], rng)[0]
        null_scores = r_squared(targets, null, weights)
        p = float((1 + (null_scores[1:] >= null_scores[0]).sum()) / (1 + permutations))
    return {
        "nested_cv_r2": float(scores.mean()),
        "nested_cv_r2_sd": float(scores.std(ddof=1)) if repeats > 1 else 0.0,
        "nested_cv_r2_interval": np.quantile(boot, [0.025, 0.975]).tolist(),
        "spearman_cv": float(np.mean(ranks)) if ranks else None,
        "permutation_p": p,
        "held_out": predicted[0].tolist(),
        "partitions": repeats,
        "permutations": permutations,
    }


def leave_one_source_out(
    held_out: Callable[..., np.ndarray], problem: Problem, runs: RunTable, seed: int
) -> dict[str, dict[str, Any]]:
    """Fits, choice included, without each source in turn and predicts the runs that contain it.

    Where fewer runs than regressors + 2 are without the source, the half of the runs with the smallest shares of it
    stands in for them; `largest_training_share` says how much of it they still contain.
    """
    results = {}
    needed = problem.x.shape[1] + 1
    for source, share in zip(runs.sources, (runs.shares.T if runs.shares is not None else [])):
        train = share <= 0
        if len(np.unique(problem.mixtures[train])) < needed:
            train = share <= np.median(share)
        if len(np.unique(problem.mixtures[train])) < needed or (~train).sum() < 3:
            continue
        training = np.where(train, problem.weights, 0.0)
        rng = np.random.default_rng([seed, 2])
        predicted = held_out(problem, problem.y[:, None], training[None], rng)[0, ~train, 0]
        results[source] = {
            "r2": float(r_squared(problem.y[~train, None], predicted[:, None], problem.weights[~train])[0]),
            "spearman": spearman(predicted, problem.y[~train]),
            "train_runs": int(train.sum()),
            "test_runs": int((~train).sum()),
            "largest_training_share": float(share[train].max()),
        }
    return results


def other_evaluation_sets(
    losses: dict[str, np.ndarray], predicted: np.ndarray, log_target: bool, weights: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Compares the held-out predictions with other evaluation sets, whose level may differ but not their slope."""
    results = {}
    for name, loss in losses.items():
        y = np.log(loss) if log_target else loss
        shifted = predicted + np.average(y - predicted, weights=weights)
        if np.ptp(y) > 0:
            r2 = r_squared(y[:, None], shifted[:, None], weights)[0]
            results[name] = {"r2": float(r2), "spearman": spearman(predicted, y)}
    return results


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
