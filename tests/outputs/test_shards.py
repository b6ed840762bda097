"""A table is cut by size, at whole groups of rows, and read again as it was."""

import numpy as np
import pytest
from datasets import Dataset

from hf_instructmine.errors import InstructMineError
from hf_instructmine.outputs.shards import cut, parse_size, shard_name, shard_pattern, write_shards


@pytest.mark.parametrize(
    "size, parsed", [("500MB", 500_000_000), ("2 GiB", 2**31), ("1.5kb", 1500), ("7", 7), (12, 12), ("3T", 3 * 10**12)]
)
def test_sizes(size, parsed):
    assert parse_size(size) == parsed


@pytest.mark.parametrize("size", ["", "MB", "-1", 0, "0GB", "5 apples", None, True, 1.5e-9])
def test_what_is_no_size_is_one_line(size):
    with pytest.raises(InstructMineError, match="is no size: write '500MB'"):
        parse_size(size)


def test_shards_hold_every_row_once_and_in_order(tmp_path):
    rows = Dataset.from_dict({"number": np.arange(4500)})
    shards = cut(rows, most=16_000)  # two groups of 1,000 numbers of 8 bytes
    assert shards == [range(2000), range(2000, 4000), range(4000, 4500)]
    written = list(write_shards(rows, shards, tmp_path))
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [shard_name(index, 3) for index in range(3)]
    assert Dataset.from_parquet([str(path) for path in written])["number"][:] == list(range(4500))


def test_a_table_that_fits_is_one_file_also_where_it_is_empty(tmp_path):
    assert cut(Dataset.from_dict({"number": [1, 2]}), 500) == [range(2)]
    assert cut(Dataset.from_dict({"number": []}), 500) == [range(0)]
    assert shard_pattern(1) == shard_name(0, 1) == "data/train-00000-of-00001.parquet"


def test_rows_chosen_from_a_larger_table_are_measured_by_themselves():
    pool = Dataset.from_dict({"number": np.arange(100_000)})
    assert cut(pool.select([5, 3, 4]), most=16_000) == [range(3)]
