import json

import numpy as np
import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.evaluation.calibration import Calibration
from hf_instructmine.evaluation.pairs import Judged, agreement, preference


NONE = float("nan")
A, B, TIE = 1.0, 0.0, 0.5


def judged(forward, backward, questions=None, **options) -> Judged:
    lengths = np.linspace(80, 120, len(forward))
    return Judged(questions or range(len(forward)), forward, backward, lengths, lengths[::-1], **options)


def test_a_win_is_one_in_both_orders_and_a_disagreement_is_a_tie_that_is_counted():
    found = preference(judged([A, A, A, B, TIE, B, A], [A, B, TIE, B, TIE, A, NONE]))
    assert (found.win, found.tie, found.lose) == (1, 4, 1)
    assert (found.disagreements, found.unusable, found.pairs) == (3, 1, 6)
    assert found.win_rate.value == pytest.approx(3 / 6)
    assert found.better_or_equal.value == pytest.approx(5 / 6)


def test_position_bias_is_told_with_its_direction():
    first = preference(judged([A] * 20, [B] * 15 + [A] * 5)).position_bias  # whichever is shown first wins
    assert first.rate.value == first.first.value == 0.75
    assert first.favoured == "first"
    second = preference(judged([B] * 15 + [A] * 5, [A] * 20)).position_bias
    assert (second.first.value, second.second.value, second.favoured) == (0, 0.75, "second")


def test_noise_that_follows_no_order_is_in_the_rate_and_not_in_the_direction():
    bias = preference(judged([A, B] * 20, [B, A] * 20)).position_bias
    assert bias.rate.value == 1
    assert bias.net.value == 0
    assert bias.favoured is None


def test_no_verdict_at_all_is_one_line():
    with pytest.raises(InstructMineError, match="no verdict in both orders on any pair"):
        preference(judged([A, NONE], [NONE, B]))


def test_agreement_of_repeats():
    found = agreement([A, A, B, B, TIE, NONE], [A, B, B, B, TIE, A])
    assert (found.raw, found.pairs) == (0.8, 5)
    assert found.kappa == pytest.approx((0.8 - 0.36) / (1 - 0.36))


def test_two_turns_of_a_question_are_one_cluster():
    verdicts = [A] * 30 + [B] * 20
    alone, turns = preference(judged(verdicts, verdicts)), [f"q{k}" for k in range(50) for _ in (1, 2)]
    doubled = [verdict for verdict in verdicts for _ in (1, 2)]
    both = preference(judged(doubled, doubled, turns))
    assert both.questions == 50
    assert (both.win_rate.low, both.win_rate.high) == pytest.approx((alone.win_rate.low, alone.win_rate.high))
    plain = both.better_or_equal_wilson
    assert plain.high - plain.low < both.better_or_equal.high - both.better_or_equal.low


def test_everything_is_told_and_can_be_written():
    found = preference(judged([A, B, A, TIE] * 5, [A, B, B, A] * 5, categories=["writing", "maths"] * 10))
    assert found.summary().startswith("win 5, tie 10 (10 by disagreement of the orders), lose 5; 20 questions")
    assert "at equal length       " in found.summary()
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written["categories"]["maths"]["value"] == pytest.approx(0.25)


def test_a_calibration_gives_what_people_would_say():
    verdicts = [A] * 60 + [B] * 40
    found = preference(judged(verdicts, verdicts), calibration=Calibration(0.9, 0.8, 200, 200))
    assert found.corrected.value == pytest.approx(0.4 / 0.7)
    assert preference(judged(verdicts, verdicts)).corrected is None


@pytest.mark.parametrize(
    ("forward", "mend"), [([A, 2.0], "forward has the verdict 2.0"), ([A], r"backward has shape \(2,\)")]
)
def test_verdicts_that_are_none_are_refused(forward, mend):
    with pytest.raises(ValueError, match=mend):
        judged(forward, [A, B])
