"""Loss as a function of the subset's size: a Gaussian process over log size, and the sizes that may be the best one.

The process has an unknown mean, a Matérn 5/2 kernel of unknown scale and length, and noise of unknown variance
(Rasmussen & Williams, 2006, chapters 2 and 4). None of the four is set to a best guess: mean and scale are integrated
out, length and noise averaged over with their posterior weights. So a few runs that happen to lie on a smooth line do
not make the curve look certain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InstructMineError
from ..outputs.shown import Shown


if TYPE_CHECKING:
    from sklearn.gaussian_process.kernels import Matern

MIN_SIZES = 5
# Points of the fine grid, posterior draws of the curve, and values of length and noise that are averaged over.
_GRID, _DRAWS, _LENGTHS, _NOISES = 101, 2000, 12, 12
# Noise variance over that of the curve: from all but none to a curve that cannot be seen.
_NOISE_RATIOS = (1e-3, 1e2)
# In units of the whole range of log sizes.
_LONGEST = 2.0


@dataclass(repr=False)
class SizeCurve(Shown):
    """A fitted curve, on a fine grid of sizes.

    Attributes:
        sizes (`np.ndarray` of shape `(m,)`): From the smallest to the largest size tried, evenly in log size.
        mean (`np.ndarray` of shape `(m,)`): Expected loss, nats.
        low (`np.ndarray` of shape `(m,)`): Lower end of the pointwise interval of the loss.
        high (`np.ndarray` of shape `(m,)`): Upper end of it.
        as_good (`np.ndarray` of shape `(m,)`): Probability that the loss there is at most that at `best`.
        minimal (`np.ndarray` of shape `(m,)`): Probability that the least loss is there; sums to 1.
        best (`int`): Size of least expected loss.
        ranges (`list[tuple[int, int]]`): Sizes that cannot be told apart from the best, ascending.
        noise (`float`): Posterior median of the SD between runs of one size, nats.
        confidence (`float`): Of the ranges and of the interval.
    """

    sizes: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    as_good: np.ndarray
    minimal: np.ndarray
    best: int
    ranges: list[tuple[int, int]]
    noise: float
    confidence: float

    def _line(self) -> str:
        alike = ", ".join(f"{low:,} to {high:,}" for low, high in self.ranges)
        return f"lowest at {self.best:,} rows; not told apart from it at {self.confidence:.0%}: {alike}"

    @property
    def share(self) -> float:
        """Part of the range of log sizes that `ranges` cover, 0 to 1."""
        covered = sum(np.log(high / low) for low, high in self.ranges)
        return float(covered / np.log(self.sizes[-1] / self.sizes[0]))


def fit_size_curve(
    sizes: Sequence[int], losses: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> SizeCurve:
    """Fits the curve and finds the sizes that cannot be told apart from the best.

    A size is one of them where the curve lies there at or below its value at the best size with a probability of at
    least `1 - confidence`. These alone would miss the true best size more often than that, as it may be any of many:
    so the bound is lowered until the sizes above it hold the minimum of the curve with a probability of `confidence`.

    Args:
        sizes (`Sequence[int]`): One per run, at least 5 different ones.
        losses (`Sequence[float]`): Nats, of the same runs.
        confidence (`float`, defaults to 0.95): Between 0 and 1.
        seed (`int`, defaults to 0): Of the posterior draws.

    Raises:
        [`InstructMineError`]: Where the sizes are too few, or a loss is not finite.
    """
    tried, y = np.asarray(sizes), np.asarray(losses, dtype=np.float64)
    distinct = np.unique(tried)
    if len(distinct) < MIN_SIZES:
        raise InstructMineError(
            f"runs of {len(distinct)} different sizes do not show a curve: {MIN_SIZES} sizes are needed"
        )
    if not np.isfinite(y).all():
        raise InstructMineError("a loss is not finite: leave that run out")
    if not 0 < confidence < 1:
        raise InstructMineError(f"confidence must be between 0 and 1, not {confidence}")
    start, reach = np.log(distinct[0]), np.log(distinct[-1] / distinct[0])
    x = (np.log(tried) - start) / reach
    grid = np.linspace(0, 1, _GRID)
    # What is narrower than half the widest gap between the sizes, no run need have met.
    lengths = np.geomspace(np.diff((np.log(distinct) - start) / reach).max() / 2, _LONGEST, _LENGTHS)
    scale = y.std() or 1.0
    draws, noise = _posterior_draws(x, (y - y.mean()) / scale, grid, lengths, np.random.default_rng(seed))
    draws = y.mean() + scale * draws
    mean = draws.mean(axis=0)
    best = int(mean.argmin())
    as_good = (draws <= draws[:, [best]]).mean(axis=0)
    minimal = np.bincount(draws.argmin(axis=1), minlength=_GRID) / len(draws)
    numbers = np.exp(start + reach * grid)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    kept = as_good >= min(1 - confidence, _bound(as_good, minimal, confidence))
    return SizeCurve(
        numbers, mean, low, high, as_good, minimal, round(numbers[best]), _ranges(numbers, kept),
        float(scale * np.median(noise)), confidence,
    )  # fmt: skip


def _bound(as_good: np.ndarray, minimal: np.ndarray, confidence: float) -> float:
    """The highest bound on `as_good` above which the minimum lies with probability `confidence`."""
    order = np.argsort(-as_good, kind="stable")
    enough = np.searchsorted(np.cumsum(minimal[order]), confidence - 1e-9)
    return float(as_good[order[enough]])


def _ranges(numbers: np.ndarray, kept: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], kept.astype(int), [0]])))
    return [(round(numbers[first]), round(numbers[end - 1])) for first, end in edges.reshape(-1, 2)]


def _posterior_draws(
    x: np.ndarray, y: np.ndarray, grid: np.ndarray, lengths: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws of the curve on the grid, and of the SD of the noise."""
    from sklearn.gaussian_process.kernels import Matern

    x, grid = x[:, None], grid[:, None]
    evidence, fits = [], []
    for length in lengths:
        kernel = Matern(length, nu=2.5)
        between = kernel(x)
        for ratio in np.geomspace(*_NOISE_RATIOS, _NOISES):
            fit = _Fit(x, y, between, kernel, ratio)
            fits.append(fit)
            evidence.append(fit.log_evidence)
    weights = np.exp(np.array(evidence) - max(evidence))
    counts = rng.multinomial(_DRAWS, weights / weights.sum())
    drawn = [fit.draw(grid, count, rng) for fit, count in zip(fits, counts) if count]
    return np.vstack([curves for curves, _ in drawn]), np.concatenate([noise for _, noise in drawn])


