import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from hf_instructmine.evaluation.intervals import Clusters, bootstrap, clustered, codes_of, objects, share, wilson


def test_wilson_is_that_of_statsmodels():
    assert wilson(0.3, 50, 1.959964) == pytest.approx(proportion_confint(15, 50, method="wilson"), abs=1e-6)


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.9, 0.96, 0.99, 0.997])
def test_a_share_of_independent_pairs_holds_the_truth_in_93_percent(rate):
    counts = np.arange(81)
    ends = [share(clustered(np.repeat([1.0, 0.0], [k, 80 - k]), np.arange(80)), 0.95) for k in counts]
    held = np.array([found.low <= rate <= found.high for found in ends])
    assert binom.pmf(counts, 80, rate)[held].sum() >= 0.93


def test_two_turns_that_always_agree_are_worth_one():
    wins = np.repeat([1.0, 0.0], [30, 20])
    once, twice = (
        share(clustered(wins, np.arange(50)), 0.95),
        clustered(np.repeat(wins, 2), np.repeat(np.arange(50), 2)),
    )
    assert share(twice, 0.95).low == pytest.approx(once.low)


def test_a_share_has_a_width_where_all_questions_agree():
    found = share(clustered(np.ones(50), np.arange(50)), 0.95)
    assert found.high == 1
    assert 0.9 < found.low < 0.95


def test_one_question_says_nothing_of_others():
    found = share(Clusters(np.array([3.0]), np.array([4.0])), 0.95)
    assert (found.value, found.low, found.high) == (0.75, 0, 1)


def test_a_bootstrap_is_the_same_with_the_same_seed():
    clusters = clustered(np.arange(20.0), np.arange(20))
    assert bootstrap(clusters, 1, 0.95, 500) == bootstrap(clusters, 1, 0.95, 500)
    assert bootstrap(clusters, 1, 0.95, 500) != bootstrap(clusters, 2, 0.95, 500)


def test_questions_may_be_anything_hashable():
    assert codes_of(objects([("a", 1), "b", ("a", 1), 3])).tolist() == [0, 1, 0, 2]
