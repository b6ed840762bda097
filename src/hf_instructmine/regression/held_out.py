"""How well a rule predicts runs that it was not fitted on: other mixtures, other sources, other evaluation sets."""

from collections.abc import Callable
from typing import Any

import numpy as np

from . import choice
from .choice import FOLDS, Problem, assign_folds, bootstrap_weights, cross_fit, permuted_targets, r_squared
from .runs import RunTable


# Random splits that leaving a source out is compared with: enough for a p of 0.05 after Bonferroni over the sources.
RANDOM_SPLITS, SPLITS_PER_SOURCE = 200, 40


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Rank correlation, or `None` where one side is constant."""
    from scipy.stats import spearmanr

    return None if np.ptp(a) == 0 or np.ptp(b) == 0 else float(spearmanr(a, b).statistic)


def skill(y: np.ndarray, predicted: np.ndarray, baseline: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """1 − Σ w (y − ŷ)² / Σ w (y − b)² over the last axis but one: how much better than a baseline b; NaN is left out.

    Args:
        y (`np.ndarray` of shape (n, m)): What was measured, of m targets.
        predicted (`np.ndarray` of shape (…, n, m)): What a rule predicts.
        baseline (`np.ndarray` of shape (…, n, m)): What is predicted without it, NaN in the same places.
        weights (`np.ndarray` of shape (n,)): Of the runs.
    """
    error, without = (np.nansum(weights[:, None] * (y - p) ** 2, axis=-2) for p in (predicted, baseline))
    return 1 - error / np.maximum(without, 1e-300)


def held_out_statistics(
    held_out: Callable[..., np.ndarray], problem: Problem, repeats: int, permutations: int, seed: int
) -> dict[str, Any]:
    """Nested cross-validation over several partitions, its spread and interval, and the permutation test.

    Where there are columns in every rule, what the candidates add to them is measured too: their fit to the same
    training rows takes the place of the mean, and the permutation test is of that.
    """
    rng = np.random.default_rng([seed, 1])
    y, weights, alone = problem.y, problem.weights, problem.without_candidates()
    partitions = [assign_folds(problem.mixtures, FOLDS, rng) for _ in range(repeats)]
    predicted = cross_fit(held_out, problem, y[:, None], partitions, rng)[..., 0]
    baseline = cross_fit(choice.held_out, alone, y[:, None], partitions, rng)[..., 0]
    scores = r_squared(np.tile(y[:, None], repeats), predicted.T, weights)
    ranks = [r for r in (spearman(p, y) for p in predicted) if r is not None]

    # The intervals: the R² of resampled mixtures, at the held-out errors.
    error, without = (((y - p) ** 2).mean(axis=0) for p in (predicted, baseline))
    resampled = bootstrap_weights(problem, 2000, rng)
    resampled = resampled[(resampled > 0).sum(axis=1) > 1]
    mean = resampled @ y / resampled.sum(axis=1)
    total = resampled @ y**2 - resampled.sum(axis=1) * mean**2

    # The test: how often targets dealt anew among the mixtures are predicted as well.
    p = None
    if permutations:
        targets = np.column_stack([y, permuted_targets(problem, permutations, rng)])
        null = cross_fit(held_out, problem, targets, partitions[:1], rng)[0]
        if problem.forced > 1:
            null_scores = skill(
                targets, null, cross_fit(choice.held_out, alone, targets, partitions[:1], rng)[0], weights
            )
        else:
            null_scores = r_squared(targets, null, weights)
        p = float((1 + (null_scores[1:] >= null_scores[0]).sum()) / (1 + permutations))
    found = {
        "nested_cv_r2": float(scores.mean()),
        "nested_cv_r2_sd": float(scores.std(ddof=1)) if repeats > 1 else 0.0,
        "nested_cv_r2_interval": _interval(resampled, error, total),
        "spearman_cv": float(np.mean(ranks)) if ranks else None,
        "permutation_p": p,
        "held_out": predicted[0].tolist(),
        "partitions": repeats,
        "permutations": permutations,
    }
    if problem.forced > 1:
        added = skill(np.tile(y[:, None], repeats), predicted.T, baseline.T, weights)
        found |= {
            "partial_r2": float(added.mean()),
            "partial_r2_interval": _interval(resampled, error, resampled @ without),
        }
    return found


def _interval(resampled: np.ndarray, error: np.ndarray, total: np.ndarray) -> list[float]:
    """95 % of the R² over resamples, by each run's squared error and each resample's sum of squares without a rule."""
    boot = 1 - (resampled @ error)[total > 0] / total[total > 0]
    return np.quantile(boot, [0.025, 0.975]).tolist()


def leave_one_source_out(
    held_out: Callable[..., np.ndarray], problem: Problem, runs: RunTable, seed: int, compare: bool = False
) -> dict[str, dict[str, Any]]:
    """Fits, choice included, without each source in turn and predicts the runs that contain it.

    Where fewer runs than regressors + 2 are without the source, the half of the runs with the smallest shares of it
    stands in for them; `largest_training_share` says how much of it they still contain. Half of the runs often fit
    badly whatever they are, so the same is done with random halves.

    Args:
        compare (`bool`, *optional*, defaults to `False`): Whether to split at random too, into as many mixtures.
    """
    results: dict[str, dict[str, Any]] = {}
    needed = problem.forced + problem.longest + 1
    at_random: dict[int, np.ndarray] = {}
    for source, share in zip(runs.sources, (runs.shares.T if runs.shares is not None else [])):
        train = share <= 0
        if len(np.unique(problem.mixtures[train])) < needed:
            train = share <= np.median(share)
        mixtures = len(np.unique(problem.mixtures[train]))
        if mixtures < needed or (~train).sum() < 3:
            continue
        predicted, found = _apart(held_out, problem, train[None], np.random.default_rng([seed, 2]))
        predicted = predicted[0, ~train, 0]
        results[source] = {
            "r2": float(r_squared(problem.y[~train, None], predicted[:, None], problem.weights[~train])[0]),
            "skill": float(found[0]),
            "as_bad": None,
            "spearman": spearman(predicted, problem.y[~train]),
            "train_runs": int(train.sum()),
            "test_runs": int((~train).sum()),
            "largest_training_share": float(share[train].max()),
        }
        if compare:
            if mixtures not in at_random:
                rng = np.random.default_rng([seed, 3, mixtures])
                at_random[mixtures] = _random_splits(held_out, problem, mixtures, len(runs.sources), rng)
            worse = int((at_random[mixtures] <= found[0]).sum())
            results[source]["as_bad"] = (1 + worse) / (1 + len(at_random[mixtures]))
    return results


def _random_splits(
    held_out: Callable[..., np.ndarray], problem: Problem, mixtures: int, sources: int, rng: np.random.Generator
) -> np.ndarray:
    """The skill of each of many fits to that many mixtures, drawn at random, on the others."""
    order = np.stack(
        [rng.permutation(problem.num_mixtures) for _ in range(max(RANDOM_SPLITS, SPLITS_PER_SOURCE * sources))]
    )
    return _apart(held_out, problem, (order < mixtures)[:, problem.mixtures], rng)[1]


def _apart(
    held_out: Callable[..., np.ndarray], problem: Problem, train: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Fits to the marked runs of each split and predicts the others.

    Returns:
        The predictions, shape (splits, n, 1), NaN where a run was trained on, and their skill over the mean of the
        training runs (over the columns in every rule, fitted to these), shape (splits,).
    """
    training, y = np.where(train, problem.weights, 0.0), problem.y[:, None]
    predicted = held_out(problem, y, training, rng)
    baseline = choice.held_out(problem.without_candidates(), y, training, rng)
    return predicted, skill(y, predicted, baseline, problem.weights)[:, 0]


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
