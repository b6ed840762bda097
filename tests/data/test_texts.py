"""Rows are told apart by all that is trained on, and by nothing else."""

import tracemalloc

import numpy as np
import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError
from hf_instructmine.data import texts
from hf_instructmine.data.containers import as_dataset
from hf_instructmine.data.texts import TextKeys, first_alike, usable_rows
from hf_instructmine.outputs.digests import row_digest


USER = {"role": "user", "content": "Is 51 prime?"}
ROW = {"messages": [USER, {"role": "assistant", "content": "No."}], "tools": None, "source": "a"}


def answer(**more):
    return {**ROW, "messages": [USER, {"role": "assistant", "content": "No.", **more}]}


def call(number):
    return [{"function": {"name": "factor", "arguments": {"n": number}}}]


DIFFERENT = {
    "reasoning": [answer(thinking=text) for text in ("Try small primes.", "Add the digits.", "Factor it.", "Guess.")],
    "calls": [answer(tool_calls=call(n)) for n in (51, 52)],
    "tools": [{**ROW, "tools": f'[{{"name": "{name}"}}]'} for name in ("f", "g")],
    "system texts": [{**ROW, "system": text} for text in ("Be brief.", "Be long.")],
    "template arguments": [{**ROW, "chat_template_kwargs": f'{{"enable_thinking": {v}}}'} for v in ("true", "false")],
    "masks": [
        {"messages": [USER, {"role": "assistant", "content": "Hm.", "weight": weight}, USER, *ROW["messages"]]}
        for weight in (0, 1)
    ],
}


@pytest.mark.parametrize("rows", DIFFERENT.values(), ids=DIFFERENT)
def test_rows_that_differ_in_what_is_trained_on_are_no_copies(rows):
    pool = Dataset.from_list(rows)
    keys = TextKeys(pool, None)
    assert len({keys[i] for i in range(len(pool))}) == len(pool)
    assert usable_rows(pool, copies=False).tolist() == list(range(len(pool)))


def test_rows_that_differ_in_metadata_are_copies():
    pool = Dataset.from_list([ROW, {**ROW, "source": "b"}, {**ROW, "tools": "[]"}])
    assert usable_rows(pool, copies=False).tolist() == [0]
    keys = TextKeys(pool, None)
    keys.load(np.arange(3))
    assert keys[0] == keys[1] == keys[2]


def test_four_reasonings_of_one_answer_are_four_rows_of_a_selection():
    from hf_instructmine import LossEstimator, Selector

    rows = [{**row, "mtld": float(i)} for i, row in enumerate(DIFFERENT["reasoning"])]
    selection = Selector(LossEstimator.from_coefficients({"mtld": -0.01})).select(Dataset.from_list(rows), size=4)
    assert (selection.num_selected, selection.skipped_duplicates) == (4, 0)


def test_only_the_first_of_equal_rows_is_kept_wherever_the_others_lie(monkeypatch):
    monkeypatch.setattr(texts, "_CHUNK", 2)
    answers = ["b", "a", None, "b", "c", "a", "", "b"]
    pool = Dataset.from_dict({"prompt": ["q"] * 8, "completion": answers})
    assert usable_rows(pool, copies=False).tolist() == [0, 1, 4]
    assert usable_rows(pool).tolist() == [0, 1, 3, 4, 5, 7]
    assert usable_rows(pool.select([7, 5, 3, 1]), copies=False).tolist() == [0, 1]


@pytest.mark.parametrize("at_once", [[1, 3, 0], [3]])
def test_a_row_that_cannot_be_read_is_named_when_it_is_asked_for_and_no_earlier(at_once):
    rows = [{"prompt": "q", "completion": text} for text in ("a", "b", 7, "a")]
    keys = TextKeys(as_dataset(rows, "pool"), None)
    keys.load(np.arange(4))
    assert keys[0] == keys[3] != keys[1]
    keys.load(np.array(at_once))
    assert keys[0] == keys[3] != keys[1]
    with pytest.raises(InstructMineError, match=r"^row 2, column 'completion': expected text .*, got int 7"):
        keys[2]


def test_digests_take_a_few_bytes_a_row_and_no_object():
    rows = 4000
    pool = Dataset.from_dict({"prompt": ["q"] * rows, "completion": [f"answer {i}" for i in range(rows)]})
    keys = TextKeys(pool, None)
    keys.load(np.arange(8))  # what is made once
    assert keys[7] is not None
    tracemalloc.start()
    for start in range(0, rows, 100):
        keys.load(np.arange(start, start + 100))
        assert None not in [keys[row] for row in range(start, start + 100)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 40 * rows  # an entry of a dict and its digest are above 100 bytes


def test_each_row_is_told_the_first_that_is_alike():
    rng = np.random.default_rng(0)
    texts = [f"text {number}" for number in rng.integers(40, size=200)]
    digests = np.frombuffer(b"".join(map(row_digest, texts)), np.uint8).reshape(-1, 16)
    assert first_alike(digests).tolist() == [texts.index(text) for text in texts]
    assert first_alike(digests[:0]).tolist() == []
