import numpy as np
import pytest

from hf_instructmine import InstructMineError
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
