"""Is one choice of rows better than another? Intervals and p-values that count every source of noise.

A difference in evaluation loss can be luck of the rows that there were to choose from, of the seed, and of the
evaluation examples. `compare_parts` counts all three: both strategies choose anew in each of several disjoint parts
of the pool. `compare_losses` is about finetunes on one chosen set, as earlier versions recorded them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaincinv, ndtr, stdtr, stdtrit
from scipy.stats import norm, t


LEVEL = 0.05
POWER = 0.8  # the share of comparisons that see a "detectable" difference


EXACT = 20_000  # relabellings up to which all are counted rather than drawn
_CHUNK = 1000  # resamples held at a time

# Both permutation tests are written out: `scipy.stats.permutation_test` takes 16 ms in place of 0.9 for five finetunes
# against ten, and 87 ms and 154 MiB in place of 9 ms and 4 MiB for the signs of 252 examples.


@dataclass(frozen=True)
class Difference:
    """Loss of one strategy less that of another, in nats per token; negative is better.

    Attributes:
        estimate (`float`): Difference of the mean losses.
        low (`float`): Lower end of the bootstrap interval over finetunes and evaluation examples.
        high (`float`): Upper end of it.
        p_runs (`float`): Two-sided p of the null that the finetunes of both are alike, these examples given.
        p_examples (`float`): Two-sided p of the null that the mean difference of an example is as likely up as down,
            these finetunes given.
    """

    estimate: float
    low: float
    high: float
    p_runs: float
    p_examples: float

    @property
    def p(self) -> float:
        """The larger of both p-values: what is claimed has to hold over finetunes and over examples (an
        intersection-union test, Berger 1982, so no correction for testing twice is needed)."""
        return max(self.p_runs, self.p_examples)

    @property
    def detectable(self) -> float:
        """The least true difference, in nats, that would have been told from 0 in 80 % of such comparisons: (z₀.₉₇₅ +
        z₀.₈) / z₀.₉₇₅ of half the interval."""
        return float((self.high - self.low) / 2 * (norm.isf(LEVEL / 2) + norm.isf(0.2)) / norm.isf(LEVEL / 2))


@dataclass(frozen=True)
class PairedDifference:
    """Loss of one strategy less that of another over disjoint parts of a pool, in nats per token; negative is better.

    It is about pools like this one, seeds and evaluation examples together: what another pool, seed and evaluation set
    drawn in the same way would show.

    Attributes:
        estimate (`float`): Mean over the parts of the paired difference.
        low (`float`): Lower end of its interval.
        high (`float`): Upper end of it.
        p (`float`): Two-sided p of no difference. It is below 1 less the confidence where the interval leaves out 0,
            and only there.
        parts (`int`): How many parts there are.
        parts_sd (`float`): SD between parts of the paired difference; of rows and seeds. NaN where there is one part.
        examples_sd (`float`): SD between evaluation examples of their part of the estimate, so that the variance due
            to `examples` of them is `examples_sd ** 2 / examples`.
        examples (`int`): How many evaluation examples there are.
        standard_error (`float`): Of the estimate.
        df (`float`): Degrees of freedom of the standard error (Welch–Satterthwaite).
        confidence (`float`): Of the interval.
    """

    estimate: float
    low: float
    high: float
    p: float
    parts: int
    parts_sd: float
    examples_sd: float
    examples: int
    standard_error: float
    df: float
    confidence: float = 1 - LEVEL

    @property
    def detectable(self) -> float:
        """The least true difference, in nats, that 80 % of such comparisons tell from 0; infinite with one part."""
        return self.detectable_among(1)

    def detectable_among(self, comparisons: int) -> float:
        """The same where as many strategies are compared, by the strictest step of Holm's correction."""
        if self.parts < 2:
            return math.inf
        return self.standard_error * noncentrality(self.df, (1 - self.confidence) / comparisons)


