"""One way in for rows: what becomes of each container, of mixed values, and of streams that are read in parts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, Value

from hf_instructmine import InstructMineError, get_provenance
from hf_instructmine.data import containers
from hf_instructmine.data.containers import as_batch, as_dataset, as_table
from hf_instructmine.data.conversation import read_conversations
from hf_instructmine.data.provenance import set_provenance


ROWS = Dataset.from_dict({"prompt": ["a", "b", "c"], "completion": ["d", "e", "f"]})


def stream(*rows: dict) -> IterableDataset:
    """A stream of which nothing is known before it is read."""
    return IterableDataset.from_generator(lambda: iter(rows))


@pytest.fixture
def short_parts(monkeypatch):
    monkeypatch.setattr(containers, "_CHUNK", 2)


def test_a_dataset_is_not_copied_and_keeps_its_place_in_the_cache():
    assert as_dataset(ROWS, "pool") is ROWS
    assert as_dataset(ROWS.with_format("numpy"), "pool").format["type"] is None


def test_a_split_is_named_where_there_are_several():
    splits = DatasetDict(train=ROWS, test=ROWS.select([0]))
    assert len(as_dataset(splits, "pool", split="test")) == 1
    with pytest.raises(InstructMineError, match="has no split 'dev': it has train, test"):
        as_dataset(splits, "pool", split="dev")


def test_a_later_row_may_have_columns_that_the_first_lacks():
    pool = as_dataset([{"a": 1}, {"b": 2}], "pool")
    assert list(pool) == [{"a": 1, "b": None}, {"a": None, "b": 2}]


@pytest.mark.parametrize("make", [list, lambda rows: pd.DataFrame(rows), lambda rows: stream(*rows)])
def test_values_of_several_types_stay_and_the_row_is_named_where_it_is_read(make):
    rows = [{"prompt": "a", "completion": text} for text in ("b", "c", 7, "d", None)]
    pool = as_dataset(make(rows), "pool")
    assert pool["completion"][:] == ["b", "c", 7, "d", None]
    with pytest.raises(InstructMineError, match=r"^row 2, column 'completion': expected text .*, got int 7"):
        read_conversations(pool[:])


def test_a_named_index_is_a_column_and_labels_are_not():
    frame = pd.DataFrame({"a": [1, 2, 3]}, index=pd.Index([7, 8, 9], name="id"))
    assert as_dataset(frame, "pool")["id"][:] == [7, 8, 9]
    assert as_dataset(pd.DataFrame({"a": [1, 2, 3]}).query("a > 1"), "pool").column_names == ["a"]
    with pytest.raises(InstructMineError, match=r"^pool cannot be read as a table: Duplicate column names found"):
        as_dataset(pd.DataFrame([[1, 2]], columns=["a", "a"]), "pool")


def test_columns_have_names_that_are_text():
    with pytest.raises(InstructMineError, match="pool has a column 7, which is no text: rename it"):
        as_dataset([{7: "a"}], "pool")


# --- Streams ------------------------------------------------------------------------------------------------------


def test_a_stream_lies_on_disk_in_parts_and_is_gone_with_the_process(short_parts):
    pool = as_dataset(ROWS.to_iterable_dataset(), "pool")
    assert list(pool) == list(ROWS)
    files = [Path(file["filename"]) for file in pool.cache_files]
    assert len(files) == 2
    assert all(file.is_relative_to(containers._scratch().name) for file in files)


def test_a_stream_keeps_its_features_and_how_columns_were_made(short_parts):
    scored = set_provenance(ROWS.add_column("mtld", [1.0, 2.0, 3.0]), {"mtld": {"indicator": "MTLD"}})
    pool = as_dataset(scored.to_iterable_dataset(), "pool")
    assert pool.features == scored.features
    assert get_provenance(pool) == {"mtld": {"indicator": "MTLD"}}


def test_parts_of_a_stream_agree_on_types(short_parts):
    rows = [
        {"n": 1, "gap": None, "text": "a", "chat": [{"role": "user", "content": "x"}]},
        {"n": 2, "gap": None, "text": "b", "chat": []},
        {"n": 2.5, "gap": "late", "text": 7, "chat": [{"role": "tool", "content": "x", "name": "y"}], "new": True},
    ]
    pool = as_dataset(stream(*rows), "pool")
    assert pool.features["n"] == Value("float64")
    assert pool.features["gap"] == Value("string")
    assert pool["text"][:] == ["a", "b", 7]
    assert pool["chat"][2] == rows[2]["chat"]
    assert pool["new"][:] == [None, None, True]


def test_a_stream_is_read_anew_at_each_call():
    given = iter([[{"a": 1}], [{"a": 1}, {"a": 2}]])
    changing = IterableDataset.from_generator(lambda: next(given))
    assert [len(as_dataset(changing, "pool")) for _ in range(2)] == [1, 2]


def test_an_empty_stream_is_an_empty_dataset():
    assert len(as_dataset(stream(), "pool")) == 0
    assert as_dataset(ROWS.to_iterable_dataset().take(0), "pool").column_names == ROWS.column_names


def test_what_fails_within_a_stream_is_told_as_it_is():
    def broken():
        yield {"a": 1}
        raise ConnectionError("the line is dead")

    with pytest.raises(ConnectionError, match="the line is dead"):
        as_dataset(IterableDataset.from_generator(broken), "pool")


# --- Tables and batches -------------------------------------------------------------------------------------------


def test_a_table_that_is_read_by_column_is_left_as_it_is():
    for table in (pd.DataFrame({"a": [1]}), {"a": [1]}):
        assert as_table(table, "runs") is table
    assert as_table([{"a": 1}], "runs").column_names == ["a"]
    assert as_table({"train": ROWS}, "runs") is ROWS


@pytest.mark.parametrize("format", ["numpy", "torch", "pandas", "arrow"])
def test_a_batch_is_lists_in_every_format(format):
    rows = ROWS.add_column("n", [1, 2, 3]).add_column("chat", [[{"role": "user", "content": "x"}]] * 3)
    assert as_batch(rows.with_format(format)[:]) == rows[:]


@pytest.mark.parametrize("row", [{"a": "text"}, {"a": ["b"], "id": 7}, {"a": None}, {"a": np.int64(1)}, {"a": {}}])
def test_a_row_is_no_batch(row):
    with pytest.raises(InstructMineError, match="holds one row, not a batch of rows: pass batched=True"):
        as_batch(row)
