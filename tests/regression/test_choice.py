"""The choice of regressors against the slow way: one regression at a time."""

import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import kstest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from hf_instructmine import InstructMineError
from hf_instructmine.regression.choice import (
    FOLDS,
    PARTITIONS,
    Problem,
    assign_folds,
    best_sets,
    bootstrap_coefficients,
    bootstrap_weights,
    choose,
    chosen_sets,
    cross_fit,
    fold_errors,
    held_out,
    permuted_targets,
    r_squared,
    size_scores,
    subset_scores,
)


def problem_of(n=40, p=4, seed=0, replicates=0, forced=1, weights=None, **options) -> Problem:
    rng = np.random.default_rng(seed)
    of = np.concatenate([np.arange(n - replicates), np.arange(replicates)])
    z = (rng.normal(size=(n - replicates, p + forced - 1)) @ rng.normal(size=(p + forced - 1,) * 2))[of]
    x = np.column_stack([np.ones(n), (z - z.mean(0)) / z.std(0)])
    y = 0.5 * x[:, forced] + rng.normal(size=n)
    weights = np.ones(n) if weights is None else weights / weights.mean()
    return Problem(x, y, weights, of, forced, options.pop("requires", [None] * p), **options)


@pytest.fixture(scope="module")
def stackloss():
    """Brownlee's stack loss data: 21 days, three regressors."""
    data = sm.datasets.stackloss.load_pandas()
    x = data.exog.to_numpy()
    return np.column_stack([np.ones(21), (x - x.mean(0)) / x.std(0)]), data.endog.to_numpy()


@pytest.mark.parametrize("criterion", ["aic", "bic", "aicc"])
def test_every_subset_has_the_criterion_that_statsmodels_gives_it(stackloss, criterion):
    x, y = stackloss
    problem = Problem(x, y, np.ones(21), np.arange(21), 1, [None] * 3, select=criterion)
    scores = subset_scores(problem, y[:, None], np.ones((1, 21)), np.random.default_rng(0))[:, 0, 0]
    assert len(problem.subsets) == 8
    for subset, score in zip(problem.subsets, scores):
        result = sm.OLS(y, x[:, problem.columns(subset)]).fit()
        k = len(result.params)
        expected = {
            "aic": result.aic,
            "bic": result.bic,
            # AICc counts the error variance among the parameters; the AIC it corrects does not.
            "aicc": sm.tools.eval_measures.aicc(result.llf, 21, k + 1) - 2,
        }
        assert score == pytest.approx(expected[criterion], rel=1e-10)


def test_every_subset_has_the_cross_validated_error_of_plain_refits():
    problem = problem_of(replicates=6, weights=np.random.default_rng(1).uniform(0.5, 2, 40))
    w = problem.weights
    errors = [e[0, :, 0] for e in fold_errors(problem, problem.y[:, None], w[None], np.random.default_rng(5))]
    rng = np.random.default_rng(5)
    partitions = [assign_folds(problem.mixtures, FOLDS, rng) for _ in range(PARTITIONS)]
    for subset, found in zip(problem.subsets, errors):
        x = problem.x[:, problem.columns(subset)]
        slow = []
        for folds, k in itertools.product(partitions, range(FOLDS)):
            train, test = folds != k, folds == k
            model = LinearRegression(fit_intercept=False).fit(x[train], problem.y[train], sample_weight=w[train])
            slow.append((w[test] * (problem.y[test] - model.predict(x[test])) ** 2).sum())
        np.testing.assert_allclose(found, slow, rtol=1e-9, atol=1e-12)


def test_nested_predictions_are_those_of_choosing_and_refitting_fold_by_fold():
    problem = problem_of(select="bic", replicates=5)
    folds = assign_folds(problem.mixtures, FOLDS, np.random.default_rng(2))
    found = cross_fit(held_out, problem, problem.y[:, None], [folds], np.random.default_rng(0))[0, :, 0]
    slow = np.empty(40)
    for k in range(FOLDS):
        train, test = folds != k, folds == k
        fits = [sm.OLS(problem.y[train], problem.x[train][:, problem.columns(s)]).fit() for s in problem.subsets]
        best = min(range(len(fits)), key=lambda i: fits[i].bic)
        slow[test] = fits[best].predict(problem.x[test][:, problem.columns(problem.subsets[best])])
    np.testing.assert_allclose(found, slow, rtol=1e-9)


@pytest.mark.parametrize(
    ("select", "candidates"), [("cv", 4), ("bic", 4), ("p-value", 4), ("none", 4), ("cv", 13), ("bic", 13)]
)
def test_what_a_mixture_measured_does_not_touch_its_own_prediction(select, candidates):
    problem = problem_of(replicates=6, select=select, p=candidates)
    folds = assign_folds(problem.mixtures, FOLDS, np.random.default_rng(2))
    targets = np.column_stack([problem.y, problem.y])
    of_mixture = problem.mixtures == 3  # two runs
    targets[of_mixture, 1] += 100
    predicted = cross_fit(held_out, problem, targets, [folds], np.random.default_rng(0))[0]
    np.testing.assert_allclose(predicted[of_mixture, 0], predicted[of_mixture, 1], rtol=1e-9)
    assert not np.allclose(predicted[folds != folds[3], 0], predicted[folds != folds[3], 1])


