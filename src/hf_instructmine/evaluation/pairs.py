"""What a judge's verdicts on pairs of answers say: wins in both orders, with intervals over questions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import ndtri

from ..errors import InstructMineError
from ..outputs.shown import Shown
from .calibration import Calibration, corrected
from .intervals import Clusters, Estimate, bootstrap, clustered, codes_of, objects, share, wilson
from .length_control import length_controlled


RESAMPLES = 5000
VERDICTS = (0.0, 0.5, 1.0)
_ADDED = ((0.0, 2.0), (1.0, 2.0))  # two of either (Agresti & Coull 1998)


@dataclass(frozen=True)
class Judged:
    """A judge's verdicts on the answers of two models, A and B, each pair shown in both orders.

    Several turns of one question, and several repeats of one pair, are further pairs with the same question.

    Attributes:
        questions (`Sequence` of length `pairs`): Question of each pair, any hashable: what intervals are clustered by.
        forward (`np.ndarray` of shape `(pairs,)`): Score of A with A shown first: 1 where A is better, 0 where B is,
            0.5 for a tie, NaN where there is no verdict.
        backward (`np.ndarray` of shape `(pairs,)`): Score of A, too, with B shown first.
        length_a (`np.ndarray` of shape `(pairs,)`): Length of A's answers; NaN where it is not known.
        length_b (`np.ndarray` of shape `(pairs,)`): Length of B's, in the same unit.
        unit (`str`, defaults to `"tokens"`): Of the lengths, to be told.
        categories (`Sequence` of length `pairs`, *optional*): A kind of each pair, such as MT-Bench's categories.
    """

    questions: Any
    forward: Any
    backward: Any
    length_a: Any
    length_b: Any
    unit: str = "tokens"
    categories: Any = None

    def __post_init__(self) -> None:
        for name in ("forward", "backward", "length_a", "length_b"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=float))
        object.__setattr__(self, "questions", objects(self.questions))
        if self.categories is not None:
            object.__setattr__(self, "categories", objects(self.categories))
        names = (
            "forward",
            "backward",
            "length_a",
            "length_b",
            *(("categories",) if self.categories is not None else ()),
        )
        for name in names:
            if getattr(self, name).shape != self.questions.shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, questions {self.questions.shape}")
        for name in ("forward", "backward"):
            other = [x for x in getattr(self, name).tolist() if x == x and x not in VERDICTS]
            if other:
                raise ValueError(f"{name} has the verdict {other[0]}: 1, 0.5, 0 or NaN")

    @property
    def usable(self) -> np.ndarray:
        """Whether both orders have a verdict, of shape `(pairs,)`."""
        return np.isfinite(self.forward) & np.isfinite(self.backward)

    @property
    def scores(self) -> np.ndarray:
        """Score of A in both orders together, of shape `(pairs,)`: 1 or 0 where both agree on it, 0.5 for ties and
        disagreements, NaN where one of them is missing."""
        agreed = np.where(self.forward == self.backward, self.forward, 0.5)
        return np.where(self.usable, agreed, np.nan)


@dataclass(frozen=True)
class PositionBias:
    """How verdicts follow the order in which the answers are shown.

    Attributes:
        rate ([`Estimate`]): Share of pairs whose verdict changes with the order. Noise of the judge is in it.
        first ([`Estimate`]): Share of pairs in which the answer shown first gains by it.
        second ([`Estimate`]): Share of pairs in which the one shown second does.
        net ([`Estimate`]): `first` less `second`: noise leaves it at 0, a bias to the first makes it positive.
    """

    rate: Estimate
    first: Estimate
    second: Estimate
    net: Estimate

    @property
    def favoured(self) -> str | None:
        """`"first"` or `"second"` where the interval of `net` leaves out 0, else `None`."""
        return "first" if self.net.low > 0 else "second" if self.net.high < 0 else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        parts = {"rate": self.rate, "first": self.first, "second": self.second, "net": self.net}
        return {**{name: part.to_dict() for name, part in parts.items()}, "favoured": self.favoured}


@dataclass(frozen=True, repr=False)
class Preference(Shown):
    """How often a judge prefers A to B. Shares are of usable pairs; intervals generalise over questions.

    Attributes:
        win (`int`): Pairs in which A is better in both orders.
        tie (`int`): Pairs that are tied, disagreements among them.
        lose (`int`): Pairs in which B is better in both orders.
        disagreements (`int`): Pairs whose verdict changes with the order; all are counted as ties.
        unusable (`int`): Pairs without a verdict in one order or both; they are in no share.
        questions (`int`): How many questions the usable pairs have.
        win_rate ([`Estimate`]): Wins and half the ties.
        better_or_equal ([`Estimate`]): Wins and ties, with an interval over questions.
        better_or_equal_wilson ([`Estimate`]): The same with Wilson's interval, which takes pairs as independent.
        better_or_equal_bootstrap ([`Estimate`]): The same with percentiles of a bootstrap over questions.
        length_controlled ([`Estimate`]): The win rate at equal length.
        position_bias ([`PositionBias`]): How verdicts follow the order.
        corrected ([`Estimate`], *optional*): The win rate that people would give, by the judge's calibration.
        categories (`dict[str, Estimate]`): Win rate by category.
        confidence (`float`): Of the intervals.
        unit (`str`): Of the lengths.
    """

    win: int
    tie: int
    lose: int
    disagreements: int
    unusable: int
    questions: int
    win_rate: Estimate
    better_or_equal: Estimate
    better_or_equal_wilson: Estimate
    better_or_equal_bootstrap: Estimate
    length_controlled: Estimate
    position_bias: PositionBias
    corrected: Estimate | None = None
    categories: dict[str, Estimate] = field(default_factory=dict)
    confidence: float = 0.95
    unit: str = "tokens"

    @property
    def pairs(self) -> int:
        """How many pairs are usable."""
        return self.win + self.tie + self.lose

    def summary(self) -> str:
        """The numbers as lines of plain text."""
        bias = self.position_bias
        lines = [
            f"win {self.win}, tie {self.tie} ({self.disagreements} by disagreement of the orders), lose {self.lose}; "
            f"{self.questions} questions" + (f"; {self.unusable} pairs without a verdict" if self.unusable else ""),
            f"win rate (ties half)  {self.win_rate}",
            f"better or equal       {self.better_or_equal}",
            f"at equal length       {self.length_controlled}",
            *([f"corrected             {self.corrected}"] if self.corrected else []),
            f"follows the order     {bias.rate}; to the first {bias.first.value:.1%}, second {bias.second.value:.1%}",
            *(f"  {name}  {value}" for name, value in self.categories.items()),
            f"In brackets: {self.confidence:.0%} intervals over questions.",
        ]
        return "\n".join(lines)

    __str__ = summary

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: a number that is not known is null, with the reason beside it."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name, value in found.items():
            if isinstance(value, Estimate | PositionBias):
                found[name] = value.to_dict()
        return {**found, "categories": {name: value.to_dict() for name, value in self.categories.items()}}


def preference(
    judged: Judged,
    *,
    calibration: Calibration | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Preference:
    """Sums up a judge's verdicts on two models.

    Args:
        judged ([`Judged`]): The verdicts.
        calibration ([`Calibration`], *optional*): How the judge follows people; gives `corrected`.
        seed (`int`, defaults to 0): Of the bootstrap.
        resamples (`int`, defaults to 5,000): Of the bootstrap.
        confidence (`float`, defaults to 0.95): Of all intervals.

    Returns:
        [`Preference`]

    Raises:
        `InstructMineError`: Where no pair has a verdict in both orders, or the calibration says that the judge does
            not follow people.
    """
    usable = judged.usable
    if not usable.any():
        raise InstructMineError("the judge gave no verdict in both orders on any pair; see its answers")
    scores, codes = judged.scores[usable], codes_of(judged.questions[usable])
    moved = (judged.forward - judged.backward)[usable]
    rates, equal = clustered(scores, codes), clustered((scores > 0).astype(float), codes)
    lengths = judged.length_a[usable], judged.length_b[usable]
    return Preference(
        win=int((scores == 1).sum()),
        tie=int((scores == 0.5).sum()),
        lose=int((scores == 0).sum()),
        disagreements=int((moved != 0).sum()),
        unusable=int((~usable).sum()),
        questions=len(rates.sums),
        win_rate=share(rates, confidence),
        better_or_equal=share(equal, confidence),
        better_or_equal_wilson=Estimate(
            equal.mean, *wilson(equal.mean, len(scores), float(ndtri((1 + confidence) / 2)))
        ),
        better_or_equal_bootstrap=_bootstrapped(equal, seed, resamples, confidence),
        length_controlled=length_controlled(scores, *lengths, codes, confidence),
        position_bias=_position_bias(moved, codes, confidence),
        corrected=corrected(rates, calibration, confidence) if calibration else None,
        categories=_by_category(judged, scores, codes, confidence),
        confidence=confidence,
        unit=judged.unit,
    )


def _bootstrapped(clusters: Clusters, seed: int, resamples: int, confidence: float) -> Estimate:
    if clusters.df < 1:
        return Estimate(clusters.mean, 0.0, 1.0, "one question")
    return Estimate(clusters.mean, *bootstrap(clusters, seed, confidence, resamples, _ADDED))


def _position_bias(moved: np.ndarray, codes: np.ndarray, confidence: float) -> PositionBias:
    # With forward above backward, A gained by being shown first: a score of A in either order.
    net = share(clustered((np.sign(moved) + 1) / 2, codes), confidence)
    return PositionBias(
        rate=share(clustered((moved != 0).astype(float), codes), confidence),
        first=share(clustered((moved > 0).astype(float), codes), confidence),
        second=share(clustered((moved < 0).astype(float), codes), confidence),
        net=Estimate(2 * net.value - 1, 2 * net.low - 1, 2 * net.high - 1, net.note),
    )


def _by_category(judged: Judged, scores: np.ndarray, codes: np.ndarray, confidence: float) -> dict[str, Estimate]:
    if judged.categories is None:
        return {}
    names = judged.categories[judged.usable]
    found = {}
    for name in dict.fromkeys(names.tolist()):
        chosen = np.array([other == name for other in names.tolist()])
        found[str(name)] = share(clustered(scores[chosen], codes_of(codes[chosen])), confidence)
    return found


@dataclass(frozen=True)
class Agreement:
    """How two series of verdicts on the same pairs agree: repeats of one judge, two judges, or a judge and people.

    Attributes:
        raw (`float`): Share of pairs with the same verdict.
        kappa (`float`): Cohen's kappa (1960): 0 for the agreement of chance, 1 for all. NaN where both series have
            one verdict alone.
        pairs (`int`): Pairs with a verdict in both.
    """

    raw: float
    kappa: float
    pairs: int

    def __str__(self) -> str:
        kappa = "not known" if self.kappa != self.kappa else f"{self.kappa:.2f}"
        return f"the same verdict in {self.raw:.0%} of {self.pairs} pairs, kappa {kappa}" if self.pairs else "no pair"


def agreement(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> Agreement:
    """Compares two series of verdicts, of shape `(pairs,)`: 1, 0.5, 0, or NaN for none."""
    from sklearn.metrics import cohen_kappa_score

    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != other.shape:
        raise ValueError(f"the verdicts have shapes {one.shape} and {other.shape}")
    both = np.isfinite(one) & np.isfinite(other)
    if not both.any():
        return Agreement(float("nan"), float("nan"), 0)
    labels = [np.rint(2 * x[both]).astype(int) for x in (one, other)]
    several = len(set(labels[0].tolist()) | set(labels[1].tolist())) > 1
    kappa = float(cohen_kappa_score(*labels)) if several else float("nan")
    return Agreement(float((labels[0] == labels[1]).mean()), kappa, int(both.sum()))
