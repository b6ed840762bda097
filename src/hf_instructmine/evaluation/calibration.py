"""What a judge is worth where people have judged too, and win rates corrected by it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from ..errors import InstructMineError
from .intervals import Clusters, Estimate, clustered, codes_of, effective_count, objects, unknown


@dataclass(frozen=True)
class Calibration:
    """How a judge's scores follow people's, on pairs that both have judged.

    Attributes:
        sensitivity (`float`): Mean score of the judge where people hold A the better: 1 where it always agrees.
        specificity (`float`): 1 less its mean score where they hold B the better.
        better (`float`): The number of independent pairs that the sensitivity is as exact as.
        worse (`float`): The same of the specificity.
        tied (`float`): Mean score of the judge where people see a tie, else NaN. The correction takes it to lie half
            way between the other two.
    """

    sensitivity: float
    specificity: float
    better: float
    worse: float
    tied: float = math.nan

    @classmethod
    def fit(
        cls, judge: Sequence[float] | np.ndarray, people: Sequence[float] | np.ndarray, questions: Any = None
    ) -> "Calibration":
        """Learns it from pairs that both have judged.

        Args:
            judge (`Sequence[float]` of shape `(pairs,)`): The judge's score of A: 1, 0.5 or 0. NaN is left out.
            people (`Sequence[float]` of shape `(pairs,)`): People's score of A.
            questions (`Sequence`, *optional*): The question of each pair. Each pair its own, if none are given.

        Returns:
            [`Calibration`]

        Raises:
            `InstructMineError`: Where people hold A the better nowhere, or B.
        """
        scores, truth = np.asarray(judge, dtype=float), np.asarray(people, dtype=float)
        codes = codes_of(np.arange(len(scores)) if questions is None else objects(questions))
        usable = np.isfinite(scores) & np.isfinite(truth)
        sides = []
        for verdict, name in ((1.0, "A"), (0.0, "B")):
            chosen = usable & (truth == verdict)
            if not chosen.any():
                raise InstructMineError(
                    f"nothing to calibrate on: people hold {name} the better in no pair; give pairs with both verdicts"
                )
            found = scores if verdict else 1 - scores
            sides.append(clustered(found[chosen], codes_of(codes[chosen])))
        tied = usable & (truth == 0.5)
        return cls(
            sensitivity=sides[0].mean,
            specificity=sides[1].mean,
            better=_count(sides[0]),
            worse=_count(sides[1]),
            tied=float(scores[tied].mean()) if tied.any() else math.nan,
        )

    @property
    def informative(self) -> float:
        """Sensitivity + specificity - 1, which is 1 for a judge that follows people, and 0 for one that guesses."""
        return self.sensitivity + self.specificity - 1

    def to_dict(self) -> dict[str, float | None]:
        """As JSON has it: a number that is not known is null."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


def _count(side: Clusters) -> float:
    return effective_count(side) if side.df >= 1 else 1.0


def corrected(scores: Clusters, calibration: Calibration, confidence: float = 0.95) -> Estimate:
    """The win rate that people would give, by what the judge says and how it follows people.

    Rogan and Gladen's estimate (1978), (rate + specificity - 1) / (sensitivity + specificity - 1), with the interval
    of Lang & Reiczigel (2014), as Lee et al. use it for judges (arXiv 2511.21140): it carries what is not known of
    sensitivity and specificity too. It is right where the judge follows people on these pairs as on those that it was
    calibrated on.

    Args:
        scores ([`Clusters`]): The judge's scores of A, by question.
        calibration ([`Calibration`]): Of the same judge.
        confidence (`float`, defaults to 0.95): Of the interval.

    Returns:
        [`Estimate`]

    Raises:
        `InstructMineError`: Where sensitivity + specificity - 1 is not above 0.
    """
    if not calibration.informative > 0:
        raise InstructMineError(
            f"no correction by this judge: sensitivity {calibration.sensitivity:.2f} + specificity "
            f"{calibration.specificity:.2f} - 1 is not above 0; leave it out or take a judge that agrees with people"
        )
    if scores.df < 1:
        return unknown("one question")
    z = float(stdtrit(scores.df, (1 + confidence) / 2))
    value = (scores.mean + calibration.specificity - 1) / calibration.informative
    count, better, worse = effective_count(scores), calibration.better, calibration.worse
    rate = (count * scores.mean + z**2 / 2) / (count + z**2)
    sensitivity = (better * calibration.sensitivity + 1) / (better + 2)
    specificity = (worse * calibration.specificity + 1) / (worse + 2)
    slope = sensitivity + specificity - 1
    if not slope > 0:
        return Estimate(_within(value), 0.0, 1.0, "too few pairs to calibrate on")
    middle = (rate + specificity - 1) / slope
    of_sensitivity = sensitivity * (1 - sensitivity) / (better + 2)
    of_specificity = specificity * (1 - specificity) / (worse + 2)
    shift = 2 * z**2 * (middle * of_sensitivity - (1 - middle) * of_specificity)
    spread = rate * (1 - rate) / (count + z**2) + (1 - middle) ** 2 * of_specificity + middle**2 * of_sensitivity
    half = z * math.sqrt(spread) / slope
    low, high = middle + shift - half, middle + shift + half
    return Estimate(_within(value), _within(low), _within(high))


def _within(value: float) -> float:
    return min(max(value, 0.0), 1.0)
