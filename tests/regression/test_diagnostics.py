"""The statistics against statsmodels, scikit-learn, certified values, and simulations with a known truth."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from simulated_runs import simulated_runs
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.diagnostic import het_breuschpagan
from statsmodels.stats.outliers_influence import variance_inflation_factor
from statsmodels.stats.stattools import jarque_bera

from hf_instructmine import LossEstimator
from hf_instructmine.regression.choice import Problem
from hf_instructmine.regression.diagnostics import least_squares_statistics, source_r2
from hf_instructmine.regression.replicates import added_terms_p, jackknife_covariance, lack_of_fit, noise_ceiling


QUICK = {"permutations": 0, "bootstraps": 0}
REGRESSORS = ["GNPDEFL", "GNP", "UNEMP", "ARMED", "POP", "YEAR"]


@pytest.fixture(scope="module")
def longley():
    """Longley's data (1967), the classic of collinearity, fitted with all six regressors."""
    data = sm.datasets.longley.load_pandas().data
    rule = LossEstimator.fit(data, "TOTEMP", indicators=REGRESSORS, select="none", log_target=False, **QUICK)
    return data, rule


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return simulated_runs(n=40, replicates=6, seed=1)


@pytest.fixture(scope="module")
def fitted(runs):
    rule = LossEstimator.fit(runs, indicators=["reward", "mtld", "output_length"], select="none", **QUICK)
    x = sm.add_constant(runs[["reward", "mtld", "output_length"]].to_numpy())
    return rule, sm.OLS(np.log(runs["loss_self_instruct"].to_numpy()), x).fit(), x


def test_longley_coefficients_are_the_certified_ones(longley):
    # NIST Statistical Reference Datasets, Longley: certified to 15 digits.
    certified = {
        "intercept": -3482258.63459582,
        "GNPDEFL": 15.0618722713733,
        "GNP": -0.0358191792925910,
        "UNEMP": -2.02022980381683,
        "ARMED": -1.03322686717359,
        "POP": -0.0511041056535807,
        "YEAR": 1829.15146461355,
    }
    _, rule = longley
    assert rule.coefficients == pytest.approx(certified, rel=1e-8)
    assert rule.diagnostics.r2 == pytest.approx(0.995479004577296, rel=1e-10)
    assert np.sqrt(rule.fitted.residual_variance) == pytest.approx(304.854073561965, rel=1e-9)


def test_longley_variance_inflation_is_the_published_one(longley):
    # As R's car::vif(lm(Employed ~ ., longley)) prints them.
    published = [135.53244, 1788.51348, 33.61889, 3.58893, 399.15102, 758.98060]
    data, rule = longley
    assert list(rule.diagnostics.vif.values()) == pytest.approx(published, abs=5e-6)
    x = sm.add_constant(data[REGRESSORS].to_numpy())
    expected = [variance_inflation_factor(x, k) for k in range(1, 7)]
    assert list(rule.diagnostics.vif.values()) == pytest.approx(expected, rel=1e-6)
    values = np.linalg.eigvalsh(np.corrcoef(x[:, 1:], rowvar=False))
    assert rule.diagnostics.condition_number == pytest.approx(np.sqrt(values[-1] / values[0]), rel=1e-6)


def test_longley_robust_errors_are_statsmodels_hc3(longley):
    data, rule = longley
    result = sm.OLS(data["TOTEMP"], sm.add_constant(data[REGRESSORS])).fit(cov_type="HC3", use_t=True)
    table = rule.diagnostics.coefficients
    assert rule.diagnostics.covariance_type == "HC3"
    assert [c.error for c in table] == pytest.approx(result.bse.tolist(), rel=1e-5)
    assert [c.p for c in table] == pytest.approx(result.pvalues.tolist(), rel=1e-4)
    assert [c.low for c in table] == pytest.approx(result.conf_int()[0].tolist(), rel=1e-5)


