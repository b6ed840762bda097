"""The rows that a card shows: some at the border and some drawn, chosen without reading them."""

import numpy as np
from datasets import Dataset

from hf_instructmine import LossEstimator, Selector
from hf_instructmine.selection.examples import DRAWN, INSIDE, MOST, OUTSIDE


RULE = LossEstimator.from_coefficients({"intercept": 1.0, "mtld": 1.0, "log(reward)": -2.0})


def pool(rows: int = 40, text: str = "word ") -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset.from_dict(
        {
            "prompt": [f"question {i}" for i in range(rows)],
            "completion": [f"answer {i} {text * 100}" for i in range(rows)],
            "source": ["web"] * rows,
            "mtld": rng.permutation(rows).astype(float),
            "reward": [1.0] * (rows - 1) + [None],
        }
    )


def test_five_of_either_kind_two_of_them_at_the_border():
    selection = Selector(RULE).select(pool(), size=10)
    kept = [e for e in selection.examples if e["fate"] == "selected"]
    others = [e for e in selection.examples if e["fate"] != "selected"]
    assert [e["how"] for e in kept] == [INSIDE] * 2 + [DRAWN] * 3
    assert [e["how"] for e in others] == [OUTSIDE] * 2 + [DRAWN] * 3
    ranked = np.argsort(selection.pool_log_loss, kind="stable").tolist()
    assert [e["row"] for e in kept[:2]] == ranked[9:7:-1] and [e["row"] for e in others[:2]] == ranked[10:12]
    assert len({e["row"] for e in selection.examples}) == 10


def test_each_has_its_texts_cut_its_values_and_what_they_add():
    selection = Selector(RULE).select(pool(), size=10)
    example, scored = selection.examples[0], pool()
    row = example["row"]
    assert example["prompt"] == f"question {row}" and len(example["response"]) == MOST
    assert example["values"] == {"mtld": scored["mtld"][row], "log(reward)": 1.0}
    known = np.array(scored["mtld"][:39])
    assert example["contributions"]["mtld"] == scored["mtld"][row] - known.mean()
    assert f"mtld −{-example['contributions']['mtld']:.4f} (at " in selection.card.text


def test_the_same_rows_whatever_their_texts():
    rows = [[e["row"] for e in Selector(RULE).select(pool(text=t), size=10).examples] for t in ("a ", "b ")]
    assert rows[0] == rows[1]


def test_a_pool_of_numbers_has_examples_without_text():
    scored = pool().select_columns(["mtld", "reward"])
    selection = Selector(RULE).select(scored, size=39)
    assert [e["fate"] for e in selection.examples][-1] == "no prediction"
    assert selection.examples[0]["prompt"] is None and "Prompt:" not in selection.card.text
    assert ", log(reward) not known.\n" in selection.card.text
    assert "(no prediction, drawn at random): no prediction; mtld " in selection.card.text