def test_folds_keep_replicates_together_and_are_even():
    problem = problem_of(n=43, replicates=8)
    folds = assign_folds(problem.mixtures, FOLDS, np.random.default_rng(0))
    assert all(len(set(folds[problem.mixtures == m])) == 1 for m in range(35))
    mixtures_per_fold = [len(set(problem.mixtures[folds == k])) for k in range(FOLDS)]
    assert max(mixtures_per_fold) - min(mixtures_per_fold) <= 1


def test_the_papers_way_takes_the_largest_r2_among_rules_of_significant_regressors():
    problem = problem_of(n=60, p=5, seed=4, select="p-value")
    chosen = choose(problem, problem.y[:, None], np.ones((1, 60)), np.random.default_rng(0))[0, 0]
    fits = [sm.OLS(problem.y, problem.x[:, problem.columns(s)]).fit() for s in problem.subsets]
    significant = [i for i, fit in enumerate(fits) if (fit.pvalues[1:] <= 0.05).all()]
    assert chosen == max(significant, key=lambda i: fits[i].rsquared)


def test_a_square_is_chosen_only_with_its_linear_term():
    problem = problem_of(p=3, requires=[None, None, 0])
    assert len(problem.subsets) == 6
    assert all(subset[0] or not subset[2] for subset in problem.subsets)


def test_columns_in_every_rule_stay_in_every_rule():
    problem = problem_of(p=3, forced=3)
    assert all(set(problem.columns(subset)) >= {0, 1, 2} for subset in problem.subsets)


def test_max_vif_keeps_collinear_regressors_apart():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 3))
    z[:, 1] = z[:, 0] + 0.1 * z[:, 1]
    x = np.column_stack([np.ones(50), z])
    problem = Problem(x, x[:, 1] + x[:, 2], np.ones(50), np.arange(50), 1, [None] * 3, max_vif=5.0)
    together = problem.subsets[:, 0] & problem.subsets[:, 1]
    assert not problem.allowed[together].any() and problem.allowed[~together].all()
    chosen = choose(problem, problem.y[:, None], np.ones((1, 50)), rng)[0, 0]
    assert problem.subsets[chosen][:2].sum() == 1


def test_a_max_vif_that_nothing_keeps_is_refused():
    z = np.random.default_rng(0).normal(size=(20, 1))
    x = np.column_stack([np.ones(20), z, z + 0.01 * np.arange(20)[:, None] ** 0.5])
    with pytest.raises(InstructMineError, match="max_vif"):
        Problem(x, x[:, 1], np.ones(20), np.arange(20), 1, [None] * 2, select="none", max_vif=2.0)


@pytest.mark.parametrize(
    ("candidates", "options", "message"),
    [
        (41, {}, "41 candidate regressors are too many to choose among: name 40 indicators or fewer"),
        (13, {"select": "p-value"}, "select='p-value' looks at every subset, and 13 .* have more than 4096 subsets"),
        (13, {"max_vif": 5.0}, "max_vif looks at every subset, and 13 candidate regressors"),
    ],
)
def test_too_many_candidates_are_refused(candidates, options, message):
    with pytest.raises(InstructMineError, match=message):
        problem_of(n=40, p=candidates, **options)


@pytest.mark.parametrize("select", ["cv", "bic", "aicc"])
def test_three_of_many_candidates_are_found_by_size(select):
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(80, 30))
        y = z[:, 4] - z[:, 11] + 0.8 * z[:, 25] + 0.8 * rng.normal(size=80)
        problem = Problem(np.column_stack([np.ones(80), z]), y, np.ones(80), np.arange(80), 1, [None] * 30, select)
        assert problem.by_size and problem.longest == 20 and len(problem.subsets) == 0
        found.append(chosen_sets(problem, y[:, None], np.ones((1, 80)), rng)[0, 0])
    assert all(subset[[4, 11, 25]].all() for subset in found)
    assert np.mean([subset.sum() for subset in found]) < (4 if select == "cv" else 9)