def test_in_sample_statistics_are_statsmodels(fitted):
    rule, result, x = fitted
    d, influence = rule.diagnostics, result.get_influence()
    assert d.r2 == pytest.approx(result.rsquared)
    assert d.adj_r2 == pytest.approx(result.rsquared_adj)
    assert d.aic == pytest.approx(result.aic)
    assert d.bic == pytest.approx(result.bic)
    assert d.aicc == pytest.approx(sm.tools.eval_measures.aicc(result.llf, 40, 5) - 2)
    np.testing.assert_allclose(d.residuals, result.resid, atol=1e-12)
    np.testing.assert_allclose(d.leverage, influence.hat_matrix_diag, rtol=1e-8)
    np.testing.assert_allclose(d.cooks_distance, influence.cooks_distance[0], rtol=1e-6)
    assert d.breusch_pagan["p"] == pytest.approx(het_breuschpagan(result.resid, x)[1])
    assert d.jarque_bera["p"] == pytest.approx(jarque_bera(result.resid)[1])
    assert [c.standardized for c in d.coefficients[1:]] == pytest.approx(
        result.params[1:] * x[:, 1:].std(axis=0, ddof=1) / result.model.endog.std(ddof=1)
    )


def test_weighted_fits_are_statsmodels_wls(runs):
    runs = runs.assign(precision=np.random.default_rng(0).uniform(0.2, 3, len(runs)))
    rule = LossEstimator.fit(runs, indicators=["reward", "mtld"], select="none", weights="precision", **QUICK)
    weights = runs["precision"] / runs["precision"].mean()
    x = sm.add_constant(runs[["reward", "mtld"]].to_numpy())
    result = sm.WLS(np.log(runs["loss_self_instruct"]), x, weights=weights).fit()
    assert list(rule.coefficients.values()) == pytest.approx(result.params.tolist(), rel=1e-8)
    assert rule.diagnostics.r2 == pytest.approx(result.rsquared)
    alone = runs.iloc[:34]  # without replicates the errors are HC3
    rule = LossEstimator.fit(alone, indicators=["reward", "mtld"], select="none", weights="precision", **QUICK)
    weights = alone["precision"] / alone["precision"].mean()
    hc3 = sm.WLS(np.log(alone["loss_self_instruct"]), x[:34], weights=weights).fit(cov_type="HC3")
    assert [c.error for c in rule.diagnostics.coefficients] == pytest.approx(hc3.bse.tolist(), rel=1e-7)


def test_press_leaves_whole_mixtures_out(runs, fitted):
    rule, _, x = fitted
    y = np.log(runs["loss_self_instruct"].to_numpy())
    predicted = cross_val_predict(LinearRegression(), x, y, groups=runs["mixture_id"], cv=LeaveOneGroupOut())
    assert rule.diagnostics.press == pytest.approx(((y - predicted) ** 2).sum())
    assert rule.diagnostics.loo_r2 == pytest.approx(r2_score(y, predicted))


def test_press_is_leave_one_out_where_nothing_is_repeated(runs):
    rule = LossEstimator.fit(runs.iloc[:34], indicators=["reward", "mtld"], select="none", **QUICK)
    x = sm.add_constant(runs[["reward", "mtld"]].to_numpy()[:34])
    result = sm.OLS(np.log(runs["loss_self_instruct"].to_numpy()[:34]), x).fit()
    assert rule.diagnostics.press == pytest.approx((result.get_influence().resid_press ** 2).sum())


def test_replicates_make_the_covariance_that_of_leaving_each_mixture_out(runs, fitted):
    _, result, x = fitted
    codes = pd.factorize(runs["mixture_id"])[0]
    covariance, _ = jackknife_covariance(x, result.resid, np.ones(len(x)), codes)
    changes = []
    for code in range(codes.max() + 1):
        left = sm.OLS(result.model.endog[codes != code], x[codes != code]).fit()
        changes.append(left.params - result.params)
    np.testing.assert_allclose(covariance, np.array(changes).T @ np.array(changes), rtol=1e-6)


def test_lack_of_fit_is_the_anova_against_one_mean_per_mixture(runs):
    y = np.log(runs["loss_self_instruct"].to_numpy())
    data = runs.assign(y=y)
    table = anova_lm(smf.ols("y ~ reward + mtld", data).fit(), smf.ols("y ~ C(mixture_id)", data).fit())
    x = sm.add_constant(runs[["reward", "mtld"]].to_numpy())
    found = lack_of_fit(x, y, np.ones(len(y)), pd.factorize(runs["mixture_id"])[0])
    assert found["f"] == pytest.approx(table["F"].iloc[1])
    assert found["p"] == pytest.approx(table["Pr(>F)"].iloc[1])
    assert (found["df_lack"], found["df_pure"]) == (31, 6)


