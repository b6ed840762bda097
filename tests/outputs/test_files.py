"""Files that are whole or absent."""

import os

import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.outputs.files import written_whole


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
