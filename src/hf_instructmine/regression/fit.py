"""Fitting a rule to runs: prepare the regression, estimate it, validate it, assemble the rule."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from ..errors import InstructMineError, nearest
from ..versions import check_versions
from . import choice, penalized
from .choice import CRITERIA, Problem
from .diagnostics import Coefficient, Diagnostics, source_r2
from .estimate import Estimate, estimate_least_squares, estimate_model
from .held_out import held_out_statistics, leave_one_source_out, other_evaluation_sets
from .regressors import condition_number, leverage, refuse_collinear, vif
from .replicates import LEVEL, added_terms_p, noise_ceiling, replicate_spreads, unequal_noise_p
from .runs import RunTable
from .terms import Term, design


check_versions("scikit-learn", "scipy", "statsmodels")


# Nested cross-validation is repeated over this many partitions; fewer for models that are slow to tune.
REPEATS = {"ols": 10, "automl": 1}
OTHER_REPEATS = 3
PERMUTATIONS = {"ols": 1000}
BOOTSTRAPS = {"ols": 2000, "automl": 0}
OTHER_BOOTSTRAPS = 500
# Spreads beyond this and its inverse have no square in double precision.
_SMALLEST = 1e-100


@dataclass
class FitOptions:
    """How a rule is fitted; [`LossEstimator.fit`] documents each.

    Raises:
        [`InstructMineError`]: Where there is no such model or criterion, or the model has no use for an option.
    """

    targets: list[str]
    select: str
    seed: int
    model: str
    log_target: bool
    logged: list[str]
    squared: list[str]
    covariates: list[str]
    standardize: bool
    weights: str | None
    group: str | None
    max_vif: float | None
    without_sources: list[str]
    permutations: int | None
    bootstraps: int | None

    def __post_init__(self) -> None:
        if self.model not in penalized.MODELS:
            raise InstructMineError(f"no model '{self.model}': {nearest(self.model, penalized.MODELS)}")
        if self.select not in CRITERIA:
            raise InstructMineError(f"no criterion '{self.select}': {nearest(self.select, CRITERIA)}")
        if self.weights is not None and self.model in ("pls", "automl"):
            raise InstructMineError(f"model='{self.model}' takes no weights: use 'ols', 'ridge' or 'elastic-net'")
        if self.max_vif is not None and self.model != "ols":
            raise InstructMineError(f"max_vif restricts the choice of regressors, and model='{self.model}' makes none")
        self.select = self.select if self.model == "ols" else "none"

    @property
    def num_permutations(self) -> int:
        """The permutations asked for, or the model's own number."""
        return PERMUTATIONS.get(self.model, 0) if self.permutations is None else self.permutations

    @property
    def num_bootstraps(self) -> int:
        """The bootstrap samples asked for, or the model's own number."""
        return BOOTSTRAPS.get(self.model, OTHER_BOOTSTRAPS) if self.bootstraps is None else self.bootstraps

    @property
    def kept(self) -> dict[str, Any]:
        """What is noted down with a rule, to fit it again."""
        names = "select seed logged squared covariates standardize weights group max_vif without_sources"
        return {name: getattr(self, name) for name in names.split()}


@dataclass
class Fit:
    """What a prediction's interval and leverage need, and what the rule was fitted on.

    With z = (m − mean) / sd for the regressors m (the rule's covariates, then its terms) and u = (1, z): the leverage
    of a set is uᵀ·`gram_inverse`·u, the variance of its mean prediction uᵀ·`covariance`·u.

    Attributes:
        mean (`list[float]`): Of each regressor over the runs.
        sd (`list[float]`): Of each regressor over the runs.
        covariance (`list[list[float]]` or `None`): Robust, of the coefficients of u.
        gram_inverse (`list[list[float]]` or `None`): (UᵀWU)⁻¹; for least squares only.
        residual_variance (`float`): Of one run about the rule.
        df (`int`): Degrees of freedom of the intervals.
        max_leverage (`float` or `None`): The largest among the runs.
        runs (`dict`): `hash`, `n`, `ids` (of each run, from `columns` and the losses), `base_model`, `recipe_hash`.
        options (`dict`): The arguments of the fit that matter to reproduce it, `seed` and `select` among them.
    """

    mean: list[float]
    sd: list[float]
    covariance: list[list[float]] | None
    gram_inverse: list[list[float]] | None
    residual_variance: float
    df: int
    max_leverage: float | None
    runs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class FittedRule:
    """What a fit finds: the fields of a rule that have no other origin, documented there."""

    terms: list[Term]
    weights: list[float]
    intercept: float
    covariates: list[Term]
    covariate_weights: list[float]
    regressor: Any
    fitted: Fit
    diagnostics: Diagnostics