def test_a_choice_by_size_is_cross_validated_search_included():
    # As single regressions would: in each fold the best set of each size is searched for without it.
    problem = problem_of(n=48, p=13, seed=3)
    weights = np.ones((1, 48))
    errors = size_scores(problem, problem.y[:, None], weights, np.random.default_rng(5))[:, 0, :, 0]
    rng = np.random.default_rng(5)
    partitions = [assign_folds(problem.mixtures, FOLDS, rng) for _ in range(PARTITIONS)]
    assert errors.shape == (1 + 12, PARTITIONS * FOLDS)
    for split in (0, FOLDS + 3):
        held = partitions[split // FOLDS] == split % FOLDS
        for size, subset in enumerate(best_sets(problem, problem.y[:, None], 1.0 * ~held[None])):
            columns = problem.columns(subset)
            fit = LinearRegression(fit_intercept=False).fit(problem.x[~held][:, columns], problem.y[~held])
            expected = ((problem.y[held] - fit.predict(problem.x[held][:, columns])) ** 2).sum()
            assert subset.sum() == size and errors[size, split] == pytest.approx(expected)


def test_on_noise_a_choice_among_many_is_nothing_worth_and_says_so():
    naive, nested = [], []
    for seed in range(8):
        problem = problem_of(n=40, p=25, seed=seed, select="bic")
        rng = np.random.default_rng(seed)
        problem.y = rng.normal(size=40)
        chosen = chosen_sets(problem, problem.y[:, None], problem.weights[None], rng)[0, 0]
        naive.append(sm.OLS(problem.y, problem.x[:, problem.columns(chosen)]).fit().rsquared)
        folds = assign_folds(problem.mixtures, FOLDS, rng)
        predicted = cross_fit(held_out, problem, problem.y[:, None], [folds], rng)[0]
        nested.append(r_squared(problem.y[:, None], predicted, problem.weights)[0])
    assert np.mean(naive) > 0.2
    assert np.mean(nested) < 0


def test_a_column_that_vanishes_in_a_fold_counts_as_absent_there():
    problem = problem_of(n=20, p=2)
    problem.x[:, 2] = np.eye(20)[7]  # only run 7 has it: without run 7, the column is 0
    chosen = choose(problem, problem.y[:, None], np.ones((1, 20)), np.random.default_rng(0))
    predicted = cross_fit(held_out, problem, problem.y[:, None], [np.arange(20)], np.random.default_rng(0))
    assert np.isfinite(predicted).all() and chosen.shape == (1, 1)


def test_permuting_moves_the_runs_of_a_mixture_together():
    problem = problem_of(n=30, replicates=5)
    for permuted in permuted_targets(problem, 20, np.random.default_rng(0)).T:
        np.testing.assert_allclose(np.sort(permuted), np.sort(problem.y))
        pairs = {tuple(np.round(problem.y[problem.mixtures == m], 9)) for m in range(5)}
        assert {tuple(np.round(permuted[problem.mixtures == m], 9)) for m in range(5)} == pairs


def test_permuting_keeps_what_is_in_every_rule():
    problem = problem_of(n=50, p=2, forced=2)
    problem.y = 10 * problem.x[:, 1] + np.random.default_rng(0).normal(size=50)
    permuted = permuted_targets(problem, 5, np.random.default_rng(1))
    assert all(np.corrcoef(problem.x[:, 1], column)[0, 1] > 0.98 for column in permuted.T)


def test_a_resample_takes_whole_mixtures_and_fits_as_copies_would():
    problem = problem_of(replicates=6)
    weights = bootstrap_weights(problem, 20, np.random.default_rng(0))
    assert all(len(set(weights[b][problem.mixtures == m])) == 1 for b in range(20) for m in range(6))
    everything = np.ones(4, bool)
    found = bootstrap_coefficients(problem, everything, weights)
    rows = np.repeat(np.arange(40), weights[3].astype(int))
    np.testing.assert_allclose(found[3], sm.OLS(problem.y[rows], problem.x[rows]).fit().params, rtol=1e-8)


def test_r_squared_is_scikit_learns():
    rng = np.random.default_rng(0)
    y, predicted, weights = rng.normal(size=30), rng.normal(size=30), rng.uniform(size=30)
    found = r_squared(y[:, None], predicted[:, None], weights)[0]
    assert found == pytest.approx(r2_score(y, predicted, sample_weight=weights))


def test_on_noise_the_naive_r2_deceives_and_the_nested_one_does_not():
    naive, nested, p_values = [], [], []
    for seed in range(80):
        problem = problem_of(n=30, p=5, seed=seed)
        rng = np.random.default_rng(1000 + seed)
        problem.y = rng.normal(size=30)
        chosen = choose(problem, problem.y[:, None], problem.weights[None], rng)[0, 0]
        naive.append(sm.OLS(problem.y, problem.x[:, problem.columns(problem.subsets[chosen])]).fit().rsquared)
        targets = np.column_stack([problem.y, permuted_targets(problem, 99, rng)])
        folds = assign_folds(problem.mixtures, FOLDS, rng)
        scores = r_squared(targets, cross_fit(held_out, problem, targets, [folds], rng)[0], problem.weights)
        nested.append(scores[0])
        p_values.append((1 + (scores[1:] >= scores[0]).sum()) / 100)
    assert np.mean(naive) > 0.05
    assert np.mean(nested) < 0
    assert kstest(p_values, "uniform").pvalue > 0.01
