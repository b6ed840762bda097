"""Strategies choose at equal amounts, from the same rows."""

import numpy as np
import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError, LossEstimator, Selector, usual_strategies
from hf_instructmine.comparison.strategies import check_strategy, choose_rows, take
from hf_instructmine.data.texts import usable_rows


@pytest.fixture
def scored() -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset.from_dict(
        {
            "prompt": [f"question {i}" for i in range(40)],
            "completion": [f"answer {i}" for i in range(40)],
            "output_length": rng.integers(5, 50, 40).tolist(),
            "perplexity": [float("nan"), *rng.uniform(2, 30, 39).tolist()],
            "ifd": np.linspace(0.5, 1.2, 40).tolist(),
            "knn_6": rng.uniform(size=40).tolist(),
            "mine": list(range(40)),
        }
    )


def choose(scored, strategy, draw=(0,), **budget):
    costs = np.array(scored["output_length"][:], float) if "tokens" in budget else np.ones(len(scored))
    return choose_rows(scored, strategy, budget, np.arange(len(scored)), costs, draw).tolist()


def test_what_a_pool_allows_is_offered(scored):
    assert list(usual_strategies(scored.add_column("source", ["a", "b"] * 20))) == [
        "random", "balanced-random", "longest", "lowest-perplexity", "highest-perplexity", "highest-ifd",
        "knn-diversity",
    ]  # fmt: skip
    assert "balanced-random" not in usual_strategies(scored)
    assert "highest-reward" in usual_strategies(scored.add_column("reward", [0.0] * 40))


def test_a_column_is_followed_from_its_end_and_nan_is_left_out(scored):
    assert choose(scored, "highest:mine", size=3) == [37, 38, 39]
    assert choose(scored, "lowest:mine", size=3) == [0, 1, 2]
    assert 0 not in choose(scored, "lowest:perplexity", size=39)
    assert max(scored[choose(scored, "highest:ifd<1", size=5)]["ifd"]) < 1


def test_random_draws_differ_by_draw_and_not_by_call(scored):
    assert choose(scored, "random", (0, 1), size=10) == choose(scored, "random", (0, 1), size=10)
    assert choose(scored, "random", (0, 1), size=10) != choose(scored, "random", (0, 2), size=10)


def test_a_balanced_choice_takes_as_much_of_each_source_at_random(scored):
    pool = scored.add_column("source", ["many"] * 30 + ["few"] * 6 + ["one"] * 4)
    lengths, sources = np.array(pool["output_length"][:]), np.array(pool["source"][:])
    rows = choose(pool, "balanced:source", tokens=240)
    taken = {name: lengths[rows][sources[rows] == name].sum() for name in ("many", "few", "one")}
    assert max(taken.values()) - min(taken.values()) <= 2 * lengths.max()
    assert choose(pool, "balanced:source", (0, 1), tokens=240) != choose(pool, "balanced:source", (0, 2), tokens=240)
    rows = choose(pool, "balanced:source", size=30)  # a source that has less gives all
    assert [sum(sources[rows] == name) for name in ("one", "few", "many")] == [4, 6, 20]
    with pytest.raises(InstructMineError, match="balances over 'tags', which holds no single values"):
        check_strategy("mine", "balanced:tags", pool.add_column("tags", [["a"]] * 40))
    with pytest.raises(InstructMineError, match="needs the column 'origin'"):
        check_strategy("mine", "balanced:origin", pool)


def test_tokens_are_filled_to_less_than_the_shortest_row_left_out(scored):
    lengths = np.array(scored["output_length"][:])
    for strategy in usual_strategies(scored).values():
        rows = choose(scored, strategy, tokens=400)
        spent = lengths[rows].sum()
        left = np.setdiff1d(np.arange(40), rows)
        if strategy.endswith("perplexity"):
            left = left[left != 0]  # which is not ranked
        if "ifd" in strategy:
            left = left[np.array(scored["ifd"][:])[left] < 1]
        assert 400 - lengths[left].min() < spent <= 400


def test_the_full_pool_is_all_that_is_usable(scored):
    assert choose(scored, "full", size=3) == list(range(40))


def test_a_rule_a_selector_and_a_function_choose_too(scored):
    rule = LossEstimator.from_coefficients({"intercept": 1.0, "mine": -0.01})
    assert choose(scored, rule, size=3) == choose(scored, Selector(rule), size=3) == [37, 38, 39]
    assert choose(scored, lambda pool, size: [5, 3, 5], size=3) == [3, 5]
    for rows in (None, ["a"], [1.5], [[1], [2, 3]]):
        with pytest.raises(InstructMineError, match="the strategy 'mine' returned no row numbers"):
            choose(scored, lambda pool, size, rows=rows: rows, size=1)
    for rows, told in (
        ([40], "row 40, and was given 40 rows"),
        ([1, 2], "size=2 where size=1 was"),
        ([], "no row"),
    ):
        with pytest.raises(InstructMineError, match=f"the strategy 'mine' chose {told}"):
            choose(scored, lambda pool, size, rows=rows: rows, size=1)


def test_copies_and_rows_without_a_response_are_not_usable():
    pool = Dataset.from_dict({"prompt": ["a", "a", "b", "c"], "completion": ["x", "x", "", "x"]})
    assert usable_rows(pool, copies=False).tolist() == [0, 3]
    assert usable_rows(pool).tolist() == [0, 1, 3]


def test_what_cannot_choose_is_refused(scored):
    for name, strategy, message in [
        ("a b", "random", "letters, digits"),
        ("mine", "best", "write random, balanced:COLUMN, full, highest:COLUMN"),
        ("mine", "highest:reward", "needs the column 'reward'"),
        ("mine", 3, "is a int, which cannot choose"),
    ]:
        with pytest.raises(InstructMineError, match=message):
            check_strategy(name, strategy, scored)
    with pytest.raises(InstructMineError, match="above the 40 that can be chosen"):
        choose(scored, "highest:output_length", size=41)
    with pytest.raises(InstructMineError, match="less than every row takes"):
        take(np.array([0]), np.array([5.0]), 4, "tokens=4")
