import json
import math

import numpy as np
import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.evaluation.paired import paired_scores


def test_mcnemar_counts_the_questions_that_one_model_alone_got_right():
    a = [1] * 40 + [1] * 9 + [0] * 1 + [0] * 10
    b = [1] * 40 + [0] * 9 + [1] * 1 + [0] * 10
    found = paired_scores(a, b)
    assert (found.only_a, found.only_b) == (9, 1)
    assert found.mcnemar == pytest.approx(2 * 11 / 1024)
    assert found.estimate == pytest.approx(8 / 60)
    assert found.low > 0


def test_pairing_tells_what_the_means_alone_would_not():
    hard = np.random.default_rng(0).normal(0, 10, 100)
    found = paired_scores(hard + 0.5 + np.tile([0.1, -0.1], 50), hard)
    assert found.low > 0.4
    assert found.high < 0.6
    assert found.mcnemar is None


def test_groups_of_questions_count_as_one_each():
    d = np.random.default_rng(0).normal(0.2, 1, 40)
    once, fourfold = paired_scores(d, 0 * d), paired_scores(np.repeat(d, 4), np.zeros(160), np.repeat(range(40), 4))
    assert fourfold.clusters == 40
    assert fourfold.p == pytest.approx(once.p)
    assert (fourfold.low, fourfold.high) == pytest.approx((once.low, once.high))


def test_mcnemar_is_not_given_for_questions_in_groups():
    assert paired_scores([1, 0, 1, 1], [0, 0, 1, 0], ["x", "x", "y", "z"]).mcnemar is None


def test_models_that_agree_on_all_questions_may_still_differ():
    found = paired_scores([1] * 50, [1] * 50)
    assert found.low < 0 < found.high
    assert found.p == found.mcnemar == 1


def test_one_group_says_nothing_of_others():
    found = paired_scores([0.4, 0.5, 0.9], [0.1, 0.2, 0.3], ["x"] * 3)
    assert (found.low, found.high, found.p) == (-math.inf, math.inf, 1)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["low"] is None


def test_questions_without_a_score_are_left_out_and_counted():
    found = paired_scores([1, 0, math.nan, 1], [0, 0, 1, 1])
    assert (found.questions, found.unusable) == (3, 1)


def test_scores_of_other_questions_are_refused():
    with pytest.raises(InstructMineError, match="cannot be paired"):
        paired_scores([1, 0], [1, 0, 1])
    with pytest.raises(InstructMineError, match="two are needed"):
        paired_scores([1, math.nan], [1, 0])
