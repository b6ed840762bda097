"""What is done on the Arrow table of a pool: nothing of it is written anew, and rows are gathered at once."""

import numpy as np
import pytest
from datasets import Dataset, Features, Value, concatenate_datasets, load_from_disk

from hf_instructmine import InstructMineError
from hf_instructmine.data import tables
from hf_instructmine.data.columns import numeric_column, read_sources
from hf_instructmine.data.tables import read_codes, read_column, with_features, with_text


@pytest.fixture
def pool(tmp_path) -> Dataset:
    """On disk, in several pieces."""
    rows = Dataset.from_dict({"text": list("abcdef"), "source": ["x", None, "y", "x", "z", None], "n": range(6)})
    for number in range(3):
        rows.select(range(2 * number, 2 * number + 2)).save_to_disk(tmp_path / str(number))
    return concatenate_datasets([load_from_disk(tmp_path / str(number)) for number in range(3)])


SELECTIONS = {
    "all": lambda pool: pool,
    "some": lambda pool: pool.select([4, 1, 4, 0]),
    "shuffled": lambda pool: pool.shuffle(seed=0),
    "few of many": lambda pool: concatenate_datasets([pool] * 20).select([64, 3]),
    "none": lambda pool: pool.select([]),
}


@pytest.mark.parametrize("of", SELECTIONS.values(), ids=SELECTIONS)
def test_a_column_is_read_in_the_order_of_the_rows(pool, of):
    rows = of(pool)
    assert read_column(rows, "n").to_pylist() == rows["n"][:] == numeric_column(rows, "n").tolist()


@pytest.mark.parametrize("of", SELECTIONS.values(), ids=SELECTIONS)
def test_values_are_numbered_by_their_first_row(pool, of, monkeypatch):
    monkeypatch.setattr(tables, "_CHUNK", 4)
    rows = of(pool)
    codes, values = read_codes(rows, "source")
    assert [values[code] for code in codes] == rows["source"][:]
    assert values == list(dict.fromkeys(rows["source"][:]))


def test_a_missing_source_has_a_name_of_its_own(pool):
    codes, names = read_sources(pool)
    assert (codes.tolist(), names) == ([0, 1, 2, 0, 3, 1], ["x", "(none)", "y", "z"])


def test_names_of_several_types_are_told_apart_and_lists_are_no_names():
    mixed = Dataset.from_dict({"source": ["a", 1, "a", 1]}, on_mixed_types="use_json")
    assert read_codes(mixed, "source")[0].tolist() == [0, 1, 0, 1]
    with pytest.raises(InstructMineError, match=r"^column 'source' holds list<.*>, not one name a row: name another"):
        read_codes(Dataset.from_dict({"source": [["a"], ["b"]]}), "source")


def test_a_shuffled_column_is_not_gathered_row_by_row(pool, monkeypatch):
    rows = pool.shuffle(seed=0)
    monkeypatch.setattr("datasets.table.IndexedTableMixin.fast_gather", lambda *given: pytest.fail("row by row"))
    assert sorted(numeric_column(rows, "n")) == list(range(6))
    assert sorted(np.bincount(read_codes(rows, "source")[0])) == [1, 1, 2, 2]


def test_texts_of_another_width_stay_where_they_lie(pool):
    large = Features({**pool.features, "text": Value("large_string")})
    wide = with_features(pool, large)
    back = with_features(wide, pool.features)
    assert wide["text"][:] == back["text"][:] == pool["text"][:]
    assert wide.features == large
    assert wide.cache_files == pool.cache_files
    assert _texts_lie_at(wide) == _texts_lie_at(pool) == _texts_lie_at(back)


def _texts_lie_at(dataset: Dataset) -> list[int]:
    return [chunk.buffers()[2].address for chunk in dataset.data.table.column("text").chunks]


@pytest.mark.parametrize("size", [1, 6, 25_003])
def test_one_text_in_every_row_takes_the_room_of_a_few(size):
    rows = Dataset.from_dict({"n": range(size)})
    named = with_text(rows, "name", "a file")
    assert named["name"][:] == ["a file"] * size
    assert named["n"][:] == list(range(size))
    assert len({chunk.buffers()[2].address for chunk in named.data.table.column("name").chunks}) == 1