def compare_parts(
    nll: np.ndarray, baseline: np.ndarray, tokens: np.ndarray, *, confidence: float = 1 - LEVEL
) -> PairedDifference:
    """Compares two strategies that chose anew in each of several disjoint parts of a pool.

    The parts are independent draws of rows, and their finetunes share none. The difference d of a part is paired: the
    strategies chose from the same rows and trained with the same seed. With K parts and E evaluation examples

        SE² = SD(d)² / K + SD(r)² / E.

    r is the residual of an example's mean Σ NLL difference in the ratio of sums, times E / Σ tokens (Cochran 1977,
    section 6.3) and divided by what a jackknife leaves of it, 1 - tokens / Σ tokens (HC3, MacKinnon & White 1985).
    What varies by part and example is in both terms, which errs on the wide side (Owen 2007). In recorded finetunes
    that is under 3 % of SE².

    Interval and p are Student's t with Welch–Satterthwaite degrees of freedom. Of the parts they are K - 1. Examples
    of many tokens weigh most, so they count as (Σ tokens²)² / Σ tokens⁴, as if all tokens of one had one effect (Bell
    & McCaffrey 2002). Where the residuals are skewed, the interval is widened on one side to what Hall gives for t
    (1992), and never narrowed; p goes with it.

    Args:
        nll (`np.ndarray` of shape `(parts, examples)`): Σ NLL of each evaluation example in nats, the mean over seeds
            where a part has several.
        baseline (`np.ndarray` of shape `(parts, examples)`): The same for what it is compared with, by the same parts.
        tokens (`np.ndarray` of shape `(examples,)`): Response tokens of each example.
        confidence (`float`, defaults to 0.95): Of the interval.

    Returns:
        [`PairedDifference`]: With one part, an infinite interval and p = 1.

    Raises:
        `ValueError`: Where the shapes do not fit.
    """
    nll, baseline, tokens = (np.asarray(values, dtype=float) for values in (nll, baseline, tokens))
    if nll.ndim != 2 or nll.shape != baseline.shape or nll.shape[1:] != tokens.shape:
        raise ValueError(
            f"shapes of NLL, baseline and tokens do not fit: {nll.shape}, {baseline.shape}, {tokens.shape}"
        )
    return paired(nll - baseline, tokens, confidence)


def paired(differences: np.ndarray, tokens: np.ndarray, confidence: float = 1 - LEVEL) -> PairedDifference:
    """What [`compare_parts`] gives, of the differences in Σ NLL, of shape `(parts, examples)`."""
    parts, examples = differences.shape
    estimate = float(differences.sum() / parts / tokens.sum())
    residuals = (differences.mean(axis=0) - estimate * tokens) * examples / tokens.sum()
    residuals = residuals * (1 - 1 / examples) / (1 - tokens / tokens.sum())
    examples_sd = float(residuals.std(ddof=1)) if examples > 1 else math.nan
    if parts < 2 or examples < 2:
        nothing = (-math.inf, math.inf, 1.0, parts, math.nan, examples_sd, examples, math.inf, 0.0, confidence)
        return PairedDifference(estimate, *nothing)
    parts_sd = float((differences.sum(axis=1) / tokens.sum()).std(ddof=1))
    error, df = standard_error(parts_sd, parts, examples_sd, examples, (tokens**2).sum() ** 2 / (tokens**4).sum())
    if not error:
        p, low, high = float(estimate == 0), estimate, estimate
    else:
        skew = float(((residuals - residuals.mean()) ** 3).mean()) / examples**2 / error**3  # of the estimate
        score, bound = estimate / error, float(stdtrit(df, (1 + confidence) / 2))
        p = 2 * float(stdtr(df, -min(abs(score), abs(_hall(score, skew)))))
        low = estimate - error * max(bound, _hall_inverse(bound, skew))
        high = estimate - error * min(-bound, _hall_inverse(-bound, skew))
    return PairedDifference(estimate, low, high, p, parts, parts_sd, examples_sd, examples, error, df, confidence)


def _hall(score: float, skew: float) -> float:
    """Takes the skewness of a mean out of its t (Hall 1992, "On the removal of skewness by transformation")."""
    return ((1 + skew * score / 3) ** 3 - 1) / skew + skew / 6 if abs(skew) > 1e-9 else score


