"""Two models' scores on the same questions: their difference, paired, with an interval over questions."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr

from ..errors import InstructMineError
from .intervals import Clusters, bootstrap, clustered, codes_of, objects


RESAMPLES = 5000
# Half a question in each cell of right and wrong (Agresti & Min 2005): else the interval is far too short where few
# questions tell the models apart.
_ADDED = ((1.0, 0.5), (-1.0, 0.5), (0.0, 1.0))


@dataclass(frozen=True)
class ScoreDifference:
    """Score of one model less that of another on the same questions, in the unit of the scores.

    Attributes:
        a (`float`): Mean score of the first model.
        b (`float`): Mean score of the second.
        estimate (`float`): `a` less `b`.
        low (`float`): Lower end of the bootstrap interval over questions, or over groups of them.
        high (`float`): Upper end of it.
        p (`float`): Two-sided p of no difference, by Student's t over questions or groups.
        questions (`int`): Questions with both scores.
        clusters (`int`): Groups of them; as many as questions where none are given.
        unusable (`int`): Questions without one of the scores; they are in no number.
        only_a (`int`, *optional*): Questions that the first alone got right, where scores are 0 and 1.
        only_b (`int`, *optional*): Questions that the second alone got right.
        mcnemar (`float`, *optional*): McNemar's exact two-sided p (1947). `None` where scores are not 0 and 1, or
            where questions come in groups, of which the test knows nothing.
        confidence (`float`): Of the interval.
    """

    a: float
    b: float
    estimate: float
    low: float
    high: float
    p: float
    questions: int
    clusters: int
    unusable: int
    only_a: int | None = None
    only_b: int | None = None
    mcnemar: float | None = None
    confidence: float = 0.95

    def __str__(self) -> str:
        shown = f"{self.estimate:+.4f} [{self.low:+.4f}, {self.high:+.4f}], p = {self.p:.3g}"
        return shown if self.mcnemar is None else f"{shown}, McNemar's p = {self.mcnemar:.3g}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: a number that is not known is null."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


def paired_scores(
    a: Any, b: Any, clusters: Any = None, seed: int = 0, *, resamples: int = RESAMPLES, confidence: float = 0.95
) -> ScoreDifference:
    """Compares two models by their scores of the same questions (Miller 2024, arXiv 2411.00640).

    Args:
        a (`Sequence[float]` of shape `(questions,)`): Scores of the first model; NaN where there is none.
        b (`Sequence[float]` of shape `(questions,)`): Scores of the second on the same questions.
        clusters (`Sequence` of length `questions`, *optional*): The group of each question, where several are about
            one text or of one conversation.
        seed (`int`, defaults to 0): Of the bootstrap.
        resamples (`int`, defaults to 5,000): Of the bootstrap.
        confidence (`float`, defaults to 0.95): Of the interval.

    Returns:
        [`ScoreDifference`]

    Raises:
        `InstructMineError`: Where the numbers of scores differ, or fewer than two questions have both.
    """
    one, other = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if one.shape != other.shape or one.ndim != 1:
        raise InstructMineError(
            f"scores of {one.shape} and {other.shape} questions cannot be paired; score the same ones"
        )
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < 2:
        raise InstructMineError(f"{int(both.sum())} questions have scores of both models; two are needed at the least")
    codes = codes_of((np.arange(len(one)) if clusters is None else objects(clusters))[both])
    one, other = one[both], other[both]
    sums = clustered(one - other, codes)
    binary = bool(np.isin([one, other], (0, 1)).all())
    low, high, p = _interval(sums, binary, seed, resamples, confidence)
    only_a, only_b = (int(((x == 1) & (y == 0)).sum()) for x, y in ((one, other), (other, one)))
    return ScoreDifference(
        a=float(one.mean()),
        b=float(other.mean()),
        estimate=sums.mean,
        low=low,
        high=high,
        p=p,
        questions=len(one),
        clusters=len(sums.sums),
        unusable=int((~both).sum()),
        only_a=only_a if binary else None,
        only_b=only_b if binary else None,
        mcnemar=_mcnemar(only_a, only_b) if binary and len(sums.sums) == len(one) else None,
        confidence=confidence,
    )


def _interval(
    sums: Clusters, binary: bool, seed: int, resamples: int, confidence: float
) -> tuple[float, float, float]:
    """Ends of the interval, and p. Where nothing is known of the spread, the interval is infinite and p is 1."""
    error = math.sqrt(sums.variance) if sums.df >= 1 else 0.0
    if not error and (sums.df < 1 or sums.mean):
        return -math.inf, math.inf, 1.0
    low, high = bootstrap(sums, seed, confidence, resamples, _ADDED if binary else ())
    return low, high, 2 * float(stdtr(sums.df, -abs(sums.mean) / error)) if error else 1.0


def _mcnemar(only_a: int, only_b: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
