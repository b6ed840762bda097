"""A pool is cut into disjoint parts, and every strategy chooses anew in each."""

import logging
import warnings

import numpy as np
import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError, LossEstimator, Selector
from hf_instructmine.comparison.parts import Choices, Protocol, cut


RULE = LossEstimator.from_coefficients({"mtld": -1.0})


def scored(rows: int = 60) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset.from_dict(
        {
            "prompt": [f"question {i}" for i in range(rows)],
            "completion": [f"answer {i}" for i in range(rows)],
            "source": ["a", "b", "b"] * (rows // 3),
            "output_length": rng.integers(5, 50, rows).tolist(),
            "mtld": rng.uniform(1, 2, rows).tolist(),
        }
    )


def test_parts_are_disjoint_random_of_equal_size_and_cover_the_rows():
    rows = np.arange(100, 143)
    parts = cut(rows, 4, seed=0)
    assert sorted(len(part) for part in parts) == [10, 11, 11, 11]
    assert sorted(np.concatenate(parts).tolist()) == rows.tolist()
    assert all((np.diff(part) > 0).all() for part in parts) and max(np.diff(parts[0])) > 1
    assert [part.tolist() for part in cut(rows, 4, seed=0)] == [part.tolist() for part in parts]
    assert [part.tolist() for part in cut(rows, 4, seed=1)] != [part.tolist() for part in parts]


def test_rows_without_a_response_or_a_length_and_copies_are_in_no_part():
    pool = scored()
    rows = pool.to_list()
    rows[3]["completion"], rows[7]["output_length"] = "", float("nan")
    rows[9] |= {"prompt": rows[8]["prompt"], "completion": rows[8]["completion"]}
    choices = Choices(Dataset.from_list(rows), Protocol(parts=3))
    assert set(range(60)) - set(np.concatenate(choices.parts).tolist()) == {3, 7, 9}


def test_each_strategy_chooses_its_best_within_the_part():
    pool = scored()
    choices = Choices(pool, Protocol(parts=4, random_at=(0.5, 2.0)))
    chosen = choices.choose({"mine": RULE, "own": "highest:mtld", "random": "random"}, [{"size": 5}])
    values = np.array(pool["mtld"][:])
    for number, part in enumerate(choices.parts):
        here = {(row["strategy"], row["multiple"]): row for row in chosen if row["part"] == number}
        best = sorted(part[np.argsort(-values[part])][:5].tolist())
        assert here["mine", 1.0]["indices"] == here["own", 1.0]["indices"] == best
        assert here["mine", 1.0]["mtld"] == pytest.approx(values[best].mean())
        drawn = [set(here["random", m]["indices"]) for m in (0.5, 1.0, 2.0)]
        assert [len(rows) for rows in drawn] == [2, 5, 10] and drawn[0] < drawn[1] < drawn[2] <= set(part.tolist())
    whole = {row["strategy"]: row["indices"] for row in chosen if row["part"] is None}
    assert whole.keys() == {"mine", "own"} and whole["own"] == sorted(np.argsort(-values)[:5].tolist())


def test_embeddings_of_a_selector_are_cut_as_the_pool_is():
    pool, vectors = scored(), np.random.default_rng(1).normal(size=(60, 3))
    choices = Choices(pool, Protocol(parts=3, random_at=(), whole_pool=False))
    selector = Selector(RULE, embeddings=vectors, max_similarity=0.5)
    chosen = choices.choose({"diverse": selector, "random": "random"}, [{"size": 4}])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row in chosen:
        if row["strategy"] == "diverse":
            among = unit[row["indices"]] @ unit[row["indices"]].T
            assert (among[np.triu_indices(4, 1)] <= 0.5).all()


def test_finetunes_of_a_part_share_seed_and_steps_and_the_curve_has_as_many_times_the_steps():
    choices = Choices(scored(), Protocol(parts=3, seeds=2, seed=5, random_at=(0.5,), whole_pool=False))
    asked = []
    runs = choices.finetunes(
        choices.choose({"mine": RULE, "random": "random"}, [{"tokens": 120}]), lambda rows: asked.append(rows) or 12
    )
    drawn = [r["subset_size"] for r in runs if r["strategy"] == "random" and r["multiple"] == 1 and r["seed"] < 8]
    assert asked == [np.mean(drawn)]
    for part in range(3):
        seeds = {name: [r["seed"] for r in runs if (r["part"], r["strategy"], r["multiple"]) == (part, name, 1)]
                 for name in ("mine", "random")}  # fmt: skip
        assert seeds == {"mine": [5 + part, 8 + part], "random": [5 + part, 8 + part]}
    assert {(r["multiple"], r["max_steps"]) for r in runs} == {(1.0, 12), (0.5, 6)}


def test_what_a_part_cannot_give_is_told(caplog):
    choices = Choices(scored(), Protocol(parts=4))  # of 15 rows each
    with caplog.at_level(logging.WARNING):
        chosen = choices.choose({"random": "random"}, [{"size": 5}])
    assert "a part of the pool cannot give 4 times size=5: left out" in caplog.text
    assert {row["multiple"] for row in chosen} == {0.5, 1.0, 2.0}
    caplog.clear()
    choices.choose({"random": "random"}, [{"size": 11}])
    assert "size=11 is more than two thirds of what a part can give (15)" in caplog.text
    with pytest.raises(InstructMineError, match="size=16 is above the 15 that part 1 of 4 can give: ask for at most "
                       "size=15, for parts=3, or give a larger pool"):  # fmt: skip
        choices.choose({"random": "random"}, [{"size": 16}])


def test_what_a_strategy_warns_of_is_said_once_with_how_often(caplog):
    def doubtful(pool, size):
        warnings.warn(f"{len(pool)} rows are few", stacklevel=2)
        return range(size)

    choices = Choices(scored(), Protocol(parts=4, random_at=()))
    with caplog.at_level(logging.WARNING):
        choices.choose({"mine": doubtful, "random": "random"}, [{"size": 2}])
    (told,) = (record.getMessage() for record in caplog.records if "few" in record.getMessage())
    assert told == "the strategy 'mine', in 5 of its 5 choices, the first of them: 15 rows are few"
