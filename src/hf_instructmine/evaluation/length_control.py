"""The win rate at equal length: a logistic regression on the difference in length."""

import math
import warnings

import numpy as np
from scipy.special import expit, stdtrit

from .intervals import Estimate, unknown


ENOUGH = 10  # questions on either side: ten events a regressor (Peduzzi et al. 1996)


def length_controlled(
    scores: np.ndarray, length_a: np.ndarray, length_b: np.ndarray, codes: np.ndarray, confidence: float = 0.95
) -> Estimate:
    """The win rate that the judge would give at equal length.

    A logistic regression of the score on tanh of the difference in length over its SD, predicted at difference 0:
    AlpacaEval 2's without the difficulties of its own prompts (Dubois et al. 2024, arXiv 2404.04475). A tie is half a
    win. The interval is of the regression's covariance between questions, with Student's t.

    Args:
        scores (`np.ndarray` of shape `(pairs,)`): 1 where A is better, 0 where B is, 0.5 for a tie.
        length_a (`np.ndarray` of shape `(pairs,)`): Length of A's answers, in any unit.
        length_b (`np.ndarray` of shape `(pairs,)`): Length of B's, in the same unit.
        codes (`np.ndarray` of shape `(pairs,)`): The question of each pair, as integers from 0.
        confidence (`float`, defaults to 0.95): Of the interval.

    Returns:
        [`Estimate`]: Not known where lengths are missing or their differences all alike, where A or B wins or ties on
        fewer than ten questions, and where length alone separates wins from losses.
    """
    difference = np.asarray(length_a, dtype=float) - np.asarray(length_b, dtype=float)
    if not np.isfinite(difference).all():
        return unknown(f"{int((~np.isfinite(difference)).sum())} pairs have no lengths")
    spread = difference.std()
    if not spread > 0:
        return unknown("all pairs have the same difference in length")
    longer = np.tanh(difference / spread)
    for name, chosen in (("the model", scores > 0), ("the baseline", scores < 1)):
        questions = len(set(codes[chosen].tolist()))
        if questions < ENOUGH:
            return unknown(f"{name} wins or ties on {questions} questions, {ENOUGH} are needed")
    if not _overlap(longer[scores > 0], longer[scores < 1]):
        return unknown("length alone separates wins from losses")
    intercept, error = _intercept(scores, longer, codes)
    half = float(stdtrit(int(codes.max()), (1 + confidence) / 2)) * error
    apart = longer.min() > 0 or longer.max() < 0
    note = f"extrapolated: {'A' if longer.min() > 0 else 'B'} is longer in every pair" if apart else ""
    value, low, high = (float(expit(x)) for x in (intercept, intercept - half, intercept + half))
    return Estimate(value, low, high, note)


def _overlap(won: np.ndarray, lost: np.ndarray) -> bool:
    """Whether a logistic regression on one regressor has an estimate (Silvapulle 1981): the ranges of it where A can
    be better and where B can have to share more than an end. A tie is in both."""
    if not len(won) or not len(lost):
        return False
    (a, b), (c, d) = (won.min(), won.max()), (lost.min(), lost.max())
    if a == b or c == d:
        return bool(a == b == c == d or (c < a < d if a == b else a < c < b))
    return bool(max(a, c) < min(b, d))


def _intercept(scores: np.ndarray, longer: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """Log odds at equal length, and their standard error by leaving out one question at a time.

    Each is left out by one Newton step, which is the covariance CR3 (Bell & McCaffrey 2002): the usual one of clusters
    is too small where few questions decide.
    """
    import statsmodels.api as sm

    regressors = np.column_stack([np.ones_like(longer), longer])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of separation, which is looked at before
        fit = sm.GLM(scores, regressors, family=sm.families.Binomial()).fit()
    residuals, weights = scores - fit.fittedvalues, fit.fittedvalues * (1 - fit.fittedvalues)
    questions = int(codes.max()) + 1
    scored = np.column_stack([np.bincount(codes, residuals * column) for column in regressors.T])
    known = np.empty((questions, 2, 2))
    for i, one in enumerate(regressors.T):
        for j, other in enumerate(regressors.T):
            known[:, i, j] = np.bincount(codes, weights * one * other)
    moved = np.linalg.solve(known.sum(axis=0) - known, scored[:, :, None])[:, 0, 0]
    return float(fit.params[0]), math.sqrt((questions - 1) / questions * float((moved**2).sum()))
