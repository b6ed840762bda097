"""Which difference can a comparison see? Said before the first finetune, from the noise of earlier ones."""

import math
from dataclasses import dataclass

from ..errors import InstructMineError
from ..outputs.markdown import printable
from ..outputs.shown import Shown
from .statistics import LEVEL, chance, noncentrality, standard_error


LEAST_EXAMPLES = 20  # fewer, where they are skewed, do not know their own noise
MOST_SDS = 4.0  # a design that sees only larger differences, in SDs between parts, cannot give a verdict in practice
# How many degrees of freedom examples have depends on their tokens. Of log-normal numbers of tokens with an SD of 0.9,
# 20, 40 and 252 count as about 6, 9 and 28; the 252 of self_instruct as 22, the 40 of MT-Bench as 15.
_COUNTED = 0.6


@dataclass(frozen=True)
class Noise:
    """What a difference between two strategies varies by.

    Attributes:
        parts_sd (`float`): SD between disjoint parts of a pool of the paired difference in loss, nats.
        examples_sd (`float`): SD between evaluation examples, as in [`~statistics.PairedDifference`]; nats.
        source (`str`): Where both were measured.

    Example:

    ```python
    him.power(parts=8, noise=him.load_comparison("comparison").noise())
    ```
    """

    parts_sd: float
    examples_sd: float
    source: str


# From docs/results/comparison-in-parts.jsonl: SmolLM2-135M-Instruct, self_instruct, 8,000 response tokens, six parts.
# Of the differences to random the largest.
SEVEN_SOURCES = Noise(0.0186, 0.0540, "135M parameters, 8,000 tokens of seven sources")


@dataclass(frozen=True, repr=False)
class Power(Shown):
    """What a comparison over disjoint parts can see. Made by [`power`].

    Attributes:
        parts (`int`): Disjoint parts of the pool.
        examples (`int`): Evaluation examples.
        comparisons (`int`): Strategies compared with the baseline.
        noise ([`Noise`]): Of a difference.
        level (`float`): Chance of a false verdict on any of them.
    """

    parts: int
    examples: int
    comparisons: int
    noise: Noise
    level: float = LEVEL

    @property
    def detectable(self) -> float:
        """The least true difference, in nats, that 80 % of such comparisons see."""
        error, df = self._standard_error
        return error * noncentrality(df, self.level / self.comparisons)

    def chance(self, difference: float) -> float:
        """The share of such comparisons that see a true difference of so many nats, of either sign."""
        error, df = self._standard_error
        if not error:
            return float(difference != 0)
        return chance(difference / error, df, self.level / self.comparisons)

    @property
    def _standard_error(self) -> tuple[float, float]:
        counted = self.examples**_COUNTED
        return standard_error(self.noise.parts_sd, self.parts, self.noise.examples_sd, self.examples, counted)

    def __str__(self) -> str:
        among = f" and {self.comparisons} comparisons" if self.comparisons > 1 else ""
        return (
            f"with {self.parts} parts{',' if among else ' and'} {self.examples:,} evaluation examples{among}, a "
            f"difference of {self.detectable:.4f} nats is seen in 80 % of comparisons (noise: {self.noise.source})"
        )


def power(
    parts: int = 8, examples: int = 252, comparisons: int = 1, noise: Noise = SEVEN_SOURCES, *, level: float = LEVEL
) -> Power:
    """Says which difference a comparison can see, before anything is trained.

    By the noncentral t with the degrees of freedom that [`~statistics.compare_parts`] would have. Several comparisons
    count as in the strictest step of Holm's correction, which is Bonferroni's: others see smaller differences.

    Args:
        parts (`int`, defaults to 8): Disjoint parts of the pool, each with one finetune for each strategy.
        examples (`int`, defaults to 252): Evaluation examples.
        comparisons (`int`, defaults to 1): Strategies compared with the baseline on one evaluation set.
        noise ([`Noise`], *optional*): Defaults to that of the recorded comparison on seven sources. Other models,
            amounts and evaluation sets have another.
        level (`float`, defaults to 0.05): Chance of a false verdict on any of them.

    Returns:
        [`Power`]

    Raises:
        [`InstructMineError`]: Where a number is too small to compare anything.

    Example:

    ```python
    >>> print(him.power(parts=8, examples=252))
    with 8 parts and 252 evaluation examples, a difference of 0.0228 nats is seen in 80 % of comparisons (noise: ...)
    ```
    """
    for name, value, least in (("parts", parts, 2), ("examples", examples, 2), ("comparisons", comparisons, 1)):
        if not isinstance(value, int) or value < least:
            raise InstructMineError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if not isinstance(noise, Noise) or not all(0 <= sd < math.inf for sd in (noise.parts_sd, noise.examples_sd)):
        raise InstructMineError("noise is a Noise of two finite SDs, such as that of comparison.noise()")
    if not 0 < level < 1:
        raise InstructMineError(f"level is a share above 0 and below 1, not {level!r}")
    return Power(parts, examples, comparisons, noise, level)


def least_parts(comparisons: int = 1) -> int:
    """The fewest parts that see a difference of four SDs between parts in 80 % of comparisons."""
    parts = 3
    while _smallest_seen(parts, comparisons) > MOST_SDS:
        parts += 1
    return parts


def check_parts(parts: int, comparisons: int = 1) -> None:
    """Refuses so few parts that no verdict is possible in practice.

    Args:
        parts (`int`): Disjoint parts of the pool.
        comparisons (`int`, defaults to 1): Strategies compared with the baseline.

    Raises:
        [`InstructMineError`]: With the number that would do.
    """
    enough = least_parts(comparisons)
    if parts < enough:
        among = f" of {comparisons} comparisons" if comparisons > 1 else ""
        raise InstructMineError(
            f"parts={parts} cannot give a verdict{among}, as so few do not know their own noise: {enough} parts or "
            "more would do"
        )


def check_examples(count: int, name: str) -> None:
    """Refuses a handful of evaluation examples, whose verdicts would be false too often.

    Raises:
        [`InstructMineError`]: With the number that would do.
    """
    if count < LEAST_EXAMPLES:
        raise InstructMineError(
            f"the evaluation set '{printable(name)}' has {count} examples, too few to know their noise: "
            f"{LEAST_EXAMPLES} or more would do"
        )


def _smallest_seen(parts: int, comparisons: int) -> float:
    """In SDs between parts, however many evaluation examples there are."""
    return noncentrality(parts - 1, LEVEL / comparisons) / parts**0.5
