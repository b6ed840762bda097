"""The room that a disk has is known before anything is written."""

import shutil
from types import SimpleNamespace

import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.outputs.room import check_room, in_bytes


def test_sizes_in_words():
    assert (in_bytes(12_300_000), in_bytes(4_560_000_000)) == ("12.3 MB", "4.6 GB")


def test_a_disk_without_room_is_one_line_with_the_mend(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5_000_000))
    assert check_room(tmp_path, 5_000_000, "it takes", "or none") == "5.0 MB"
    with pytest.raises(InstructMineError) as error:
        check_room(tmp_path, 7_000_000, "it takes", "or none")
    assert str(error.value) == f"it takes 7.0 MB, but the disk of '{tmp_path}' has 5.0 MB left: make room, or none"
