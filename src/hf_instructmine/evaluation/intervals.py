"""Estimates with intervals over questions: pairs and turns of one question are one cluster."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv, ndtr, stdtrit


_CHUNK = 1000  # resamples held at a time
_FEW = 5  # scores on one side below which Wilson's interval can be too short


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, or the reason why it is not known.

    Attributes:
        value (`float`): The estimate; NaN where it is not known.
        low (`float`): Lower end of the interval; NaN where it is not known.
        high (`float`): Upper end of the interval; NaN where it is not known.
        note (`str`): Why the estimate is not known, or what has to be known to read it. Mostly empty.
    """

    value: float
    low: float
    high: float
    note: str = ""

    @property
    def known(self) -> bool:
        """Whether there is a number."""
        return not math.isnan(self.value)

    def __str__(self) -> str:
        if not self.known:
            return f"not known: {self.note}"
        shown = f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"
        return f"{shown} ({self.note})" if self.note else shown

    def to_dict(self) -> dict[str, float | str | None]:
        """As JSON has it: a number that is not known is null."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {**{name: None if math.isnan(x) else float(x) for name, x in numbers.items()}, "note": self.note}


def unknown(reason: str) -> Estimate:
    """An estimate that is not known, for this reason."""
    return Estimate(math.nan, math.nan, math.nan, reason)


@dataclass(frozen=True)
class Clusters:
    """Sums of a score, or of several, within questions.

    Attributes:
        sums (`np.ndarray` of shape `(clusters,)`): Σ of the score of each question.
        counts (`np.ndarray` of shape `(clusters,)`): How many scores each question has.
    """

    sums: np.ndarray
    counts: np.ndarray

    @property
    def mean(self) -> float:
        """Of all scores: each pair counts the same, not each question."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def df(self) -> int:
        """Degrees of freedom: the number of questions less one."""
        return len(self.sums) - 1

    @property
    def variance(self) -> float:
        """Of the mean, between questions (a ratio of sums: Cochran 1977, section 6.3). NaN where there is one."""
        if self.df < 1:
            return math.nan
        residuals = self.sums - self.mean * self.counts
        return float((residuals**2).sum() * (self.df + 1) / self.df / self.counts.sum() ** 2)


def clustered(scores: np.ndarray, codes: np.ndarray) -> Clusters:
    """Sums up scores, of shape `(pairs,)`, within their questions, given as integers from 0."""
    return Clusters(np.bincount(codes, weights=scores), np.bincount(codes).astype(float))


def objects(values: Any) -> np.ndarray:
    """Any hashable values, tuples too, as an array of one dimension."""
    found = np.empty(len(values), dtype=object)
    found[:] = list(values)
    return found


def codes_of(values: np.ndarray) -> np.ndarray:
    """Integers from 0 for any hashable values, in the order in which these first come."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values.tolist()], dtype=int)


def wilson(mean: float, count: float, quantile: float) -> tuple[float, float]:
    """Wilson's interval (1927) of a mean of scores from 0 to 1 that is as exact as `count` independent 0/1 ones."""
    wide = quantile**2 / count
    middle = (mean + wide / 2) / (1 + wide)
    half = quantile / (1 + wide) * math.sqrt(max(mean * (1 - mean), 0) / count + wide / (4 * count))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _interval(mean: float, count: float, quantile: float) -> tuple[float, float]:
    """Wilson's interval, but for an end with few scores beyond it: that is Clopper & Pearson's (1934). Wilson's alone
    covers as little as 84 % where the mean is next to 0 or 1 (Brown, Cai & DasGupta 2001)."""
    low, high = wilson(mean, count, quantile)
    tail, for_it, against = float(ndtr(-quantile)), count * mean, count * (1 - mean)
    if for_it < _FEW:
        low = min(low, float(betaincinv(for_it, against + 1, tail))) if for_it > 0 else 0.0
    if against < _FEW:
        high = max(high, float(betaincinv(for_it + 1, against, 1 - tail))) if against > 0 else 1.0
    return low, high


def effective_count(clusters: Clusters) -> float:
    """How many independent 0/1 scores would tell the mean as well as these (Korn & Graubard 1998).

    Where all questions agree, their spread says nothing, and each counts as one.
    """
    mean, variance = clusters.mean, clusters.variance
    return mean * (1 - mean) / variance if variance > 0 and 0 < mean < 1 else float(len(clusters.sums))


def share(clusters: Clusters, confidence: float) -> Estimate:
    """A mean of scores from 0 to 1, with Wilson's interval at the effective number of scores and Student's t.

    It stays within 0 and 1, and it has a width where all scores are alike. docs/judge.md says how often it holds.
    """
    if clusters.df < 1:
        return Estimate(clusters.mean, 0.0, 1.0, "one question")
    quantile = float(stdtrit(clusters.df, (1 + confidence) / 2))
    return Estimate(clusters.mean, *_interval(clusters.mean, effective_count(clusters), quantile))


def bootstrap(
    clusters: Clusters,
    seed: int,
    confidence: float,
    resamples: int,
    added: Sequence[tuple[float, float]] = (),
) -> tuple[float, float]:
    """Percentiles of the mean in a bootstrap over questions, expanded as Student's t asks (Hesterberg 2015).

    Args:
        clusters ([`Clusters`]): The scores by question, of two questions at the least.
        seed (`int`): Of the draws.
        confidence (`float`): Of the interval.
        resamples (`int`): How many times as many questions are drawn with replacement.
        added (`Sequence[tuple[float, float]]`, *optional*): Questions that are thought of as seen besides: the score
            of their pairs, and how many such questions. Without them, what was not seen is taken to be impossible.

    Returns:
        `tuple[float, float]`: The ends of the interval.
    """
    rng, questions = np.random.default_rng(seed), len(clusters.sums)
    usual = clusters.counts.mean()
    sums = np.concatenate([clusters.sums, [score * usual for score, _ in added]])
    counts = np.concatenate([clusters.counts, np.full(len(added), usual)])
    weights = np.concatenate([np.ones(questions), [weight for _, weight in added]])
    size = round(weights.sum())
    means = []
    for start in range(0, resamples, _CHUNK):
        drawn = rng.multinomial(size, weights / weights.sum(), size=min(_CHUNK, resamples - start))
        means.append((drawn @ sums) / (drawn @ counts))
    quantile = stdtrit(questions - 1, (1 + confidence) / 2) * math.sqrt(questions / (questions - 1))
    low, high = np.quantile(np.concatenate(means), [ndtr(-quantile), ndtr(quantile)])
    return float(low), float(high)