@dataclass
class Prepared:
    """Runs as a regression.

    Attributes:
        runs ([`RunTable`]): The runs.
        measured (`np.ndarray` of shape (n, sets)): What is explained of each evaluation set: its loss, or the log.
        in_every (`list[Term]`): The terms in every rule.
        candidates (`list[Term]`): The terms to choose from.
        problem ([`Problem`]): Has the mean over the sets as its target, and both kinds of terms as columns.
        mean (`np.ndarray`): Of each term over the runs.
        sd (`np.ndarray`): Of each term over the runs.
    """

    runs: RunTable
    measured: np.ndarray
    in_every: list[Term]
    candidates: list[Term]
    problem: Problem
    mean: np.ndarray
    sd: np.ndarray

    def terms(self, subset: np.ndarray) -> list[Term]:
        """The candidates in a rule."""
        return [term for term, taken in zip(self.candidates, subset) if taken]

    def regressors(self, subset: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The columns u of a rule, the constant first, and the means and standard deviations of the others."""
        used = self.problem.columns(subset)
        return self.problem.x[:, used], self.mean[used[1:] - 1], self.sd[used[1:] - 1]


def fit_rule(runs: RunTable, options: FitOptions) -> FittedRule:
    """Does the work of [`LossEstimator.fit`]."""
    prepared = prepare(runs, options)
    rng = np.random.default_rng([options.seed, 0])
    if options.model == "ols":
        estimate = estimate_least_squares(prepared.problem, options.num_bootstraps, rng)
        held_out = choice.held_out
    else:
        estimate = estimate_model(options.model, prepared.problem, options.num_bootstraps, rng)
        held_out = penalized.held_out_by(options.model)
    return assemble(prepared, estimate, validate(prepared, estimate, held_out, options), options)


def prepare(runs: RunTable, options: FitOptions) -> Prepared:
    """Makes the regression, and refuses runs that cannot carry one."""
    targets = options.targets
    if own := [name for name in targets if name in runs.columns]:
        raise InstructMineError(f"'{own[0]}' is what is to be explained: leave it out of indicators and covariates")
    if options.log_target and (runs.losses <= 0).any():
        row, column = np.argwhere(runs.losses <= 0)[0]
        worst = f"'{targets[column]}' is {runs.losses[row, column]:g} in a run"
        raise InstructMineError(f"{worst}, and a loss ≤ 0 has no logarithm: mend it, or fit with log_target=False")
    measured = np.log(runs.losses) if options.log_target else runs.losses
    y = measured.mean(axis=1)
    if np.ptp(y) <= 1e-12 * np.abs(y).max():
        raise InstructMineError(f"'{', '.join(targets)}' is the same in every run: there is nothing to explain")

    candidates, in_every, columns = fit_terms(runs, options)
    terms = [*in_every, *candidates]
    # A square comes after its linear term.
    linear = {term.column: k for k, term in enumerate(candidates) if term.power == 1}
    requires = [linear[term.column] if term.power == 2 else None for term in candidates]
    few = _check_number(runs, options, len(in_every), requires)
    with np.errstate(over="ignore", invalid="ignore"):
        raw = design(terms, columns)
        mean, sd = raw.mean(axis=0), raw.std(axis=0, ddof=1)
    for term, spread in zip(terms, sd):
        if not _SMALLEST < spread < 1 / _SMALLEST:
            raise InstructMineError(
                f"the values of '{term.name}' are too {'small' if spread <= _SMALLEST else 'large'} to compute with: "
                f"give the column another unit"
            )
    x = (raw - mean) / sd
    # Fewer runs than regressors make every one a combination of others: then only copies are refused.
    for some in combinations(range(len(terms)), 2) if few else [range(len(terms))]:
        refuse_collinear([terms[k].name for k in some], x[:, list(some)])
    x = np.column_stack([np.ones(len(x)), x])
    problem = Problem(
        x, y, runs.weights, runs.mixtures, 1 + len(in_every), requires, select=options.select, max_vif=options.max_vif
    )
    return Prepared(runs, measured, in_every, candidates, problem, mean, sd)


def _check_number(runs: RunTable, options: FitOptions, in_every: int, requires: list[int | None]) -> bool:
    """Refuses too few runs, and tells of a choice by size; returns whether the runs are fewer than the regressors."""
    mixtures, regressors = int(runs.mixtures.max()) + 1, in_every + len(requires)
    few, at_once = mixtures < regressors + 2, regressors
    if options.select != "none" and choice.by_size(requires):
        at_once = in_every + choice.longest(len(requires), mixtures)
        runs.notes.append(
            f"{len(requires)} candidates have too many subsets to compare each. A stepwise search finds the best of "
            f"each size up to {at_once - in_every}, and '{options.select}' chooses the size."
        )
    needed = at_once + 2
    if mixtures < needed:
        raise InstructMineError(
            f"{len(runs)} runs of {mixtures} different mixtures are too few for {regressors} regressors: at least "
            f"{needed} mixtures are needed; add runs, or name fewer with indicators=[...]"
        )
    # So many equally weighted runs would be as sure (Kish 1965).
    if (as_good := runs.weights.sum() ** 2 / (runs.weights**2).sum()) < needed:
        raise InstructMineError(
            f"the weights '{options.weights}' make {len(runs)} runs as good as {as_good:.1f}, too few for "
            f"{regressors} regressors: even them out, or name fewer indicators"
        )
    if few:
        warnings.warn(
            f"{mixtures} mixtures are fewer than {regressors} regressors need: some set of them fits any losses. The "
            f"held-out R² and the permutation p count that; the choice of single indicators may be chance",
            stacklevel=5,
        )
    return few


def fit_terms(runs: RunTable, options: FitOptions) -> tuple[list[Term], list[Term], dict[str, np.ndarray]]:
    """Returns the candidate terms, the terms in every rule, and the columns they read."""
    columns, logged = dict(runs.columns), options.logged
    if wrong := [name for name in logged if name not in columns]:
        raise InstructMineError(f"logged names {', '.join(map(repr, wrong))}, which is no indicator or covariate here")

    def term(name: str, power: int = 1, centered: bool = False) -> Term:
        plain = Term(name, log=name in logged)
        values = plain(columns[name])
        if np.isnan(values).any():
            least = columns[name].min()
            raise InstructMineError(f"'{name}' is {least:g} in a run, which has no logarithm: leave it out of logged")
        center = float(values.mean()) if centered else 0.0
        return Term(name, plain.log, power, center, float(values.std(ddof=1)) if options.standardize else 1.0)

    if wrong := [name for name in options.squared if name not in runs.indicators]:
        raise InstructMineError(f"squared names {', '.join(map(repr, wrong))}, which is not among the indicators")
    candidates = [term(name, centered=options.standardize) for name in runs.indicators]
    # A square is taken about the mean: about 0 it would repeat the linear term.
    candidates += [term(name, power=2, centered=True) for name in options.squared]
    # Centred, so that leaving a covariate out of a prediction holds it at its mean over the runs.
    in_every = [term(name, centered=True) for name in options.covariates]
    for level in sorted(set(map(str, runs.groups)))[1:]:
        name = f"group={level}"
        columns[name] = np.array([float(str(value) == level) for value in runs.groups])
        in_every.append(Term(name, center=float(columns[name].mean())))
    return candidates, in_every, columns


def validate(
    prepared: Prepared, estimate: Estimate, held_out: Callable[..., np.ndarray], options: FitOptions
) -> Diagnostics:
    """Measures how far an estimate can be trusted.

    Args:
        held_out (`Callable`): [`choice.held_out`] or another model's function of the same signature.
    """
    runs, problem = prepared.runs, prepared.problem
    names = [term.name for term in prepared.candidates]
    terms = [term.name for term in (*prepared.in_every, *prepared.terms(estimate.subset))]
    u = prepared.regressors(estimate.subset)[0]
    candidates = problem.x[:, problem.forced :]
    correlation = np.atleast_2d(np.corrcoef(candidates, rowvar=False))
    ceiling = noise_ceiling(problem.y, problem.mixtures)
    spreads = replicate_spreads(problem.y, problem.mixtures)
    replicated = len(problem.y) > problem.num_mixtures
    diagnostics = Diagnostics(
        n=len(problem.y),
        num_mixtures=problem.num_mixtures,
        failed=runs.failed,
        p=len(terms),
        coefficients=coefficient_table(prepared, estimate) if estimate.beta is not None else [],
        # The choice, and what else could have been chosen.
        candidates=names,
        chosen_share=dict(zip(names, estimate.chosen_share.tolist())) if estimate.chosen_share is not None else {},
        subsets=problem.longest + 1 if problem.by_size else int(problem.allowed.sum()),
        rivals=None if estimate.good is None else int(estimate.good.sum()),
        interchangeable=_interchangeable(estimate, names, correlation),
        # How the regressors lie.
        vif=dict(zip(terms, vif(u[:, 1:]).tolist())),
        candidate_vif=dict(zip(names, vif(candidates).tolist())),
        correlation=correlation.tolist(),
        condition_number=condition_number(u[:, 1:]),
        source_r2=source_r2(names, candidates, runs.shares),
        regressors=u[:, 1:].tolist(),
        measured=problem.y.tolist(),
        # How well it predicts, and how well it could.
        noise_ceiling=ceiling["ceiling"],
        noise_ceiling_interval=ceiling["interval"],
        noise_sd=ceiling["sd"],
        replicates=spreads,
        unequal_noise_p=unequal_noise_p(spreads),
        # Other models are too slow to tune for hundreds of random splits.
        leave_one_source_out_r2=leave_one_source_out(
            held_out, problem, runs, options.seed, compare=options.model == "ols" and options.num_permutations > 0
        ),
        other_evaluation_sets={},
        covariance_type="bootstrap" if estimate.gram_inverse is None else "CR3" if replicated else "HC3",
        bootstraps=options.num_bootstraps,
        notes=runs.notes,
        **vars(estimate.in_sample),
        **held_out_statistics(
            held_out, problem, REPEATS.get(options.model, OTHER_REPEATS), options.num_permutations, options.seed
        ),
    )
    diagnostics.other_evaluation_sets = other_evaluation_sets(
        runs.other_losses, np.array(diagnostics.held_out), options.log_target, runs.weights
    )
    if len(options.targets) > 1:
        _compare_sets(diagnostics, prepared, u, options.targets)
    return diagnostics


def assemble(prepared: Prepared, estimate: Estimate, diagnostics: Diagnostics, options: FitOptions) -> FittedRule:
    """The fields of the rule, with its coefficients in the terms' own units."""
    runs, gram_inverse = prepared.runs, estimate.gram_inverse
    u, mean, sd = prepared.regressors(estimate.subset)
    estimates = [coefficient.estimate for coefficient in diagnostics.coefficients]
    first = 1 + len(prepared.in_every)
    return FittedRule(
        terms=prepared.terms(estimate.subset),
        weights=estimates[first:],
        intercept=estimates[0] if estimates else float("nan"),
        covariates=prepared.in_every,
        covariate_weights=estimates[1:first],
        regressor=estimate.regressor,
        fitted=Fit(
            mean=mean.tolist(),
            sd=sd.tolist(),
            covariance=estimate.covariance.tolist() if estimate.covariance is not None else None,
            gram_inverse=gram_inverse.tolist() if gram_inverse is not None else None,
            residual_variance=estimate.residual_variance,
            df=estimate.df,
            max_leverage=float(leverage(u, gram_inverse).max()) if gram_inverse is not None else None,
            runs={"hash": runs.hash, "n": len(runs), "ids": runs.ids, "columns": runs.indicators, **runs.facts},
            options=options.kept,
        ),
        diagnostics=diagnostics,
    )


def coefficient_table(prepared: Prepared, estimate: Estimate) -> list[Coefficient]:
    """The coefficients in the terms' own units, from those of the standardised regressors."""
    from scipy.stats import t

    beta, covariance = estimate.beta, estimate.covariance
    assert beta is not None and covariance is not None and estimate.draws is not None  # AutoML alone has none
    u, mean, sd = prepared.regressors(estimate.subset)
    back = np.diag(np.concatenate([[1.0], 1 / sd]))
    back[0, 1:] = -mean / sd
    value = back @ beta
    error = np.sqrt(np.diag(back @ covariance @ back.T))
    draws = estimate.draws @ back.T
    if estimate.gram_inverse is not None:
        reach = t.ppf((1 + LEVEL) / 2, estimate.df) * error
        low, high = value - reach, value + reach
        p = 2 * t.sf(np.abs(value) / np.maximum(error, 1e-300), estimate.df)
    else:  # no theory for a penalised estimate: the bootstrap's percentiles
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        p = [None] * len(value)
    stable = (np.sign(draws) == np.sign(value)).mean(axis=0) if len(draws) else [None] * len(value)
    inflation, spread = vif(u[:, 1:]), prepared.problem.y.std(ddof=1)
    names = [term.name for term in (*prepared.in_every, *prepared.terms(estimate.subset))]
    return [
        Coefficient(
            name=name,
            estimate=float(value[k]),
            error=float(error[k]),
            low=float(low[k]),
            high=float(high[k]),
            p=None if p[k] is None else float(p[k]),
            standardized=float(beta[k] / spread) if k else None,
            vif=float(inflation[k - 1]) if k else None,
            sign_stability=None if share is None else float(share),
        )
        for k, (name, share) in enumerate(zip(("intercept", *names), stable))
    ]


def _compare_sets(diagnostics: Diagnostics, prepared: Prepared, u: np.ndarray, targets: Sequence[str]) -> None:
    """Notes how each evaluation set of a joint rule differs from the common prediction, in level and in slopes."""
    problem = prepared.problem
    in_every, slopes = problem.x[:, : problem.forced], u[:, problem.forced :]
    for name, own in zip(targets, prepared.measured.T - problem.y):
        diagnostics.set_effects[name] = float(np.average(own, weights=problem.weights))
        diagnostics.set_slopes_p[name] = added_terms_p(in_every, slopes, own, problem.weights)


def _interchangeable(estimate: Estimate, names: list[str], correlation: np.ndarray) -> list[list[str]]:
    """Pairs (chosen, left out), correlated above 0.7, whose exchange leaves the rule as good."""
    subset, good = estimate.subset, estimate.good
    if good is None or estimate.compared is None:
        return []
    known = {tuple(s): bool(g) for s, g in zip(estimate.compared.tolist(), good)}
    pairs = []
    for i in np.flatnonzero(subset):
        for j in np.flatnonzero(~subset):
            swapped = subset.copy()
            swapped[[i, j]] = False, True
            if abs(correlation[i, j]) > 0.7 and known.get(tuple(swapped.tolist())):
                pairs.append([names[i], names[j]])
    return pairs
