"""How regressors lie, against statsmodels and scikit-learn."""

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.outliers_influence import variance_inflation_factor

from hf_instructmine.regression.regressors import condition_number, leverage, vif


def columns(n: int = 30, p: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)) @ rng.normal(size=(p, p)) + rng.normal(size=p)


@pytest.mark.parametrize("p", [1, 2, 5])
def test_variance_inflation_is_statsmodels(p):
    x = columns(p=p)
    with_constant = sm.add_constant(x)
    expected = [variance_inflation_factor(with_constant, k) for k in range(1, p + 1)]
    np.testing.assert_allclose(vif(x), expected, rtol=1e-9)
    np.testing.assert_allclose(vif(1000 * x + 7), expected, rtol=1e-9)


def test_columns_that_determine_each_other_have_infinite_inflation_and_the_others_their_own():
    x = columns(p=4)
    x[:, 2] = x[:, 0] - 2 * x[:, 1]
    factors = vif(x)
    assert np.isinf(factors[:3]).all() and np.isfinite(factors[3])
    assert factors[3] == pytest.approx(vif(x[:, [0, 1, 3]])[2])
    assert vif(np.column_stack([x[:, 0], np.ones(30)])).tolist() == [1.0, np.inf], "a constant tells nothing"


def test_without_columns_nothing_is_collinear():
    assert vif(np.empty((10, 0))).shape == (0,)
    assert condition_number(np.empty((10, 0))) == 1.0


def test_leverage_is_the_diagonal_of_the_hat_matrix():
    x = sm.add_constant(columns())
    expected = sm.OLS(np.zeros(30), x).fit().get_influence().hat_matrix_diag
    gram_inverse = np.linalg.inv(x.T @ x)
    np.testing.assert_allclose(leverage(x, gram_inverse), expected, rtol=1e-8)
    assert leverage(x, gram_inverse).sum() == pytest.approx(5)
    assert leverage(x[:1], gram_inverse).shape == (1,)
