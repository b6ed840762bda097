"""One way in for rows: what becomes of each container, of mixed values, and of streams that are read in parts."""

import shutil
import tracemalloc
from errno import ENOSPC
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, IterableDataset, SplitDict, SplitInfo, Value, load_dataset

from hf_instructmine import MTLD, InstructMineError, get_provenance, score
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


def files_of_streams() -> list[Path]:
    return [path for path in Path(containers._scratch().name).rglob("*") if path.is_file()]


def test_a_stream_that_breaks_off_is_one_line_with_its_row_and_cause_and_leaves_no_file(short_parts):
    def broken():
        yield from ROWS
        raise ConnectionError("the line is dead")

    before = files_of_streams()
    told = (
        r"^the stream pool broke off after row 2 or later: ConnectionError: the line is dead; .*pass the stream again$"
    )
    with pytest.raises(InstructMineError, match=told) as error:
        as_dataset(IterableDataset.from_generator(broken), "pool")
    assert isinstance(error.value.__cause__, ConnectionError)
    assert files_of_streams() == before


def test_a_disk_that_gets_full_is_one_line_with_the_mend_and_leaves_no_file(short_parts, monkeypatch):
    def write(dataset, path, written=containers._on_disk):
        if path.name == "1.arrow":
            path.write_bytes(b"half")
            raise OSError(ENOSPC, "No space left on device")
        return written(dataset, path)

    before = files_of_streams()
    monkeypatch.setattr(containers, "_on_disk", write)
    with pytest.raises(
        InstructMineError, match=r"^cannot keep the stream pool on disk: No space .*; make room.*TMPDIR$"
    ):
        as_dataset(ROWS.to_iterable_dataset(), "pool")
    assert files_of_streams() == before


@pytest.fixture
def told_to_be_large(tmp_path, monkeypatch):
    """A stream whose builder knows that it has a tebibyte; two gibibytes of disk are free."""
    ROWS.to_parquet(tmp_path / "rows.parquet")
    large = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train", streaming=True)
    large.info.splits = SplitDict({"train": SplitInfo("train", num_bytes=2**40, num_examples=3)})
    free = shutil.disk_usage(tmp_path)._replace(free=2**31)
    monkeypatch.setattr(containers.shutil, "disk_usage", lambda path: free)
    return large


def test_a_stream_that_is_known_to_be_too_large_is_refused_before_it_is_read(told_to_be_large, monkeypatch):
    monkeypatch.setattr(containers, "_batches", lambda *given: pytest.fail("it was read"))
    told = r"^the stream pool takes about 1,048,576 MiB on disk, and '.*' has 2,048 MiB free: make room.*TMPDIR$"
    with pytest.raises(InstructMineError, match=told):
        as_dataset(told_to_be_large, "pool")


def test_of_a_part_of_a_large_stream_the_size_is_not_known(told_to_be_large):
    for part in (told_to_be_large.take(2), told_to_be_large.filter(lambda row: row["prompt"] != "a")):
        assert len(as_dataset(part, "pool")) == 2


@pytest.mark.parametrize("known", [True, False], ids=["features", "no features"])
def test_memory_does_not_grow_with_the_rows_of_a_stream(known, monkeypatch):
    monkeypatch.setattr(containers, "_CHUNK", 50)

    def rows():
        return ({"prompt": f"{i}", "completion": "x" * 1000} for i in range(3000))

    features = Features({"prompt": Value("string"), "completion": Value("string")}) if known else None
    as_dataset(ROWS.to_iterable_dataset(), "pool")  # what is loaded once
    tables = pa.total_allocated_bytes()
    tracemalloc.start()
    pool = as_dataset(IterableDataset.from_generator(rows, features=features), "pool")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pool) == 3000
    assert pa.total_allocated_bytes() - tables < 300_000  # of three million
    assert most < 1_500_000


def test_parts_that_are_written_again_take_no_room_twice(short_parts):
    before = files_of_streams()
    pool = as_dataset(stream({"n": 1}, {"n": 2}, {"n": 2.5}), "pool")
    assert pool["n"][:] == [1, 2, 2.5]
    assert sorted({*files_of_streams()} - {*before}) == sorted(Path(file["filename"]) for file in pool.cache_files)


def test_a_stream_that_gives_other_rows_is_another_pool_and_what_was_scored_of_it_stays(tmp_path):
    given = iter([list(ROWS), list(ROWS), [*ROWS, ROWS[0]]])
    changing = IterableDataset.from_generator(lambda: next(given))
    for _ in range(2):
        score(changing, MTLD(), tmp_path / "scored")
    before = {path: path.read_bytes() for path in (tmp_path / "scored").rglob("*") if path.is_file()}
    with pytest.raises(InstructMineError, match=r"holds the scores of another pool \(3 rows, .*; this one: 4 rows, "):
        score(changing, MTLD(), tmp_path / "scored")
    assert {path: path.read_bytes() for path in before} == before


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
