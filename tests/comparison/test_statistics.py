"""Two finetuned choices are compared with both sources of noise in view: the finetunes and the examples."""

import numpy as np
import pytest
from scipy import stats

from hf_instructmine.comparison.statistics import compare_losses, flip_signs, holm, one_against_random, permute_labels


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
