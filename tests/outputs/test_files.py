"""Files that are whole or absent."""

import os
import subprocess
import sys

import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.outputs.files import written_whole


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
