"""Other ways to find a rule than a choice of regressors and least squares: ridge, elastic net, PLS, and AutoML.

Ridge, elastic net and PLS keep all regressors and bear collinearity; they end in linear coefficients, so their rules
are kept and applied as any other. FLAML's AutoML is the non-linear comparator: it says what a linear rule misses.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InstructMineError
from .choice import FOLDS, Problem, assign_folds


MODELS = ("ols", "ridge", "elastic-net", "pls", "automl")
AUTOML_TRIALS = 20


def tune(model: str, problem: Problem, y: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> Any:
    """Finds a model's penalty, or number of components, by cross-validation over whole mixtures.

    Args:
        model (`str`): `"ridge"`, `"elastic-net"`, `"pls"` or `"automl"`.
        problem ([`Problem`]): The regressors.
        y (`np.ndarray` of shape (n,)): The target.
        weights (`np.ndarray` of shape (n,)): Row weights; 0 leaves a row out.
        rng (`np.random.Generator`): Deals the folds.

    Returns:
        A scikit-learn regressor with the settings found, to be fitted.
    """
    rows = np.flatnonzero(weights > 0)
    x, y, mixtures = problem.x[rows, 1:], y[rows], problem.mixtures[rows]
    folds = assign_folds(mixtures, FOLDS, rng)
    splits = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in np.unique(folds)]
    if model == "automl":
        return _automl(x, y, folds, int(rng.integers(2**31)))

    from sklearn.cross_decomposition import PLSRegression
    from sklearn.linear_model import ElasticNet, ElasticNetCV, Ridge

    # The columns of x are standardised over all runs already, which tells nothing of the target.
    weights = weights[rows]
    if model == "elastic-net":
        search = ElasticNetCV(l1_ratio=[0.2, 0.6, 1.0], alphas=20, cv=splits, max_iter=10_000)
        search.fit(x, y, sample_weight=weights)
        return ElasticNet(alpha=search.alpha_, l1_ratio=search.l1_ratio_, max_iter=10_000)
    if model == "ridge":
        penalties = np.logspace(-2, 4, 13)
        errors = sum(
            weights[test] @ (y[test, None] - _ridge_paths(x[train], y[train], weights[train], x[test], penalties)) ** 2
            for train, test in splits
        )
        return Ridge(alpha=penalties[np.argmin(errors)])
    most = min(x.shape[1], min(len(train) for train, _ in splits) - 1)
    candidates = [PLSRegression(n_components=k, scale=False) for k in range(1, most + 1)]
    errors = [
        sum(((y[test] - np.ravel(pls.fit(x[train], y[train]).predict(x[test]))) ** 2).sum() for train, test in splits)
        for pls in candidates
    ]
    return candidates[int(np.argmin(errors))]


def _ridge_paths(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, new: np.ndarray, penalties: np.ndarray
) -> np.ndarray:
    """Predictions of `new` at every penalty, shape (rows, penalties), from one factorisation."""
    from sklearn.linear_model import ridge_regression

    mean, level = np.average(x, axis=0, weights=weights), np.average(y, weights=weights)
    targets = np.tile((y - level)[:, None], len(penalties))
    slopes = ridge_regression(x - mean, targets, penalties, sample_weight=weights, solver="cholesky")
    return level + (new - mean) @ slopes.T


def fit(regressor: Any, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Any:
    """Fits a regressor of [`tune`] to the rows of positive weight; PLS and AutoML take no weights."""
    rows = weights > 0
    known = {"sample_weight": weights[rows]} if _takes_weights(regressor) else {}
    return regressor.fit(x[rows, 1:], y[rows], **known)


def _takes_weights(regressor: Any) -> bool:
    from sklearn.utils.validation import has_fit_parameter

    return has_fit_parameter(regressor, "sample_weight")


def linear_coefficients(regressor: Any, columns: int) -> np.ndarray:
    """The constant and slopes of a fitted linear regressor, shape (1 + columns,)."""
    probes = regressor.predict(np.vstack([np.zeros(columns), np.eye(columns)])).ravel()
    return np.concatenate([probes[:1], probes[1:] - probes[0]])


def bootstrap_coefficients(regressor: Any, problem: Problem, weights: np.ndarray) -> np.ndarray:
    """Coefficients in each resample at the penalty found on all runs, shape (resamples, columns)."""
    from sklearn.base import clone

    estimates = []
    for resample in weights:
        if _takes_weights(regressor):
            fitted = fit(clone(regressor), problem.x, problem.y, resample)
        else:  # PLS takes no weights: a mixture drawn twice is there twice
            rows = np.repeat(np.arange(len(resample)), np.rint(resample).astype(int))
            fitted = clone(regressor).fit(problem.x[rows, 1:], problem.y[rows])
        estimates.append(linear_coefficients(fitted, problem.x.shape[1] - 1))
    return np.stack(estimates)


def held_out_by(model: str) -> Callable[..., np.ndarray]:
    """Returns a function like [`choice.held_out`] that tunes and fits `model` on each training set."""

    def held_out(problem: Problem, y: np.ndarray, training: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        predicted = np.full((len(training), *y.shape), np.nan)
        for t, weights in enumerate(training):
            rows = np.flatnonzero(weights == 0)
            for m in range(y.shape[1]):
                fitted = fit(tune(model, problem, y[:, m], weights, rng), problem.x, y[:, m], weights)
                predicted[t, rows, m] = np.ravel(fitted.predict(problem.x[rows, 1:]))
        return predicted

    return held_out


class _AutoML:
    """FLAML's search over regressors, with the folds of ours and a count of trials in place of a time budget, so that
    the result does not hang on the machine's speed."""

    def __init__(self, folds: np.ndarray, seed: int):
        self.folds, self.seed = folds, seed

    def fit(self, x: np.ndarray, y: np.ndarray) -> "_AutoML":
        from flaml.automl import AutoML

        self.automl = AutoML()
        self.automl.fit(
            X_train=x,
            y_train=y,
            task="regression",
            metric="mse",
            estimator_list=["lgbm", "rf", "extra_tree", "kneighbor"],
            eval_method="cv",
            split_type="group",
            groups=self.folds,
            n_splits=min(5, len(np.unique(self.folds))),
            max_iter=AUTOML_TRIALS,
            time_budget=-1,
            n_jobs=1,
            seed=self.seed,
            verbose=0,
        )
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.automl.predict(x)


def _automl(x: np.ndarray, y: np.ndarray, folds: np.ndarray, seed: int) -> _AutoML:
    try:
        from flaml.automl import AutoML  # noqa: F401
    except ImportError as error:
        raise InstructMineError(
            "model='automl' needs FLAML's regressors, which are not installed: run `pip install 'flaml[automl]'`"
        ) from error
    return _AutoML(folds, seed)
