"""A choice is worth as many random tokens as reach its loss."""

import math

import numpy as np
import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.comparison.statistics import compare_parts
from hf_instructmine.comparison.worth import worth


TOKENS = np.random.default_rng(7).integers(5, 60, 80)


def loss_of(multiple, fall=0.02):
    return 2.5 - fall * math.log2(multiple)


def finetunes(rng, loss, noise=0.004):
    """Σ NLL in eight parts."""
    return (loss + rng.normal(0, noise, (8, 1)) + rng.normal(0, 0.01, (8, len(TOKENS)))) * TOKENS


def curve(rng, fall=0.02, noise=0.004):
    return {m: finetunes(rng, loss_of(m, fall), noise) for m in (0.5, 1.0, 2.0, 4.0)}


def test_a_choice_with_the_loss_of_twice_the_tokens_is_worth_twice_the_tokens():
    rng = np.random.default_rng(0)
    found = worth(finetunes(rng, loss_of(2), noise=1e-4), curve(rng, noise=1e-4), TOKENS)
    assert found.times == pytest.approx(2, rel=0.1)
    assert found.low < 2 < found.high
    assert (
        str(found)
        == f"as good as {found.times:.2g} × as many random tokens, 95 % {found.low:.2g} × to {found.high:.2g} ×"
    )


def test_the_interval_holds_the_truth_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    found = [worth(finetunes(rng, loss_of(1.5)), curve(rng), TOKENS) for _ in range(100)]
    assert sum(w.times is not None for w in found) >= 95
    assert sum(w.times is None or w.low <= 1.5 <= w.high for w in found) >= 92


def test_it_holds_one_where_the_strategy_is_not_shown_to_differ():
    rng = np.random.default_rng(1)
    shown = []
    for _ in range(30):
        strategy, random_at = finetunes(rng, loss_of(1.2)), curve(rng)
        # Where neighbouring amounts are averaged, the curve at the budget is not that of the budget alone.
        losses = [random_at[m].sum() for m in sorted(random_at)]
        if losses != sorted(losses, reverse=True):
            continue
        found = worth(strategy, random_at, TOKENS)
        shown.append(compare_parts(strategy, random_at[1.0], TOKENS).p < 0.05)
        assert (found.low <= 1 <= found.high) is not shown[-1]
    assert 0 < sum(shown) < len(shown)


def test_beyond_what_was_measured_it_says_no_number():
    rng = np.random.default_rng(2)
    best = worth(finetunes(rng, loss_of(32)), curve(rng), TOKENS)
    assert best.times == math.inf and str(best) == "as good as more than 4 × as many random tokens, 95 % sure"
    worst = worth(finetunes(rng, loss_of(1 / 16)), curve(rng), TOKENS)
    assert worst.times == 0 and str(worst) == "as good as less than 0.5 × as many random tokens, 95 % sure"
    some = worth(finetunes(rng, loss_of(4.4), 0.006), curve(rng, noise=0.006), TOKENS)
    assert 1 < some.low < 4 and some.high == math.inf and str(some).endswith(" to more than 4 ×")


def test_where_more_random_tokens_do_not_help_it_is_not_known():
    rng = np.random.default_rng(3)
    for fall in (0.0, -0.02):
        found = worth(finetunes(rng, 2.4), curve(rng, fall), TOKENS)
        assert found.times is None and str(found) == "not known: more random tokens did not lower the loss"
    alone = {1.0: finetunes(rng, 2.5)}
    assert worth(finetunes(rng, 2.4), alone, TOKENS).times is None


def test_random_at_the_budget_is_needed():
    with pytest.raises(InstructMineError, match=r"random_at needs 1\.0"):
        worth(np.ones((3, 80)), {2.0: np.ones((3, 80))}, TOKENS)
