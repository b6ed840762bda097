"""Two choices of rows are compared with every source of noise in view: the rows, the seeds and the examples."""

import math

import numpy as np
import pytest
from scipy import stats

from hf_instructmine.comparison.statistics import (
    compare_losses,
    compare_parts,
    flip_signs,
    holm,
    noncentrality,
    one_against_random,
    permute_labels,
)


EXAMPLES = 60


def simulated(rng, runs, effect=0.0, run_noise=0.01, interaction=0.02):
    """Σ NLL of `runs` finetunes on 60 examples of differing lengths and difficulties."""
    tokens = rng.integers(5, 60, EXAMPLES)
    difficulty = rng.normal(2.5, 0.4, EXAMPLES)

    def side(count, shift):
        luck = rng.normal(0, run_noise, (count, 1)) + rng.normal(0, interaction, (count, EXAMPLES))
        return (difficulty + shift + luck) * tokens

    return side(runs[0], effect), side(runs[1], 0.0), tokens


def test_the_estimate_is_the_difference_of_mean_losses():
    mine, other, tokens = simulated(np.random.default_rng(0), (3, 4), effect=-0.1)
    expected = np.mean(mine.sum(axis=1) / tokens.sum()) - np.mean(other.sum(axis=1) / tokens.sum())
    assert compare_losses(mine, other, tokens, resamples=200).estimate == pytest.approx(expected)


def test_the_same_seed_gives_the_same_interval():
    data = simulated(np.random.default_rng(0), (3, 4))
    assert compare_losses(*data, resamples=500, seed=1) == compare_losses(*data, resamples=500, seed=1)
    assert compare_losses(*data, resamples=500, seed=1) != compare_losses(*data, resamples=500, seed=2)


def test_the_interval_covers_the_truth_and_the_p_value_is_honest():
    """Without an effect 5 % is the most that may be called different; 95 % the least that intervals should cover."""
    rng = np.random.default_rng(0)
    covered, called = 0, 0
    for _ in range(200):
        found = compare_losses(*simulated(rng, (5, 10)), resamples=400)
        covered += found.low <= 0 <= found.high
        called += found.p < 0.05
    assert covered >= 0.93 * 200
    assert called <= 0.08 * 200


def test_a_difference_of_several_standard_deviations_is_found():
    found = compare_losses(*simulated(np.random.default_rng(1), (5, 10), effect=-0.05))
    assert found.high < 0 and found.p < 0.01


def test_labels_of_runs_are_permuted_exactly_where_they_are_few():
    rng = np.random.default_rng(0)
    assert permute_labels(np.array([1.0, 1.1, 1.2]), np.array([2.0, 2.1, 2.2]), 99, rng) == 2 / 20
    reference = stats.permutation_test(
        ([1.0, 2.0, 4.0], [1.5, 2.5, 7.0, 9.0]), lambda a, b: np.mean(a) - np.mean(b), n_resamples=np.inf
    )
    mine = permute_labels(np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.5, 7.0, 9.0]), 99, rng)
    # scipy doubles the smaller tail, which for samples of unequal size is another two-sided p.
    assert mine == pytest.approx(reference.pvalue, abs=0.12)


def test_many_labels_are_drawn():
    rng = np.random.default_rng(0)
    p = permute_labels(rng.normal(size=12), rng.normal(size=12) + 5, 999, rng)
    assert p == pytest.approx(1 / 1000)


def test_signs_of_examples_are_flipped():
    rng = np.random.default_rng(0)
    assert flip_signs(np.full(30, 0.1), 999, rng) == pytest.approx(1 / 1000)
    assert flip_signs(np.array([1.0, -1.0] * 15), 999, rng) > 0.9


def test_holms_correction_as_published():
    # Holm 1979 on the example of R's p.adjust documentation style: step down, never decreasing, at most 1.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_one_more_random_set_is_called_different_as_often_as_the_level_says():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        sets = rng.normal(0, 0.01, 11)  # noise between sets, which finetunes repeated on one of them do not show
        found.append(one_against_random(sets[:1].tolist(), sets[1:].tolist()).p)
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.01)
    assert one_against_random([1.0, 2.0], [1.0, 2.0, 3.0]) is None  # it chose two sets
    assert one_against_random([1.0], [1.0, 2.0]) is None


def test_the_detectable_difference_is_seen_in_four_of_five_comparisons():
    rng, seen, detectable, effect = np.random.default_rng(0), [], [], 0.0193
    tokens = np.full(60, 40)
    for seed in range(150):
        nll = (2.5 + rng.normal(0, 0.02, (2, 6, 60)) + rng.normal(0, 0.01, (2, 6, 1))) * tokens
        difference = compare_losses(nll[0] + effect * tokens, nll[1], tokens, resamples=400, seed=seed)
        seen.append(difference.low > 0 and difference.p < 0.05)
        detectable.append(difference.detectable)
    assert np.mean(detectable) == pytest.approx(effect, rel=0.05)
    assert np.mean(seen) == pytest.approx(0.8, abs=0.1)


