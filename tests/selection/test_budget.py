"""Under a budget of tokens rows compete by what they do to the set's mean prediction, per token."""

from itertools import combinations

import numpy as np
import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError, LossEstimator, Selector
from hf_instructmine.selection.ranking import compete, price
from hf_instructmine.selection.walk import Walk


RULE = LossEstimator.from_coefficients({"mtld": 1.0})


def choose(predictions: np.ndarray, lengths: np.ndarray, tokens: int) -> np.ndarray:
    scored = Dataset.from_dict({"mtld": predictions, "output_length": lengths})
    return Selector(RULE).select(scored, tokens=tokens).indices


def plain_walk(predictions: np.ndarray, lengths: np.ndarray, tokens: int) -> list[int]:
    taken = []
    for row in np.argsort(predictions, kind="stable"):
        if lengths[row] <= tokens:
            taken.append(int(row))
            tokens -= lengths[row]
    return taken


def instances(count: int, rows: int = 10):
    for seed in range(count):
        rng = np.random.default_rng(seed)
        predictions, lengths = rng.normal(size=rows), rng.integers(1, 8, rows)
        yield predictions, lengths, int(rng.integers(lengths.max(), lengths.sum()))


def test_it_is_never_worse_than_the_plain_ranking_and_often_better():
    better = 0
    for predictions, lengths, tokens in instances(60, rows=40):
        mean = predictions[choose(predictions, lengths, tokens)].mean()
        plain = predictions[plain_walk(predictions, lengths, tokens)].mean()
        assert mean <= plain + 1e-12
        better += mean < plain - 1e-9
    assert better > 30


def test_it_finds_the_lowest_mean_of_all_sets_where_rows_fill_the_budget_one_after_another():
    checked = 0
    for predictions, lengths, tokens in instances(60):
        taken = choose(predictions, lengths, tokens)
        spent, level = lengths[taken].sum(), predictions[taken].mean()
        order = np.argsort(price(predictions, lengths, level), kind="stable")
        if set(order[: len(taken)]) != set(taken):
            continue  # a row did not fit: the knapsack's rounding, not the competition, decides
        sets = (list(s) for k in range(1, 11) for s in combinations(range(10), k))
        lowest = min(predictions[s].mean() for s in sets if lengths[s].sum() == spent)
        assert level == pytest.approx(lowest, abs=1e-12)
        checked += 1
    assert checked > 15


def test_what_is_left_of_the_budget_is_less_than_the_shortest_row_left_out():
    for predictions, lengths, tokens in instances(60):
        taken = choose(predictions, lengths, tokens)
        left = np.delete(lengths, taken)
        assert lengths[taken].sum() <= tokens
        assert tokens - lengths[taken].sum() < left.min()


def test_rows_of_one_token_each_are_the_lowest_predictions():
    for predictions, lengths, _ in instances(10):
        ones = np.ones_like(lengths)
        assert choose(predictions, ones, 4).tolist() == np.argsort(predictions)[:4].tolist()


def test_a_short_row_may_beat_a_better_long_one():
    # The best row takes as many tokens as three that are nearly as good, which leave no room for the worst.
    predictions, lengths = np.array([0.0, 0.1, 0.1, 0.1, 5.0]), np.array([30, 10, 10, 10, 30])
    assert choose(predictions, lengths, 60).tolist() == [0, 1, 2, 3]
    predictions, lengths = np.array([0.0, 0.1, 0.1, 0.1, 5.0]), np.array([35, 10, 10, 10, 10])
    assert choose(predictions, lengths, 45).tolist() == [0, 1]
    # Of rows above the mean, a long one fills the budget and counts as one row only.
    predictions, lengths = np.array([0.0, 1.0, 1.1, 1.2]), np.array([10, 10, 20, 10])
    assert choose(predictions, lengths, 30).tolist() == [0, 2]


def test_selected_rows_are_in_the_order_of_their_predictions_and_ties_in_that_of_the_pool():
    scored = Dataset.from_dict({"mtld": [1.0, 0.0, 1.0, 0.0], "output_length": [5, 9, 1, 2]})
    selection = Selector(RULE).select(scored, tokens=17)
    assert selection.indices.tolist() == [1, 3, 0, 2]
    assert selection.log_loss.tolist() == [0, 0, 1, 1]


def test_rows_of_no_tokens_are_not_selected_and_count_as_without_a_response():
    scored = Dataset.from_dict({"mtld": [0.0, 1.0, 2.0], "output_length": [0, 3, 3]})
    selection = Selector(RULE).select(scored, tokens=6)
    assert selection.indices.tolist() == [1, 2]
    assert selection.skipped_empty == 1
    assert Selector(RULE).select(scored, size=3).indices.tolist() == [0, 1, 2]


def test_duplicates_are_not_taken_for_rows_that_did_not_fit():
    message = "tokens=15 is above the 10 response tokens .* 1 is an exact duplicate"
    rows = {"prompt": ["q", "q"], "completion": ["a", "a"], "mtld": [0.0, 0.0], "output_length": [10, 10]}
    with pytest.raises(InstructMineError, match=message):
        Selector(RULE).select(Dataset.from_dict(rows), tokens=15)
    assert Selector(RULE).select(Dataset.from_dict(rows), tokens=10).indices.tolist() == [0]


def test_the_competition_ends_where_it_no_longer_helps():
    means, asked = iter([5.0, 3.0, 4.0]), []

    def walk_at(level):
        asked.append(level)
        return Walk(mean=next(means))

    assert compete(walk_at).mean == 3
    assert asked == [None, 5.0, 3.0]


def test_the_competition_keeps_a_set_that_meets_the_constraints():
    def walk_at(level):
        if level is not None:
            raise InstructMineError("not in this order")
        return Walk(mean=1.0)

    assert compete(walk_at).mean == 1