def test_lack_of_fit_sees_a_curve_and_needs_replicates():
    rng = np.random.default_rng(0)
    z = np.repeat(np.linspace(-1, 1, 12), 2)
    x = np.column_stack([np.ones(24), z])
    bent = z**2 + 0.05 * rng.normal(size=24)
    assert lack_of_fit(x, bent, np.ones(24), np.repeat(np.arange(12), 2))["p"] < 1e-6
    assert lack_of_fit(x, bent, np.ones(24), np.arange(24)) is None


def test_added_terms_are_tested_as_an_anova_tests_them(runs):
    data = runs.assign(y=np.log(runs["loss_self_instruct"]))
    small, large = smf.ols("y ~ reward", data).fit(), smf.ols("y ~ reward + mtld + output_length", data).fit()
    found = added_terms_p(small.model.exog, large.model.exog[:, 2:], data["y"].to_numpy(), np.ones(len(data)))
    assert found == pytest.approx(anova_lm(small, large)["Pr(>F)"].iloc[1])


def test_noise_ceiling_is_the_intraclass_correlation_of_a_balanced_anova():
    rng = np.random.default_rng(0)
    mixtures = np.repeat(np.arange(15), 3)
    y = rng.normal(size=15)[mixtures] + 0.5 * rng.normal(size=45)
    table = anova_lm(smf.ols("y ~ C(m)", pd.DataFrame({"y": y, "m": mixtures})).fit())
    between, within = table["mean_sq"]
    found = noise_ceiling(y, mixtures)
    assert found["ceiling"] == pytest.approx((between - within) / (between + 2 * within))
    assert found["sd"] == pytest.approx(np.sqrt(within))


def test_noise_ceiling_covers_the_truth_with_few_replicates():
    rng = np.random.default_rng(0)
    mixtures = np.concatenate([np.arange(24), np.arange(6)])
    estimates, covered = [], 0
    for _ in range(1000):
        y = 2.0 * rng.normal(size=24)[mixtures] + rng.normal(size=30)  # 4 of 5 parts of variance are the mixtures'
        found = noise_ceiling(y, mixtures)
        estimates.append(found["ceiling"])
        covered += found["interval"][0] <= 0.8 <= found["interval"][1]
    assert 0.93 <= covered / 1000 <= 0.97
    assert np.median(estimates) == pytest.approx(0.8, abs=0.04)


def test_noise_ceiling_is_unknown_without_replicates():
    assert noise_ceiling(np.arange(5.0), np.arange(5)) == {"ceiling": None, "interval": None, "sd": None}


def test_sources_that_fix_an_indicator_are_found():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(3), 60)
    x = np.column_stack([shares @ [1.0, 2.0, 4.0] + 0.001 * rng.normal(size=60), rng.normal(size=60)])
    found = source_r2(["mtld", "reward"], x, shares)
    assert found["mtld"] > 0.99 and found["reward"] < 0.2


@pytest.mark.parametrize("replicates", [0, 10])
def test_intervals_cover_the_truth_in_93_to_97_of_100_draws(replicates):
    """Unequal variances, and with replicates a lack of fit that they share, as mixtures have."""
    from scipy.stats import t

    rng = np.random.default_rng(3)
    n, truth = 60, np.array([0.5, -0.3, 0.0])
    of = np.concatenate([np.arange(n - replicates), np.arange(replicates)])
    covered = np.zeros(3)
    for _ in range(500):
        x = np.column_stack([np.ones(n), rng.normal(size=(n - replicates, 2))[of]])
        spread = 0.5 + 0.5 * np.abs(x[:, 1])
        shared = 0.5 * rng.normal(size=n - replicates)[of] if replicates else 0
        y = x @ truth + shared + spread * rng.normal(size=n)
        problem = Problem(x, y, np.ones(n), of, 1, [None] * 2, select="none")
        result, covariance, _ = least_squares_statistics(x, problem)
        reach = t.ppf(0.975, n - replicates - 3) * np.sqrt(np.diag(covariance))
        covered += np.abs(result.params - truth) <= reach
    assert ((covered / 500 >= 0.93) & (covered / 500 <= 0.975)).all(), covered / 500
    assert 0.93 <= covered.mean() / 500 <= 0.97
