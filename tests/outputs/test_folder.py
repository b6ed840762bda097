"""An output folder is complete or absent, and nobody's files are lost for it."""

import os

import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.outputs.folder import check_output_folder, staged_folder


def write(folder, text="new"):
    (folder / "README.md").write_text(text)
    (folder / "data").mkdir()
    (folder / "data/train.txt").write_text(text)


def test_a_folder_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "deep/down/out"
    with staged_folder(target) as stage:
        write(stage)
        assert not target.exists()
    assert (target / "data/train.txt").read_text() == "new"
    assert os.listdir(target.parent) == ["out"]


def test_nothing_appears_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "out") as stage:
        write(stage)
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_an_empty_folder_is_filled(tmp_path):
    with staged_folder(tmp_path) as stage:
        write(stage)
    assert sorted(os.listdir(tmp_path)) == ["README.md", "data"]


def test_overwriting_replaces_files_and_leaves_others(tmp_path):
    write(tmp_path, "old")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InstructMineError, match="overwrite=True"), staged_folder(tmp_path):
        raise AssertionError("the block is not entered")
    with staged_folder(tmp_path, overwrite=True) as stage:
        write(stage)
        assert (tmp_path / "README.md").read_text() == "old"
    assert (tmp_path / "README.md").read_text() == (tmp_path / "data/train.txt").read_text() == "new"
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["README.md", "data", "notes.txt"]


def test_rows_of_another_dataset_are_neither_removed_nor_mixed_in(tmp_path):
    write(tmp_path, "old")
    (tmp_path / "data/other.txt").write_text("mine")
    with (
        pytest.raises(InstructMineError, match=r"holds a file that is not of a selection \(other.txt\)"),
        staged_folder(tmp_path, overwrite=True) as stage,
    ):
        write(stage)
    assert (tmp_path / "README.md").read_text() == "old"
    assert (tmp_path / "data/other.txt").read_text() == "mine"


def test_checking_leaves_nothing_behind(tmp_path):
    check_output_folder(tmp_path / "out")
    check_output_folder(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InstructMineError, match="out' is a file: name a folder"):
        check_output_folder(tmp_path / "out")
    with pytest.raises(InstructMineError, match=r"cannot write to .*Not a directory"):
        check_output_folder(tmp_path / "out/deeper")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(InstructMineError, match=r"cannot write to .*Permission denied"):
        check_output_folder(tmp_path / "out")


def test_checking_leaves_no_parent_behind(tmp_path):
    check_output_folder(tmp_path / "deep/down/out")
    assert os.listdir(tmp_path) == []


def test_where_another_process_was_first_the_files_are_there_once(tmp_path):
    target = tmp_path / "out"
    with staged_folder(target, overwrite=True) as stage:
        write(stage)
        with staged_folder(target, overwrite=True) as other:
            write(other)
    assert os.listdir(tmp_path) == ["out"]
    assert sorted(os.listdir(target)) == ["README.md", "data"]
