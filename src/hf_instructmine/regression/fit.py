"""Fitting a rule to runs: reading, choosing, estimating, diagnosing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InstructMineError
from ..versions import check_versions
from . import choice, penalized
from .choice import CRITERIA, Problem
from .diagnostics import (
    LEVEL,
    Coefficient,
    Diagnostics,
    added_terms_p,
    collinearity,
    held_out_statistics,
    least_squares_statistics,
    leave_one_source_out,
    noise_ceiling,
    other_evaluation_sets,
    source_r2,
)
from .runs import Runs, refuse_collinear
from .terms import Term, design


check_versions("scikit-learn", "scipy", "statsmodels")


# Nested cross-validation is repeated over this many partitions; fewer for models that are slow to tune.
REPEATS = {"ols": 10, "automl": 1}
OTHER_REPEATS = 3
ONLY_LEAST_SQUARES = (
    *("adj_r2", "aic", "bic", "aicc", "press", "loo_r2", "lack_of_fit", "reset_p"),
    *("breusch_pagan", "jarque_bera", "cooks_distance", "leverage"),
)


@dataclass
class Fit:
    """What a prediction's interval and leverage need, and what the rule was fitted on.

    With z = (m − mean) / sd for the regressors m (the rule's covariates, then its terms) and u = (1, z): the leverage
    of a set is uᵀ·`gram_inverse`·u, the variance of its mean prediction uᵀ·`covariance`·u.

    Attributes:
        mean, sd (`list[float]`): Of each regressor over the runs.
        covariance (`list[list[float]]` or `None`): Robust, of the coefficients of u.
        gram_inverse (`list[list[float]]` or `None`): (UᵀWU)⁻¹; for least squares only.
        residual_variance (`float`): Of one run about the rule. df (`int`): degrees of freedom of its intervals.
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


def fit_terms(
    runs: Runs, logged: Sequence[str], squared: Sequence[str], covariates: Sequence[str], standardize: bool
) -> tuple[list[Term], list[Term], dict[str, np.ndarray]]:
    """Returns the candidate terms, the terms in every rule, and the columns they read."""
    columns = dict(runs.columns)
    if wrong := [name for name in logged if name not in columns]:
        raise InstructMineError(f"logged names {', '.join(map(repr, wrong))}, which is no indicator or covariate here")

    def term(name, power=1, centered=False):
        plain = Term(name, log=name in logged)
        values = plain(columns[name])
        if np.isnan(values).any():
            least = columns[name].min()
            raise InstructMineError(f"'{name}' is {least:g} in a run, which has no logarithm: leave it out of logged")
        center = float(values.mean()) if centered else 0.0
        return Term(name, plain.log, power, center, float(values.std(ddof=1)) if standardize else 1.0)

    if wrong := [name for name in squared if name not in runs.indicators]:
        raise InstructMineError(f"squared names {', '.join(map(repr, wrong))}, which is not among the indicators")
    candidates = [term(name, centered=standardize) for name in runs.indicators]
    # A square is taken about the mean: about 0 it would repeat the linear term.
    candidates += [term(name, power=2, centered=True) for name in squared]
    # Centred, so that leaving a covariate out of a prediction holds it at its mean over the runs.
    in_every = [term(name, centered=True) for name in covariates]
    for level in sorted(set(map(str, runs.groups)))[1:]:
        name = f"group={level}"
        columns[name] = np.array([float(str(value) == level) for value in runs.groups])
        in_every.append(Term(name, center=float(columns[name].mean())))
    return candidates, in_every, columns


def build_problem(
    runs: Runs, y: np.ndarray, candidates: list[Term], in_every: list[Term], columns: dict[str, np.ndarray], **options
) -> tuple[Problem, np.ndarray, np.ndarray]:
    """Standardises the regressors and refuses those that cannot be fitted. Returns the problem, means and sds."""
    terms = [*in_every, *candidates]
    raw = design(terms, columns)
    mixtures, needed = runs.mixtures.max() + 1, len(terms) + 2
    if mixtures < needed:
        raise InstructMineError(
            f"{len(runs)} runs of {mixtures} different mixtures are too few for {len(terms)} regressors: at least "
            f"{needed} mixtures are needed; add runs, or name fewer with indicators=[...]"
        )
    mean, sd = raw.mean(axis=0), raw.std(axis=0, ddof=1)
    x = (raw - mean) / sd
    refuse_collinear([term.name for term in terms], x)
    linear = {term.column: k for k, term in enumerate(candidates) if term.power == 1}
    requires = [linear[term.column] if term.power == 2 else None for term in candidates]
    x = np.column_stack([np.ones(len(x)), x])
    problem = Problem(x, y, runs.weights, runs.mixtures, 1 + len(in_every), requires, **options)
    return problem, mean, sd


def estimate_least_squares(
    problem: Problem, candidates: list[Term], bootstraps: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Chooses regressors and estimates by least squares; coefficients are those of u."""
    y, training = problem.y[:, None], problem.weights[None]
    if problem.select == "cv":
        scores = np.stack([errors[0, :, 0] for errors in choice.fold_errors(problem, y, training, rng)])
    elif problem.select == "none":
        scores = np.zeros((1, 1))
    else:
        scores = choice.subset_scores(problem, y, training, rng)[:, 0]
    best, good = _best(problem, scores)
    subset = problem.subsets[best]
    resamples = choice.bootstrap_weights(problem, bootstraps, rng)
    again = choice.choose(problem, y, resamples, rng)[:, 0] if bootstraps else np.array([best])
    return {
        "subset": subset,
        "good": good,
        "chosen_share": dict(zip([t.name for t in candidates], problem.subsets[again].mean(axis=0).tolist())),
        "bootstrap": choice.bootstrap_coefficients(problem, subset, resamples),
        "regressor": None,
        **least_squares_statistics(problem.x[:, problem.columns(subset)], problem),
    }


def estimate_model(model: str, problem: Problem, bootstraps: int, rng: np.random.Generator) -> dict[str, Any]:
    """Tunes and fits another model, on all candidates. What only least squares has is `None`."""
    y, x = problem.y, problem.x
    regressor = penalized.tune(model, problem, y, problem.weights, rng)
    regressor = penalized.fit(regressor, x, y, problem.weights)
    fitted = np.ravel(regressor.predict(x[:, 1:]))
    if model == "automl":
        beta = draws = covariance = None
    else:
        beta = penalized.linear_coefficients(regressor, x.shape[1] - 1)
        resamples = choice.bootstrap_weights(problem, max(bootstraps, 2), rng)
        draws = penalized.bootstrap_coefficients(regressor, problem, resamples)
        covariance = np.cov(draws, rowvar=False)
    return {
        "subset": problem.subsets[0],
        "good": None,
        "chosen_share": {},
        "bootstrap": draws,
        "regressor": regressor if model == "automl" else None,
        "beta": beta,
        "covariance": covariance,
        "gram_inverse": None,
        "residual_variance": float(problem.weights @ (y - fitted) ** 2 / max(len(y) - x.shape[1], 1)),
        "statistics": {
            **dict.fromkeys(ONLY_LEAST_SQUARES),
            "r2": float(choice.r_squared(y[:, None], fitted[:, None], problem.weights)[0]),
            "residuals": (y - fitted).tolist(),
            "fitted": fitted.tolist(),
        },
    }


def _best(problem: Problem, scores: np.ndarray) -> tuple[int, np.ndarray]:
    """The best subset, and which others are as good: within one standard error of the difference of their errors over
    the folds, or within two units of an information criterion."""
    if problem.select != "cv":
        total = np.where(problem.allowed, scores[:, -1], np.inf)
        best = int(total.argmin())
        near = total <= total[best] + 2 if problem.select in ("aic", "bic", "aicc") else np.arange(len(total)) == best
        return best, near
    partitions = choice.PARTITIONS
    total = np.where(problem.allowed, scores.sum(axis=1), np.inf)
    best = int(total.argmin())
    worse = (scores - scores[best]).reshape(len(scores), partitions, -1)
    error = worse.std(axis=2, ddof=1).mean(axis=1) * np.sqrt(worse.shape[2])
    return best, (worse.sum(axis=2).mean(axis=1) <= error) & problem.allowed


def coefficient_table(found, names: list[str], vif, mean, sd, y: np.ndarray, df: int, model: str) -> list[Coefficient]:
    """The coefficients in the terms' own units, from those of the standardised regressors."""
    from scipy.stats import t

    back = np.diag(np.concatenate([[1.0], 1 / sd]))
    back[0, 1:] = -mean / sd
    estimate = back @ found["beta"]
    error = np.sqrt(np.diag(back @ found["covariance"] @ back.T))
    draws = found["bootstrap"] @ back.T
    if model == "ols":
        reach = t.ppf((1 + LEVEL) / 2, df) * error
        low, high = estimate - reach, estimate + reach
        p = 2 * t.sf(np.abs(estimate) / np.maximum(error, 1e-300), df)
    else:  # no theory for a penalised estimate: the bootstrap's percentiles
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        p = [None] * len(estimate)
    stable = (np.sign(draws) == np.sign(estimate)).mean(axis=0) if len(draws) else [None] * len(estimate)
    return [
        Coefficient(
            name=name,
            estimate=float(estimate[k]),
            error=float(error[k]),
            low=float(low[k]),
            high=float(high[k]),
            p=None if p[k] is None else float(p[k]),
            standardized=float(found["beta"][k] / y.std(ddof=1)) if k else None,
            vif=float(vif[k - 1]) if k else None,
            sign_stability=None if stable[k] is None else float(stable[k]),
        )
        for k, name in enumerate(("intercept", *names))
    ]


def check_options(model: str, select: str, weights: str | None, max_vif: float | None) -> None:
    if model not in penalized.MODELS:
        raise InstructMineError(f"no model '{model}': there are {', '.join(penalized.MODELS)}")
    if select not in CRITERIA:
        raise InstructMineError(f"no criterion '{select}': there are {', '.join(CRITERIA)}")
    if weights is not None and model in ("pls", "automl"):
        raise InstructMineError(f"model='{model}' takes no weights: use 'ols', 'ridge' or 'elastic-net'")
    if max_vif is not None and model != "ols":
        raise InstructMineError(f"max_vif restricts the choice of regressors, and model='{model}' makes none")


def fit_rule(
    runs: Runs,
    targets: Sequence[str],
    *,
    select: str,
    seed: int,
    model: str,
    log_target: bool,
    logged: Sequence[str],
    squared: Sequence[str],
    covariates: Sequence[str],
    standardize: bool,
    max_vif: float | None,
    permutations: int,
    bootstraps: int,
) -> dict[str, Any]:
    """Does the work of [`LossEstimator.fit`]; returns the fields of the rule."""
    if log_target and (runs.losses <= 0).any():
        row, column = np.argwhere(runs.losses <= 0)[0]
        worst = f"'{targets[column]}' is {runs.losses[row, column]:g} in a run"
        raise InstructMineError(f"{worst}, and a loss ≤ 0 has no logarithm: mend it, or fit with log_target=False")
    measured = np.log(runs.losses) if log_target else runs.losses
    y = measured.mean(axis=1)
    if np.ptp(y) <= 1e-12 * np.abs(y).max():
        raise InstructMineError(f"'{', '.join(targets)}' is the same in every run: there is nothing to explain")
    candidates, in_every, columns = fit_terms(runs, logged, squared, covariates, standardize)
    select = select if model == "ols" else "none"
    problem, mean, sd = build_problem(runs, y, candidates, in_every, columns, select=select, max_vif=max_vif)
    rng = np.random.default_rng([seed, 0])
    if model == "ols":
        found = estimate_least_squares(problem, candidates, bootstraps, rng)
        held_out = choice.held_out
    else:
        found = estimate_model(model, problem, bootstraps, rng)
        held_out = penalized.held_out_by(model)

    terms = [term for term, taken in zip(candidates, found["subset"]) if taken]
    names = [term.name for term in (*in_every, *terms)]
    used = problem.columns(found["subset"])
    u, mean, sd = problem.x[:, used], mean[used[1:] - 1], sd[used[1:] - 1]
    vif, condition = collinearity(u[:, 1:])
    # Intervals have the degrees of freedom of the mixtures: replicates tell of noise, not of slopes.
    df = int(problem.mixtures.max() + 1 - len(used)) if model == "ols" else max(len(y) - len(used), 1)
    linear = found["beta"] is not None
    table = coefficient_table(found, names, vif, mean, sd, y, df, model) if linear else []
    leverage = np.einsum("ni,ij,nj->n", u, found["gram_inverse"], u) if model == "ols" else None
    repeats = REPEATS.get(model, OTHER_REPEATS)
    diagnostics = _diagnose(
        problem,
        runs,
        found,
        [term.name for term in candidates],
        coefficients=table,
        p=len(names),
        vif=dict(zip(names, vif.tolist())),
        condition_number=condition,
        regressors=u[:, 1:].tolist(),
        bootstraps=bootstraps,
        leave_one_source_out_r2=leave_one_source_out(held_out, problem, runs, seed),
        **held_out_statistics(held_out, problem, repeats, permutations, seed),
    )
    predicted = np.array(diagnostics.held_out)
    diagnostics.other_evaluation_sets = other_evaluation_sets(runs.other_losses, predicted, log_target, runs.weights)
    if len(targets) > 1:
        slopes = u[:, 1 + len(in_every) :]
        for name, column in zip(targets, measured.T):
            diagnostics.set_effects[name] = float(np.average(column - y, weights=runs.weights))
            diagnostics.set_slopes_p[name] = added_terms_p(
                problem.x[:, : problem.forced], slopes, column - y, runs.weights
            )
    estimates = [c.estimate for c in table]
    return {
        "terms": terms,
        "weights": estimates[1 + len(in_every) :],
        "intercept": estimates[0] if linear else float("nan"),
        "covariates": in_every,
        "covariate_weights": estimates[1 : 1 + len(in_every)],
        "regressor": found["regressor"],
        "fitted": Fit(
            mean=mean.tolist(),
            sd=sd.tolist(),
            covariance=found["covariance"].tolist() if linear else None,
            gram_inverse=found["gram_inverse"].tolist() if model == "ols" else None,
            residual_variance=found["residual_variance"],
            df=df,
            max_leverage=float(leverage.max()) if model == "ols" else None,
            runs={"hash": runs.hash, "n": len(runs), "ids": runs.ids, "columns": runs.indicators, **runs.facts},
        ),
        "diagnostics": diagnostics,
    }


def _diagnose(problem: Problem, runs: Runs, found: dict[str, Any], names: list[str], **known) -> Diagnostics:
    candidates = problem.x[:, problem.forced :]
    correlation = np.atleast_2d(np.corrcoef(candidates, rowvar=False))
    ceiling = noise_ceiling(problem.y, problem.mixtures)
    good = found["good"]
    replicated = len(problem.y) > problem.mixtures.max() + 1
    return Diagnostics(
        n=len(problem.y),
        num_mixtures=int(problem.mixtures.max() + 1),
        failed=runs.failed,
        candidates=names,
        chosen_share=found["chosen_share"],
        subsets=int(problem.allowed.sum()),
        rivals=None if good is None else int(good.sum()),
        interchangeable=_interchangeable(problem, found["subset"], good, names, correlation),
        candidate_vif=dict(zip(names, collinearity(candidates)[0].tolist())),
        correlation=correlation.tolist(),
        source_r2=source_r2(names, candidates, runs.shares),
        measured=problem.y.tolist(),
        noise_ceiling=ceiling["ceiling"],
        noise_ceiling_interval=ceiling["interval"],
        noise_sd=ceiling["sd"],
        other_evaluation_sets={},
        covariance_type="bootstrap" if found["gram_inverse"] is None else "CR3" if replicated else "HC3",
        notes=runs.notes,
        **found["statistics"],
        **known,
    )


def _interchangeable(problem, subset, good, names, correlation) -> list[list[str]]:
    """Pairs (chosen, left out), correlated above 0.7, whose exchange leaves the rule as good."""
    if good is None:
        return []
    known = {tuple(s): bool(g) for s, g in zip(problem.subsets.tolist(), good)}
    pairs = []
    for i in np.flatnonzero(subset):
        for j in np.flatnonzero(~subset):
            swapped = subset.copy()
            swapped[[i, j]] = False, True
            if abs(correlation[i, j]) > 0.7 and known.get(tuple(swapped.tolist())):
                pairs.append([names[i], names[j]])
    return pairs
