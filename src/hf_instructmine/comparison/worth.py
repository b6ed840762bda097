"""How many random tokens is a choice worth? Its loss is read off the curve of random choices of several amounts."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import isotonic_regression

from ..errors import InstructMineError
from ..outputs.shown import Shown
from .statistics import LEVEL, compare_parts, paired


_STEPS = 8  # looked at for each doubling, before the ends of the interval are narrowed down
_HALVINGS = 6  # of a step: the ends are found within 0.2 %


@dataclass(frozen=True, repr=False)
class Worth(Shown):
    """A choice is as good as so many times as many random tokens; prints as that phrase. Made by [`worth`].

    Attributes:
        times (`float`, *optional*): The multiple of the budget; infinite beyond the most that was measured, 0 below
            the least. None where it is not known.
        low (`float`, *optional*): Lower end of its interval, in the same way.
        high (`float`, *optional*): Upper end of it.
        least (`float`): The smallest multiple that random was measured at.
        most (`float`): The largest.
        confidence (`float`): Of the interval.
        unknown (`str`): Why it is not known.
    """

    times: float | None
    low: float | None
    high: float | None
    least: float
    most: float
    confidence: float = 1 - LEVEL
    unknown: str = ""

    def __str__(self) -> str:
        if self.times is None or self.low is None or self.high is None:
            return f"not known: {self.unknown}"
        told = f"as good as {self._amount(self.times)} as many random tokens, {self.confidence * 100:g} %"
        if self.low == self.high:
            return f"{told} sure"
        return f"{told} {self._amount(self.low)} to {self._amount(self.high)}"

    @property
    def short(self) -> str:
        """For a cell of a table: the multiple, and its interval."""
        if self.times is None or self.low is None or self.high is None:
            return "not known"
        return f"{self._amount(self.times)} ({self._amount(self.low)} … {self._amount(self.high)})"

    def _amount(self, times: float) -> str:
        if times == math.inf:
            return f"more than {self.most:g} ×"
        if times == 0:
            return f"less than {self.least:g} ×"
        return f"{times:.2g} ×" if times < 99.5 else f"{times:.0f} ×"


def worth(
    strategy: np.ndarray,
    random_at: Mapping[float, np.ndarray],
    tokens: np.ndarray,
    *,
    confidence: float = 1 - LEVEL,
) -> Worth:
    """Says how many random tokens a strategy's choice is worth.

    The curve is random's loss against log₂ of the multiple, made to fall by isotonic regression (neighbouring amounts
    that rise are averaged) and straight between the amounts measured. The strategy's loss is read off it.

    The interval holds all multiples whose random loss [`~statistics.compare_parts`] does not tell from the strategy's
    (a test inverted, as Fieller 1954 does for ratios). Rows, seeds and evaluation examples are all in it, and it holds
    1 where, and only where, the strategy is not shown to differ from random, without Holm's correction. Where the
    largest amount of random rows is not better than the smallest by the same test, nothing can be read off.

    Args:
        strategy (`np.ndarray` of shape `(parts, examples)`): Σ NLL of each evaluation example in nats, at the budget.
        random_at (`Mapping[float, np.ndarray]`): The same for random rows, by the multiple of the budget: 1.0, and
            others on both sides of it.
        tokens (`np.ndarray` of shape `(examples,)`): Response tokens of each example.
        confidence (`float`, defaults to 0.95): Of the interval.

    Returns:
        [`Worth`]

    Raises:
        [`InstructMineError`]: Where random was not measured at the budget itself.
    """
    multiples = np.array(sorted(random_at), dtype=float)
    if 1.0 not in multiples:
        raise InstructMineError("random has to be measured at the budget itself too: random_at needs 1.0")
    nll = np.stack([np.asarray(random_at[m], dtype=float) for m in multiples])
    least, most = float(multiples[0]), float(multiples[-1])
    if compare_parts(nll[-1], nll[0], tokens, confidence=confidence).high >= 0:
        unknown = "more random tokens did not lower the loss"
        return Worth(None, None, None, least, most, confidence, unknown)
    nll = _falling(nll)
    positions = np.log2(multiples)
    times = _read(nll.mean(axis=1).sum(axis=1), positions, float(strategy.mean(axis=0).sum()))
    grid = np.linspace(positions[0], positions[-1], 1 + math.ceil(_STEPS * (positions[-1] - positions[0])))
    if 0 < times < math.inf:
        grid = np.union1d(grid, np.log2(times))

    def alike(x: float) -> bool:
        found = paired(strategy - _between(nll, positions, x), tokens, confidence)
        return found.low <= 0 <= found.high

    inside = [k for k, x in enumerate(grid) if alike(x)]
    if not inside:  # better than the most, or worse than the least
        return Worth(times, times, times, least, most, confidence)
    first, last = inside[0], inside[-1]
    low = 0.0 if first == 0 else 2 ** _edge(alike, grid[first], grid[first - 1])
    high = math.inf if last == len(grid) - 1 else 2 ** _edge(alike, grid[last], grid[last + 1])
    return Worth(times, low, high, least, most, confidence)


def _edge(alike: Callable[[float], bool], inside: float, outside: float) -> float:
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if alike(middle) else (inside, middle)
    return float(inside)


def _falling(nll: np.ndarray) -> np.ndarray:
    """Averages neighbouring amounts until the losses fall; what is averaged keeps its parts and examples."""
    blocks = isotonic_regression(nll.mean(axis=1).sum(axis=1), increasing=False).blocks
    means = [nll[start:end].mean(axis=0) for start, end in pairwise(blocks)]
    return np.repeat(means, np.diff(blocks), axis=0)


def _between(nll: np.ndarray, positions: np.ndarray, x: float) -> np.ndarray:
    """Σ NLL at a multiple, straight between those measured."""
    k = min(int(np.searchsorted(positions, x, side="right")) - 1, len(positions) - 2)
    share = (x - positions[k]) / (positions[k + 1] - positions[k])
    return (1 - share) * nll[k] + share * nll[k + 1]


def _read(losses: np.ndarray, positions: np.ndarray, loss: float) -> float:
    if loss > losses[0]:
        return 0.0
    if loss < losses[-1]:
        return math.inf
    return float(2 ** np.interp(-loss, -losses, positions))
