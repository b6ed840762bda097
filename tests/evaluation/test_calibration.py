import numpy as np
import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.evaluation.calibration import Calibration, corrected
from hf_instructmine.evaluation.intervals import clustered


def scores(wins: int, pairs: int):
    return clustered(np.repeat([1.0, 0.0], [wins, pairs - wins]), np.arange(pairs))


def test_sensitivity_and_specificity_are_of_the_pairs_that_people_decided():
    people = [1.0] * 10 + [0.0] * 10 + [0.5] * 2
    judge = [1.0] * 8 + [0.0, 0.5] + [0.0] * 7 + [1.0] * 3 + [1.0, 0.5]
    found = Calibration.fit(judge, people)
    assert found.sensitivity == pytest.approx(0.85)
    assert found.specificity == pytest.approx(0.7)
    assert found.tied == 0.75
    assert found.informative == pytest.approx(0.55)


def test_repeats_of_a_question_do_not_make_a_calibration_more_exact():
    judge, people = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0] * 4, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0] * 4
    once = Calibration.fit(judge, people)
    thrice = Calibration.fit(np.repeat(judge, 3), np.repeat(people, 3), np.repeat(np.arange(24), 3))
    assert thrice.better == pytest.approx(once.better)


def test_rogan_and_gladen():
    found = corrected(scores(60, 100), Calibration(0.9, 0.8, 1e9, 1e9))
    assert found.value == pytest.approx((0.6 + 0.8 - 1) / 0.7)
    assert found.low < found.value < found.high


def test_few_labels_make_a_wide_interval():
    many, few = (corrected(scores(180, 300), Calibration(0.8, 0.8, n, n)) for n in (2000, 20))
    assert few.high - few.low > 2 * (many.high - many.low)


def test_a_perfect_judge_corrects_nothing():
    assert corrected(scores(60, 100), Calibration(1.0, 1.0, 100, 100)).value == pytest.approx(0.6)


def test_the_ends_stay_within_0_and_1():
    found = corrected(scores(99, 100), Calibration(0.7, 0.7, 50, 50))
    assert (found.value, found.high) == (1, 1)


@pytest.mark.parametrize("sensitivity", [0.4, 0.5])
def test_a_judge_that_does_not_follow_people_corrects_nothing(sensitivity):
    with pytest.raises(InstructMineError, match=r"no correction by this judge.*is not above 0") as error:
        corrected(scores(60, 100), Calibration(sensitivity, 0.5, 100, 100))
    assert "\n" not in str(error.value)


def test_labels_that_are_all_alike_cannot_calibrate():
    with pytest.raises(InstructMineError, match="people hold B the better in no pair"):
        Calibration.fit([1.0, 0.0], [1.0, 1.0])