# --- Disjoint parts -----------------------------------------------------------------------------------------------


def in_parts(rng, parts=8, examples=60, effect=0.0, sets=0.01, shift=0.02):
    """Two strategies with noise between sets, and a skewed effect on each example that is nothing on the whole."""
    tokens = rng.integers(5, 60, examples)
    own = effect + rng.normal(0, sets, (2, parts, 1)) * [[[1]], [[0]]] + shift * (rng.exponential(size=examples) - 1)
    other = 2.5 + rng.normal(0, sets, (parts, 1)) + rng.normal(0, 0.4, examples)
    return (other + own[0]) * tokens, other * tokens, tokens


def test_the_estimate_over_parts_is_the_difference_of_mean_losses():
    mine, other, tokens = in_parts(np.random.default_rng(0), effect=-0.1)
    found = compare_parts(mine, other, tokens)
    assert found.estimate == pytest.approx((mine.mean(axis=0) - other.mean(axis=0)).sum() / tokens.sum())
    assert found.parts == 8 and found.parts_sd == pytest.approx(np.std((mine - other).sum(1) / tokens.sum(), ddof=1))


def test_with_all_examples_alike_it_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    mine, other = rng.normal(size=(2, 6, 1)) * np.ones(50)
    found, reference = compare_parts(mine, other, np.ones(50)), stats.ttest_rel(mine[:, 0], other[:, 0])
    interval = reference.confidence_interval(0.95)
    assert (found.p, found.df) == pytest.approx((reference.pvalue, 5))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_with_all_parts_alike_it_is_the_t_test_of_examples():
    rng = np.random.default_rng(0)
    difference = 0.2 + np.outer([1, -1], rng.normal(size=25)).ravel()  # symmetric
    found = compare_parts(np.tile(difference, (6, 1)), np.zeros((6, 50)), np.ones(50))
    assert (found.p, found.df) == pytest.approx((stats.ttest_1samp(difference, 0).pvalue, 49))
    assert found.examples_sd == pytest.approx(difference.std(ddof=1))


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_p_is_below_the_level_where_the_interval_leaves_out_nothing(confidence):
    rng = np.random.default_rng(0)
    for effect in (0.0, 0.01, 0.02):
        found = compare_parts(*in_parts(rng, effect=effect), confidence=confidence)
        assert (found.p < 1 - confidence) is (found.low > 0 or found.high < 0)


@pytest.mark.parametrize(
    ("parts", "sets", "shift"), [(4, 0.01, 0.0), (8, 0.01, 0.02), (8, 0.0, 0.02), (5, 0.001, 0.02)]
)
def test_false_verdicts_over_parts_are_at_most_5_percent(parts, sets, shift):
    rng = np.random.default_rng(0)
    called = [compare_parts(*in_parts(rng, parts, 60, 0.0, sets, shift)).p < 0.05 for _ in range(1000)]
    assert np.mean(called) < 0.064  # 5 % and two standard errors


def test_the_detectable_difference_over_parts_is_seen_in_four_of_five():
    rng = np.random.default_rng(0)
    true = compare_parts(*in_parts(rng, 400)).parts_sd / math.sqrt(8) * noncentrality(7, 0.05)
    found = [compare_parts(*in_parts(rng, effect=true, shift=0.0)) for _ in range(300)]
    assert np.mean([f.p < 0.05 for f in found]) == pytest.approx(0.8, abs=0.07)
    assert np.mean([f.detectable for f in found[:60]]) == pytest.approx(true, rel=0.1)
    assert found[0].detectable_among(4) > found[0].detectable


def test_skewed_examples_widen_the_interval_on_one_side():
    rng = np.random.default_rng(0)
    difference = rng.exponential(size=50) - 1.5
    found = compare_parts(np.tile(difference, (6, 1)), np.zeros((6, 50)), np.ones(50))
    reference = stats.ttest_1samp(difference, 0)
    interval = reference.confidence_interval(0.95)
    assert found.p > reference.pvalue
    assert found.low == pytest.approx(interval.low) and found.high > interval.high + 0.02


def test_strategies_that_chose_the_same_rows_do_not_differ():
    mine, _, tokens = in_parts(np.random.default_rng(0))
    found = compare_parts(mine, mine, tokens)
    assert (found.estimate, found.low, found.high, found.p, found.parts_sd) == (0, 0, 0, 1, 0)


def test_one_part_shows_nothing():
    mine, other, tokens = in_parts(np.random.default_rng(0), parts=1, effect=-1.0)
    found = compare_parts(mine, other, tokens)
    assert found.p == 1 and found.low == -math.inf and found.detectable == math.inf and math.isnan(found.parts_sd)
    assert found.estimate == pytest.approx(-1, abs=0.1)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"do not fit: \(3, 5\), \(1, 5\), \(5,\)"):
        compare_parts(np.ones((3, 5)), np.ones((1, 5)), np.ones(5))
