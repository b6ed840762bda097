"""Estimating a rule's coefficients, by least squares after a choice of regressors, or by another model."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import choice, penalized
from .choice import Problem
from .diagnostics import InSample, least_squares_statistics


@dataclass
class Estimate:
    """The coefficients of u = (1, z), z being the standardised regressors, and how sure they are.

    Attributes:
        subset (`np.ndarray` of shape (candidates,)): Which candidates are in the rule.
        beta (`np.ndarray` of shape (k,) or `None`): The coefficients; `None` for AutoML.
        covariance (`np.ndarray` of shape (k, k) or `None`): Of the coefficients: robust, or the bootstrap's.
        gram_inverse (`np.ndarray` of shape (k, k) or `None`): (UᵀWU)⁻¹; for least squares only.
        draws (`np.ndarray` of shape (bootstraps, k) or `None`): The coefficients in each resample.
        residual_variance (`float`): Of one run about the rule.
        df (`int`): Degrees of freedom of its intervals.
        in_sample ([`InSample`]): In-sample statistics.
        compared (`np.ndarray` of shape (sets, candidates) or `None`): The sets of regressors that were compared.
        good (`np.ndarray` of shape (sets,) or `None`): Which of them are as good as the best.
        chosen_share (`np.ndarray` of shape (candidates,) or `None`): Share of resamples that choose each candidate.
        regressor: FLAML's regressor, for AutoML.
    """

    subset: np.ndarray
    beta: np.ndarray | None
    covariance: np.ndarray | None
    gram_inverse: np.ndarray | None
    draws: np.ndarray | None
    residual_variance: float
    df: int
    in_sample: InSample
    compared: np.ndarray | None = None
    good: np.ndarray | None = None
    chosen_share: np.ndarray | None = None
    regressor: Any = None


def estimate_least_squares(problem: Problem, bootstraps: int, rng: np.random.Generator) -> Estimate:
    """Chooses regressors and estimates by least squares."""
    y, training = problem.y[:, None], problem.weights[None]
    if problem.by_size:
        scores = choice.size_scores(problem, y, training, rng)[:, 0]
        scores = scores[..., 0] if problem.select == "cv" else scores
        compared, allowed = choice.best_sets(problem, y, training), np.isfinite(scores).all(axis=1)
    else:
        compared, allowed = problem.subsets, problem.allowed
        if problem.select == "cv":
            scores = np.stack([errors[0, :, 0] for errors in choice.fold_errors(problem, y, training, rng)])
        elif problem.select == "none":
            scores = np.zeros((1, 1))
        else:
            scores = choice.subset_scores(problem, y, training, rng)[:, 0]
    best, good = _best(problem.select, scores, allowed)
    subset = compared[best]
    x = problem.x[:, problem.columns(subset)]

    # The choice and the coefficients again, in resamples of whole mixtures.
    resamples = choice.bootstrap_weights(problem, bootstraps, rng)
    again = choice.chosen_sets(problem, y, resamples, rng)[:, 0] if bootstraps else compared[[best]]
    result, covariance, in_sample = least_squares_statistics(x, problem)
    return Estimate(
        subset=subset,
        beta=result.params,
        covariance=covariance,
        gram_inverse=result.normalized_cov_params,
        draws=choice.bootstrap_coefficients(problem, subset, resamples),
        residual_variance=float(result.mse_resid),
        # Intervals have the degrees of freedom of the mixtures: replicates tell of noise, not of slopes.
        df=problem.num_mixtures - x.shape[1],
        in_sample=in_sample,
        compared=compared,
        good=good,
        chosen_share=again.mean(axis=0),
    )


def estimate_model(model: str, problem: Problem, bootstraps: int, rng: np.random.Generator) -> Estimate:
    """Tunes and fits another model, on all candidates."""
    y, x = problem.y, problem.x
    regressor = penalized.tune(model, problem, y, problem.weights, rng)
    regressor = penalized.fit(regressor, x, y, problem.weights)
    fitted = np.ravel(regressor.predict(x[:, 1:]))
    beta = draws = covariance = None
    if model != "automl":
        beta = penalized.linear_coefficients(regressor, x.shape[1] - 1)
        resamples = choice.bootstrap_weights(problem, max(bootstraps, 2), rng)
        draws = penalized.bootstrap_coefficients(regressor, problem, resamples)
        covariance = np.cov(draws, rowvar=False)
    df = max(len(y) - x.shape[1], 1)
    return Estimate(
        subset=problem.subsets[0],
        beta=beta,
        covariance=covariance,
        gram_inverse=None,
        draws=draws,
        residual_variance=float(problem.weights @ (y - fitted) ** 2 / df),
        df=df,
        in_sample=InSample(
            r2=float(choice.r_squared(y[:, None], fitted[:, None], problem.weights)[0]),
            residuals=(y - fitted).tolist(),
            fitted=fitted.tolist(),
        ),
        regressor=regressor if model == "automl" else None,
    )


def _best(select: str, scores: np.ndarray, allowed: np.ndarray) -> tuple[int, np.ndarray]:
    """The best set of regressors, and which others are as good.

    As good is within one standard error of the difference of their errors over the folds, or within two units of an
    information criterion.
    """
    if select != "cv":
        total = np.where(allowed, scores[:, -1], np.inf)
        best = int(total.argmin())
        near = total <= total[best] + 2 if select in ("aic", "bic", "aicc") else np.arange(len(total)) == best
        return best, near
    partitions = choice.PARTITIONS
    total = np.where(allowed, scores.sum(axis=1), np.inf)
    best = int(total.argmin())
    worse = (np.where(allowed[:, None], scores, 0) - scores[best]).reshape(len(scores), partitions, -1)
    error = worse.std(axis=2, ddof=1).mean(axis=1) * np.sqrt(worse.shape[2])
    return best, (worse.sum(axis=2).mean(axis=1) <= error) & allowed
