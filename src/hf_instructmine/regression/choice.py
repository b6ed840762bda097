"""Choosing regressors over all subsets, or the best of each size where they are too many, and what that is worth.

The folds of a cross-validation, its nesting, the bootstrap and the permutations are all the same computation with
other row weights or other targets, which `all_subsets` and `stepwise` do for many at once.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import InstructMineError
from . import stepwise
from .all_subsets import Moments, subsets, summed_errors, walk
from .regressors import vif


CRITERIA = ("cv", "bic", "aic", "aicc", "none", "p-value")
FOLDS = 10
# The choice averages the error over this many partitions into folds, so that it hangs less on one of them.
PARTITIONS = 3
MAX_SUBSETS = 4096
MAX_CANDIDATES = 40
# A rule chosen from more subsets than that has at most so many regressors, and a quarter as many as mixtures.
LONGEST, MIXTURES_EACH = 20, 4
_SIGNIFICANT = 0.05
_CHUNK = 40_000


@dataclass
class Problem:
    """Regressors, target and how to choose among the regressors.

    Args:
        x (`np.ndarray` of shape (n, q)): Columns in every rule first (the constant, covariates), then the candidates;
            all but the constant standardised.
        y (`np.ndarray` of shape (n,)): The target.
        weights (`np.ndarray` of shape (n,)): Of the rows, with mean 1.
        mixtures (`np.ndarray` of shape (n,)): Codes 0 … G − 1. Rows of one mixture are never on both sides of a split.
        forced (`int`): How many of the columns are in every rule.
        requires (`list`): Per candidate, the candidate that has to be chosen before it (a square's linear term), or
            `None`.
        select (`str`): One of `CRITERIA`.
        max_vif (`float`, *optional*): Subsets with a larger variance inflation factor are not considered.

    Attributes:
        subsets (`np.ndarray` of shape (subsets, candidates)): All that are compared; none where `by_size`.
        allowed (`np.ndarray` of shape (subsets,)): Which of them `max_vif` lets pass.
        by_size (`bool`): Whether the subsets are too many, so that the best of each size are compared.

    Raises:
        [`InstructMineError`]: Where the candidates are too many for the choice, or `max_vif` lets no subset pass.
    """

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    mixtures: np.ndarray
    forced: int
    requires: list[int | None]
    select: str = "cv"
    max_vif: float | None = None

    def __post_init__(self) -> None:
        self.by_size = self.select != "none" and by_size(self.requires)
        if self.by_size:
            self._check_many()
            self.subsets = np.empty((0, len(self.requires)), bool)  # none is listed
        elif self.select == "none":
            self.subsets = np.ones((1, len(self.requires)), bool)
        else:
            self.subsets = np.array(list(subsets(self.requires)), bool).reshape(-1, len(self.requires))
        self.allowed = np.ones(len(self.subsets), bool)
        if self.max_vif is not None:
            largest = [max(vif(self.x[:, self.columns(s)[1:]]), default=1.0) for s in self.subsets]
            self.allowed = np.array(largest) <= self.max_vif
        if not self.by_size and not self.allowed.any():
            raise InstructMineError(
                f"no set of regressors keeps max_vif={self.max_vif}: raise it, leave indicators out, or let them be "
                f"chosen"
            )

    def _check_many(self) -> None:
        count = len(self.requires)
        if count > MAX_CANDIDATES:
            raise InstructMineError(
                f"{count} candidate regressors are too many to choose among: name {MAX_CANDIDATES} indicators or "
                f"fewer, or use select='none', model='ridge' or model='elastic-net'"
            )
        asked = "select='p-value'" if self.select == "p-value" else "max_vif" if self.max_vif is not None else None
        if asked:
            raise InstructMineError(
                f"{asked} looks at every subset, and {count} candidate regressors have more than {MAX_SUBSETS} "
                f"subsets: name fewer indicators, or choose without it"
            )

    @property
    def num_mixtures(self) -> int:
        """Different mixtures; their replicates count once."""
        return int(self.mixtures.max()) + 1

    @property
    def longest(self) -> int:
        """How many of the candidates a rule may have."""
        return longest(len(self.requires), self.num_mixtures) if self.by_size else len(self.requires)

    @property
    def tree(self) -> tuple[int, list[int | None]]:
        """How many columns are in every subset, and what the others require, as a walk over the subsets takes them."""
        return (self.x.shape[1], []) if self.select == "none" else (self.forced, self.requires)

    def without_candidates(self) -> "Problem":
        """The same runs with the columns in every rule alone."""
        return Problem(self.x[:, : self.forced], self.y, self.weights, self.mixtures, self.forced, [], select="none")

    def columns(self, subset: np.ndarray) -> np.ndarray:
        """The columns of x in a rule: those in every rule, then the chosen candidates."""
        return np.concatenate([np.arange(self.forced), self.forced + np.flatnonzero(subset)])


def by_size(requires: list[int | None]) -> bool:
    """Whether the candidates have more than `MAX_SUBSETS` subsets."""

    def ways(first: int | None) -> int:
        """In how many ways those that need `first` can be taken, once it is."""
        return math.prod(1 + ways(c) for c, needed in enumerate(requires) if needed == first)

    return ways(None) > MAX_SUBSETS


def longest(candidates: int, mixtures: int) -> int:
    """How many regressors a rule may have that is chosen by size: enough mixtures are left to tell what they do."""
    return max(1, min(candidates, LONGEST, mixtures // MIXTURES_EACH))


def assign_folds(mixtures: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Deals the mixtures among folds at random, as evenly as may be; rows with code −1 get fold −1."""
    present = np.unique(mixtures[mixtures >= 0])
    fold_of = np.full(mixtures.max() + 1, -1)
    fold_of[rng.permutation(present)] = np.arange(len(present)) % min(folds, len(present))
    return np.where(mixtures >= 0, fold_of[mixtures], -1)


def choose(problem: Problem, y: np.ndarray, training: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Chooses regressors for each training set and each target.

    Args:
        problem ([`Problem`]): Columns and criterion.
        y (`np.ndarray` of shape (n, m)): m targets.
        training (`np.ndarray` of shape (t, n)): Row weights of t training sets; 0 leaves a row out.
        rng (`np.random.Generator`): Deals the folds.

    Returns:
        `np.ndarray` of shape (t, m): Indices into `problem.subsets`.
    """
    if len(problem.subsets) == 1:
        return np.zeros((len(training), y.shape[1]), int)
    splits = FOLDS * PARTITIONS if problem.select == "cv" else 1
    step = max(1, _CHUNK // (splits * y.shape[1]))
    chosen = []
    for start in range(0, len(training), step):
        scores = subset_scores(problem, y, training[start : start + step], rng)
        scores[~problem.allowed] = np.inf
        chosen.append(scores.argmin(axis=0))
    return np.concatenate(chosen)


def chosen_sets(problem: Problem, y: np.ndarray, training: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The candidates chosen for each training set and each target, shape (t, m, candidates). Arguments as for
    [`choose`]."""
    if not problem.by_size:
        return problem.subsets[choose(problem, y, training, rng)]
    step = max(1, _CHUNK // (FOLDS * PARTITIONS * y.shape[1]))
    chosen = []
    for start in range(0, len(training), step):
        weights = training[start : start + step]
        scores = size_scores(problem, y, weights, rng)
        scores = scores.sum(axis=2) if problem.select == "cv" else scores
        sets = _path(problem, y, weights).sets
        chosen.append(np.take_along_axis(sets, scores.argmin(axis=0)[None], axis=0)[0])
    return _as_marks(np.concatenate(chosen), len(problem.requires))


def best_sets(problem: Problem, y: np.ndarray, training: np.ndarray) -> np.ndarray:
    """The best set of each size for one training set and one target, shape (sizes, candidates)."""
    return _as_marks(_path(problem, y, training).sets[:, 0, 0], len(problem.requires))


def _as_marks(sets: np.ndarray, candidates: int) -> np.ndarray:
    """Sets of a [`stepwise.Path`] with a last axis over the candidates, true where one is in the set."""
    return (sets[..., None] >> np.arange(candidates) & 1).astype(bool)


def size_scores(problem: Problem, y: np.ndarray, training: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What tells how many regressors to choose from many candidates, lower being better. Arguments as for [`choose`].

    Returns:
        `np.ndarray`: The criterion of the best set of each size, shape (sizes, t, m). For `"cv"` the squared errors on
        each fold of sets that are searched for anew without it, shape (sizes, t, partitions · folds, m).
    """
    if problem.select == "cv":
        fit, test = _folds(problem, training, rng)
        errors = _path(problem, y, fit, test).errors
        assert errors is not None  # rows were held out
        return errors.reshape(len(errors), len(training), -1, y.shape[1])
    path = _path(problem, y, training)
    k = problem.forced + np.arange(len(path.rss))[:, None, None]
    return information_criterion(problem.select, training.sum(axis=1)[:, None], k, path.rss)


def _path(problem: Problem, y: np.ndarray, training: np.ndarray, held_out: np.ndarray | None = None) -> stepwise.Path:
    return stepwise.best_of_each_size(
        problem.x, y, problem.forced, problem.requires, problem.longest, training, held_out
    )


def subset_scores(problem: Problem, y: np.ndarray, training: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The criterion of every subset, lower being better, shape (subsets, t, m). Arguments as for [`choose`]."""
    if problem.select == "cv":
        fit, test = _folds(problem, training, rng)
        moments = Moments.of(problem.x, y, fit), Moments.of(problem.x, y, test)
        return summed_errors(*moments, *problem.tree, len(problem.subsets), len(fit) // len(training))
    if problem.select == "p-value":
        return _p_value_scores(problem, y, training)
    train = Moments.of(problem.x, y, training)
    rss = np.stack([fitted.yy for fitted, _ in walk(train, None, *problem.tree)])
    n = training.sum(axis=1)[:, None]
    k = problem.forced + problem.subsets.sum(axis=1)[:, None, None]
    return information_criterion(problem.select, n, k, rss)


def information_criterion(kind: str, n: np.ndarray, k: np.ndarray, rss: np.ndarray) -> np.ndarray:
    """AIC or BIC as statsmodels counts them, or AICc; infinite where AICc is not defined.

    AIC and BIC do not count the error variance among the k parameters. AICc's correction counts it, as its derivation
    needs (Hurvich & Tsai 1989).
    """
    deviance = n * np.log(np.maximum(rss, 1e-300) / n) + n * (np.log(2 * np.pi) + 1)
    if kind == "bic":
        return deviance + k * np.log(n)
    if kind == "aic":
        return deviance + 2 * k
    room = n - k - 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(room > 0, deviance + 2 * k + 2 * (k + 1) * (k + 2) / room, np.inf)


def fold_errors(
    problem: Problem, y: np.ndarray, training: np.ndarray, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yields, subset by subset, the squared errors on the folds left out, shape (t, partitions · folds, m)."""
    fit, test = _folds(problem, training, rng)
    train, held_out = Moments.of(problem.x, y, fit), Moments.of(problem.x, y, test)
    for _, left in walk(train, held_out, *problem.tree):
        assert left is not None  # the walk was given test sets
        yield left.yy.reshape(len(training), -1, y.shape[1])


def _folds(problem: Problem, training: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Row weights without each fold and of it alone, for each training set and partition: (t · partitions · folds, n)
    each."""
    fit, test = [], []
    for weights in training:
        present = np.where(weights > 0, problem.mixtures, -1)
        for _ in range(PARTITIONS):
            held = assign_folds(present, FOLDS, rng) == np.arange(FOLDS)[:, None]
            fit.append(np.where(held, 0.0, weights))
            test.append(np.where(held, weights, 0.0))
    return np.concatenate(fit), np.concatenate(test)


def held_out(problem: Problem, y: np.ndarray, training: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Chooses and fits on each training set, and predicts the rows that are not in it.

    Args:
        problem ([`Problem`]): Columns and criterion.
        y (`np.ndarray` of shape (n, m)): m targets.
        training (`np.ndarray` of shape (t, n)): Row weights of t training sets; 0 leaves a row out.
        rng (`np.random.Generator`): Deals the folds of the choice.

    Returns:
        `np.ndarray` of shape (t, n, m), NaN where a row was trained on.
    """
    predicted = np.full((len(training), *y.shape), np.nan)
    for t, chosen in enumerate(chosen_sets(problem, y, training, rng)):
        rows = np.flatnonzero(training[t] == 0)
        for subset in np.unique(chosen, axis=0):
            targets = np.flatnonzero((chosen == subset).all(axis=1))
            x = problem.x[:, problem.columns(subset)]
            predicted[t][np.ix_(rows, targets)] = x[rows] @ least_squares(x, y[:, targets], training[t])
    return predicted


def least_squares(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients of y (n, m) on x (n, k) over the rows of positive weight, shape (k, m)."""
    rows = weights > 0
    root = np.sqrt(weights[rows])[:, None]
    return np.linalg.lstsq(root * x[rows], root * y[rows], rcond=1e-10)[0]


def cross_fit(
    held_out: Callable[..., np.ndarray],
    problem: Problem,
    y: np.ndarray,
    partitions: list[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Predicts each row by a rule that never saw its mixture: neither in its fit nor in its choice of regressors.

    Args:
        held_out: [`held_out`] or another model's function of the same signature.
        partitions (`list[np.ndarray]`): Outer folds of the rows, each of shape (n,).

    Returns:
        `np.ndarray` of shape (partitions, n, m).
    """
    sets = [np.unique(folds)[:, None] == folds for folds in partitions]
    predicted = held_out(problem, y, np.where(np.concatenate(sets), 0.0, problem.weights), rng)
    ends = np.cumsum([len(masks) for masks in sets])[:-1]
    return np.stack([np.nansum(part, axis=0) for part in np.split(predicted, ends)])


def r_squared(y: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """1 − Σ w (y − ŷ)² / Σ w (y − ȳ)² of each target, as scikit-learn's `r2_score`; below 0 is worse than the mean."""
    mean = np.average(y, axis=0, weights=weights)
    return 1 - weights @ (y - predicted) ** 2 / (weights @ (y - mean) ** 2)


def permuted_targets(problem: Problem, count: int, rng: np.random.Generator) -> np.ndarray:
    """Targets under the hypothesis that no candidate matters, shape (n, count).

    What the columns in every rule leave unexplained is dealt anew among the mixtures (Freedman & Lane 1983). A
    mixture's runs move together, to a mixture with as many runs, so that replicates stay alike.
    """
    root = np.sqrt(problem.weights)
    always = problem.x[:, : problem.forced]
    base = always @ least_squares(always, problem.y[:, None], problem.weights)[:, 0]
    residual = root * (problem.y - base)
    rows_of = [np.flatnonzero(problem.mixtures == g) for g in np.unique(problem.mixtures)]
    blocks = [
        np.stack([rows for rows in rows_of if len(rows) == size]) for size in sorted({len(rows) for rows in rows_of})
    ]
    permuted = np.empty((len(residual), count))
    for column in range(count):
        for block in blocks:
            permuted[block, column] = residual[block[rng.permutation(len(block))]]
    return base[:, None] + permuted / root[:, None]


def bootstrap_weights(problem: Problem, count: int, rng: np.random.Generator) -> np.ndarray:
    """Row weights of resamples of whole mixtures, with replacement, shape (count, n).

    Weights stand for copies, since a mixture that was copied could sit on both sides of a fold.
    """
    mixtures = problem.num_mixtures
    times = rng.multinomial(mixtures, np.full(mixtures, 1 / mixtures), size=count)
    return times[:, problem.mixtures] * problem.weights


def bootstrap_coefficients(problem: Problem, subset: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients of one subset in each resample, shape (count, columns)."""
    columns = problem.columns(subset)
    moments = Moments.of(problem.x[:, columns], problem.y[:, None], weights)
    gram = moments.xx[..., 0].transpose(2, 0, 1)
    return (np.linalg.pinv(gram, hermitian=True) @ moments.xy.transpose(1, 0, 2))[..., 0]


def _p_value_scores(problem: Problem, y: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Residual sum of squares of the subsets in which every candidate has a classical p-value of at most 0.05, and
    infinity for the others: the best is the largest in-sample R² among "significant" rules, as in the paper."""
    from scipy.stats import t as student

    moments = Moments.of(problem.x, y, training)
    gram, cross = moments.xx[..., 0].transpose(2, 0, 1), moments.xy.transpose(1, 0, 2)
    n = (training > 0).sum(axis=1)[:, None]
    scores = np.empty((len(problem.subsets), len(training), y.shape[1]))
    for s, subset in enumerate(problem.subsets):
        columns = problem.columns(subset)
        inverse = np.linalg.pinv(gram[:, columns[:, None], columns], hermitian=True)
        beta = inverse @ cross[:, columns]
        rss = np.maximum(moments.yy - (beta * cross[:, columns]).sum(axis=1), 1e-300)
        freedom = np.maximum(n - len(columns), 1)
        variance = np.diagonal(inverse, axis1=1, axis2=2)[:, problem.forced :, None] * (rss / freedom)[:, None]
        ratio = beta[:, problem.forced :] ** 2 / np.maximum(variance, 1e-300)
        limit = student.ppf(1 - _SIGNIFICANT / 2, freedom) ** 2
        scores[s] = np.where((ratio >= limit[:, None]).all(axis=1), rss, np.inf)
    return scores