class _Fit:
    """The posterior at one length scale and one ratio of noise to signal variance, both flat in their logarithm; the
    mean's prior is flat, the variance's 1 / variance."""

    def __init__(self, x: np.ndarray, y: np.ndarray, between: np.ndarray, kernel: "Matern", ratio: float):
        self.x, self.kernel, self.ratio, self.n = x, kernel, ratio, len(x)
        self.factor = np.linalg.cholesky(between + ratio * np.eye(self.n))
        ones = np.ones(self.n)
        self.white_ones = np.linalg.solve(self.factor, ones)
        self.precision = self.white_ones @ self.white_ones  # of the mean
        white = np.linalg.solve(self.factor, y)
        self.mean = self.white_ones @ white / self.precision
        self.white = white - self.mean * self.white_ones
        self.squares = self.white @ self.white
        self.log_evidence = (
            -np.log(np.diag(self.factor)).sum()
            - np.log(self.precision) / 2
            - (self.n - 1) / 2 * np.log(max(self.squares, 1e-300))
        )

    def draw(self, grid: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        to_runs = np.linalg.solve(self.factor, self.kernel(self.x, grid))
        expected = self.mean + to_runs.T @ self.white
        unexplained = 1 - self.white_ones @ to_runs  # of the mean, which is not known either
        covariance = self.kernel(grid) - to_runs.T @ to_runs
        covariance += np.outer(unexplained, unexplained) / self.precision
        root = np.linalg.cholesky(covariance + 1e-7 * np.eye(len(grid)))
        variance = self.squares / rng.chisquare(self.n - 1, count)
        draws = expected + np.sqrt(variance)[:, None] * (rng.standard_normal((count, len(grid))) @ root.T)
        return draws, np.sqrt(variance * self.ratio)
