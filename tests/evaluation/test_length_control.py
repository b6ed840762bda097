import numpy as np
import pytest
from scipy.special import expit

from hf_instructmine.evaluation.length_control import length_controlled


def drawn(questions: int, length: float, better: float = 0.0):
    """Verdicts that follow tanh of the standardised difference in length, and the difference."""
    rng = np.random.default_rng(0)
    difference = rng.normal(100, 100, questions)
    pull = length * np.tanh(difference / difference.std())
    return (rng.random(questions) < expit(better + pull)).astype(float), difference


def test_what_length_alone_does_is_taken_out():
    scores, difference = drawn(4000, length=2.0)
    assert scores.mean() > 0.7
    found = length_controlled(scores, 200 + difference, np.full(4000, 200.0), np.arange(4000))
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.1


def test_a_preference_beyond_length_is_kept():
    scores, difference = drawn(4000, length=1.0, better=1.0)
    found = length_controlled(scores, difference, np.zeros(4000), np.arange(4000))
    assert found.low < expit(1.0) < found.high


def test_swapping_the_models_mirrors_the_rate():
    scores, difference = drawn(200, length=1.0)
    one = length_controlled(scores, difference, np.zeros(200), np.arange(200))
    other = length_controlled(1 - scores, np.zeros(200), difference, np.arange(200))
    assert other.value == pytest.approx(1 - one.value)
    assert (other.low, other.high) == pytest.approx((1 - one.high, 1 - one.low))


def test_pairs_of_one_question_count_as_one():
    scores, difference = drawn(100, length=1.0)
    once = length_controlled(scores, difference, np.zeros(100), np.arange(100))
    twice = np.repeat(scores, 2), np.repeat(difference, 2), np.zeros(200), np.repeat(np.arange(100), 2)
    repeated = length_controlled(*twice)
    assert repeated.value == pytest.approx(once.value)
    assert repeated.high - repeated.low == pytest.approx(once.high - once.low, rel=1e-6)


def test_the_standard_error_is_that_of_leaving_questions_out():
    import statsmodels.api as sm

    scores, difference = drawn(60, length=1.0)
    found = length_controlled(scores, difference, np.zeros(60), np.arange(60))
    pull = sm.add_constant(np.tanh(difference / difference.std()))
    fit = [sm.GLM(np.delete(scores, k), np.delete(pull, k, axis=0), sm.families.Binomial()).fit() for k in range(60)]
    log_odds = np.array([one.params[0] for one in fit])
    whole = sm.GLM(scores, pull, sm.families.Binomial()).fit().params[0]
    error = np.sqrt(59 / 60 * ((log_odds - whole) ** 2).sum())
    assert found.low == pytest.approx(expit(whole - 2.000995 * error), abs=4e-3)


@pytest.mark.parametrize(
    ("scores", "difference", "reason"),
    [
        ([1.0] * 30, range(30), "the baseline wins or ties on 0 questions"),
        ([0.0] * 5 + [1.0] * 25, range(30), "the baseline wins or ties on 5 questions, 10 are needed"),
        ([0.0] * 15 + [1.0] * 15, range(30), "length alone separates wins from losses"),
        ([0.0, 1.0] * 15, [7] * 30, "all pairs have the same difference in length"),
        ([0.0, 1.0] * 15, [float("nan"), *range(29)], "1 pairs have no lengths"),
    ],
)
def test_what_cannot_be_known_says_why(scores, difference, reason):
    found = length_controlled(np.array(scores), np.array(difference, dtype=float), np.zeros(30), np.arange(30))
    assert not found.known
    assert reason in str(found)
    assert found.to_dict()["value"] is None


def test_a_model_that_is_longer_in_every_pair_is_said_to_be():
    scores, difference = drawn(200, length=1.0)
    found = length_controlled(scores, np.abs(difference) + 1, np.zeros(200), np.arange(200))
    assert found.note == "extrapolated: A is longer in every pair"
