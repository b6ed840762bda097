"""Files that are whole or absent."""

import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_instructmine import InstructMineError
from hf_instructmine.outputs import files
from hf_instructmine.outputs.files import write_parquet, written_whole


# A limit on the size of a file stands in for a full disk.
FULL_DISK = """
import os, resource, sys
from pathlib import Path
from datasets import Dataset
from hf_instructmine import InstructMineError
from hf_instructmine.outputs.files import write_parquet, written_whole

texts = Dataset.from_dict({"completion": [os.urandom(10_000).hex() for _ in range(200)]})
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for size in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        with written_whole(Path(sys.argv[1])) as partial:
            write_parquet(texts, partial)
    except InstructMineError as error:
        print(error)
"""


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with written_whole(target) as partial:
        partial.write_text("first")
        assert not target.exists()
    with pytest.raises(InstructMineError, match=r"file\.txt': disk full; what is"), written_whole(target) as partial:
        partial.write_text("sec")
        raise OSError("disk full")
    assert target.read_text() == "first"
    assert os.listdir(target.parent) == ["file.txt"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    sizes = [str(50_000 * k) for k in range(1, 21)]
    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "texts.parquet"), *sizes], capture_output=True, text=True
    )
    lines = child.stdout.splitlines()
    assert (child.returncode, len(lines)) == (0, 20), child.stderr
    assert all("texts.parquet': " in line and "mend it and start again" in line for line in lines)
    assert os.listdir(tmp_path) == []


def test_a_table_is_written_in_groups_of_bounded_size_in_the_order_of_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_GROUP", 3000)
    monkeypatch.setattr(files, "_GATHERED", 40)
    table = Dataset.from_dict({"n": range(1000), "text": ["t"] * 1000}).shuffle(seed=0)
    for rows, size, most in ((table, None, 40), (table.flatten_indices(), None, 250), (table, 300, 300)):
        write_parquet(rows, tmp_path / "rows.parquet", size)
        groups = pq.ParquetFile(tmp_path / "rows.parquet").metadata
        sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
        assert max(sizes) <= most and len(sizes) == -(-1000 // max(sizes))
        assert Dataset.from_parquet(str(tmp_path / "rows.parquet"))["n"][:] == table["n"][:]


@pytest.mark.parametrize("rows", [0, 3])
def test_features_are_written_with_the_rows(tmp_path, rows):
    features = Features({"kind": ClassLabel(names=["a", "b"]), "n": Value("float64", id="{}")})
    table = Dataset.from_dict({"kind": [1] * rows, "n": [0.5] * rows}, features=features)
    write_parquet(table.with_format("numpy", columns=["n"]), tmp_path / "rows.parquet")
    again = Dataset(pq.read_table(tmp_path / "rows.parquet"))
    assert (again.features, again[:]) == (features, table[:])