def _hall_inverse(score: float, skew: float) -> float:
    return 3 / skew * (float(np.cbrt(1 + skew * (score - skew / 6))) - 1) if abs(skew) > 1e-9 else score


def standard_error(
    parts_sd: float, parts: int, examples_sd: float, examples: int, counted: float | None = None
) -> tuple[float, float]:
    """Of a difference over parts and examples, with its degrees of freedom, for which the examples are `counted` as
    fewer where their tokens differ."""
    variances = np.array([parts_sd**2 / parts, examples_sd**2 / examples])
    freedom = np.array([parts - 1, max((counted or examples) - 1, 1)])
    weights = (variances**2 / freedom).sum()
    df = variances.sum() ** 2 / weights if weights else freedom.sum()
    return math.sqrt(variances.sum()), float(df)


def chance(ratio: float, df: float, level: float) -> float:
    """Power of a two-sided t test whose true difference is `ratio` standard errors: the noncentral t.

    It is the normal's, averaged over 1,000 quantiles of the estimated standard error. `scipy.stats.nct` is NaN for
    some of these arguments.
    """
    known = np.sqrt(2 * gammaincinv(df / 2, (np.arange(1000) + 0.5) / 1000) / df)
    bound = stdtrit(df, 1 - level / 2) * known
    return float((ndtr(ratio - bound) + ndtr(-ratio - bound)).mean())


def noncentrality(df: float, level: float, power: float = POWER) -> float:
    """The true difference, in standard errors, that a two-sided t test sees with this power."""
    most = 4.0
    while chance(most, df, level) < power:
        most *= 2
    return float(brentq(lambda ratio: chance(ratio, df, level) - power, 0, most))


@dataclass(frozen=True)
class OneSet:
    """One chosen set of rows against several random ones. Finetunes repeated on a set say nothing of another set, so
    this alone says whether the strategy, and not its set, is better.

    Attributes:
        random_sets (`int`): How many random sets there are.
        p (`float`): Two-sided p of the null that the chosen set is one more random draw, by Student's t with
            `random_sets - 1` degrees of freedom; not corrected for several strategies.
    """

    random_sets: int
    p: float


def one_against_random(chosen: Sequence[float], others: Sequence[float]) -> OneSet | None:
    """Takes the mean loss of each distinct set of a strategy and of random. None where the strategy chose more than
    one set, or there are fewer than three random ones."""
    if len(chosen) != 1 or len(others) < 3:
        return None
    spread = float(np.std(others, ddof=1)) * math.sqrt(1 + 1 / len(others))
    difference = chosen[0] - float(np.mean(others))
    p = 2 * float(t.sf(abs(difference) / spread, len(others) - 1)) if spread > 0 else float(difference == 0)
    return OneSet(len(others), p)


