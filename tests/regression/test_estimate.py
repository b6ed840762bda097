"""Estimates against statsmodels and scikit-learn."""

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import LinearRegression

from hf_instructmine.regression.choice import Problem
from hf_instructmine.regression.estimate import estimate_least_squares, estimate_model


def problem_of(select: str = "none", n: int = 40, replicates: int = 6) -> Problem:
    rng = np.random.default_rng(0)
    of = np.concatenate([np.arange(n - replicates), np.arange(replicates)])
    z = rng.normal(size=(n - replicates, 3))[of]
    z = (z - z.mean(axis=0)) / z.std(axis=0, ddof=1)
    y = 2 * z[:, 0] + 0.1 * rng.normal(size=n)
    return Problem(np.column_stack([np.ones(n), z]), y, np.ones(n), of, 1, [None] * 3, select=select)


def test_least_squares_is_statsmodels():
    problem = problem_of()
    found = estimate_least_squares(problem, 20, np.random.default_rng(0))
    result = sm.OLS(problem.y, problem.x).fit()
    assert found.subset.all() and found.chosen_share.tolist() == [1, 1, 1]
    np.testing.assert_allclose(found.beta, result.params)
    np.testing.assert_allclose(found.gram_inverse, result.normalized_cov_params)
    assert found.residual_variance == pytest.approx(result.mse_resid)
    assert found.in_sample.r2 == pytest.approx(result.rsquared)
    assert found.df == 34 - 4, "replicates tell of noise, not of slopes"
    assert found.draws.shape == (20, 4)


@pytest.mark.parametrize("select", ["cv", "bic"])
def test_what_matters_is_chosen(select):
    found = estimate_least_squares(problem_of(select), 30, np.random.default_rng(0))
    assert found.subset[0] and found.chosen_share[0] == 1.0
    assert len(found.beta) == 1 + found.subset.sum()
    assert found.good[[s.tolist() == found.subset.tolist() for s in problem_of(select).subsets].index(True)]


def test_another_model_keeps_all_candidates_and_has_no_statistics_of_least_squares():
    problem = problem_of()
    found = estimate_model("pls", problem, 10, np.random.default_rng(0))
    assert found.subset.all() and found.good is None and found.chosen_share is None
    assert found.gram_inverse is None and found.in_sample.aic is None and found.in_sample.leverage is None
    # As many components as columns make PLS least squares; fewer are near it, where one column carries all.
    plain = LinearRegression().fit(problem.x[:, 1:], problem.y)
    np.testing.assert_allclose(found.beta[1:], plain.coef_, atol=0.1)
    np.testing.assert_allclose(found.covariance, np.cov(found.draws, rowvar=False))