def compare_losses(
    nll: np.ndarray,
    baseline: np.ndarray,
    tokens: np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Compares the finetunes of two strategies on one evaluation set.

    The interval is percentiles of a bootstrap that draws evaluation examples with replacement, the same for all
    finetunes (they are paired by example), and the finetunes of each strategy. Of n finetunes n − 1 are drawn, which
    makes the variance of their mean unbiased where n is small (Rao & Wu 1988), and the percentiles are moved outwards
    from the normal's to Student's t with Welch's degrees of freedom (Hesterberg 2015, "expanded percentiles"): five
    finetunes do not know their own noise well. Drawing both ways errs on the wide side (Owen 2007, "The pigeonhole
    bootstrap"). A strategy with one finetune has no noise of finetunes in its interval.

    Args:
        nll (`np.ndarray` of shape `(runs, examples)`): Σ NLL of each evaluation example after each finetune, nats.
        baseline (`np.ndarray` of shape `(other runs, examples)`): The same for what it is compared with.
        tokens (`np.ndarray` of shape `(examples,)`): Response tokens of each example.
        confidence (`float`, defaults to 0.95): Of the interval.
        resamples (`int`, defaults to 10,000): Of bootstrap and permutations.
        seed (`int`, defaults to 0): Of both.

    Returns:
        [`Difference`]
    """
    rng = np.random.default_rng(seed)
    losses, others = nll.sum(axis=1) / tokens.sum(), baseline.sum(axis=1) / tokens.sum()
    drawn = np.concatenate([_resample(nll, baseline, tokens, n, rng) for n in _chunks(resamples)])
    tail = norm.sf(t.isf((1 - confidence) / 2, _welch(nll, baseline, tokens)))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Difference(
        estimate=float(losses.mean() - others.mean()),
        low=float(low),
        high=float(high),
        p_runs=permute_labels(losses, others, resamples, rng),
        p_examples=flip_signs(nll.mean(axis=0) - baseline.mean(axis=0), resamples, rng),
    )


def _welch(nll: np.ndarray, baseline: np.ndarray, tokens: np.ndarray) -> float:
    """Degrees of freedom of the difference of Σ NLL, whose variance is that of the examples and of either side's
    finetunes."""
    difference = nll.mean(axis=0) - baseline.mean(axis=0)
    residuals = difference - difference.sum() / tokens.sum() * tokens  # of a ratio of sums
    samples = [len(tokens) * residuals, *(side.sum(axis=1) for side in (nll, baseline) if len(side) > 1)]
    variances = np.array([sample.var(ddof=1) / len(sample) for sample in samples])
    weights = variances**2 / np.array([len(sample) - 1 for sample in samples])
    return float(variances.sum() ** 2 / weights.sum()) if weights.sum() else np.inf


def _resample(
    nll: np.ndarray, baseline: np.ndarray, tokens: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    examples = rng.multinomial(len(tokens), np.full(len(tokens), 1 / len(tokens)), size=count)
    drawn = examples @ tokens
    sides = []
    for side in (nll, baseline):
        kept = max(len(side) - 1, 1)
        runs = rng.multinomial(kept, np.full(len(side), 1 / len(side)), size=count) / kept
        sides.append(np.einsum("br,br->b", runs, examples @ side.T) / drawn)
    return sides[0] - sides[1]


def permute_labels(losses: np.ndarray, others: np.ndarray, resamples: int, rng: np.random.Generator) -> float:
    """Two-sided permutation p for equal distributions of two samples, by their difference of means.

    All relabellings are counted where there are at most 20,000, else `resamples` are drawn. With a and b finetunes it
    cannot be below 1 / C(a + b, a), and twice that where a = b: 0.0003 for five against ten, 0.008 for five and five.
    """
    together = np.concatenate([losses, others])
    n, size = len(together), len(losses)
    if math.comb(n, size) <= EXACT:
        chosen = np.array(list(combinations(range(n), size)))
        drawn = 0
    else:
        chosen = rng.permuted(np.tile(np.arange(n), (resamples, 1)), axis=1)[:, :size]
        drawn = 1
    sums = together[chosen].sum(axis=1)
    differences = np.abs(sums / size - (together.sum() - sums) / (n - size))
    observed = abs(losses.mean() - others.mean())
    # Equal but for rounding is equal.
    return float(((differences >= observed * (1 - 1e-9)).sum() + drawn) / (len(chosen) + drawn))


def flip_signs(differences: np.ndarray, resamples: int, rng: np.random.Generator) -> float:
    """Two-sided sign-flip p (paired permutation) for differences that are symmetric around nothing."""
    observed = abs(differences.sum()) * (1 - 1e-9)
    hits = 0
    for count in _chunks(resamples):
        signs = rng.integers(0, 2, size=(count, len(differences))) * 2 - 1
        hits += int((np.abs(signs @ differences) >= observed).sum())
    return (hits + 1) / (resamples + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): p-values that hold for all comparisons together."""
    from statsmodels.stats.multitest import multipletests

    # statsmodels 0.14 divides by the number of p-values.
    return multipletests(p_values, method="holm")[1].tolist() if p_values else []


def _chunks(total: int) -> list[int]:
    return [min(_CHUNK, total - start) for start in range(0, total, _CHUNK)]
