"""An output folder is complete or absent, and nobody's files are lost for it."""

import os
import subprocess
import sys

import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.outputs.folder import check_output_folder, refuse_foreign, refuse_input, staged_folder


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


@pytest.mark.parametrize("is_there", [False, True])
def test_of_two_processes_the_second_is_refused_and_its_files_are_gone(tmp_path, is_there):
    target = tmp_path / "out"
    if is_there:
        target.mkdir()
    with (
        pytest.raises(InstructMineError, match=r"out' already holds files \(README.md, data\): name another folder"),
        staged_folder(target) as stage,
    ):
        write(stage, "second")
        with staged_folder(target) as other:
            write(other, "first")
    assert (target / "README.md").read_text() == (target / "data/train.txt").read_text() == "first"
    assert (os.listdir(tmp_path), sorted(os.listdir(target))) == (["out"], ["README.md", "data"])


def test_what_a_folder_came_to_hold_meanwhile_is_looked_at_again(tmp_path):
    def check():
        refuse_foreign(tmp_path, "estimator.json", "rule")

    with (
        pytest.raises(InstructMineError, match="is of no rule"),
        staged_folder(tmp_path, overwrite=True, check=check) as stage,
    ):
        write(stage)
        (tmp_path / "README.md").write_text("my project")
    assert (tmp_path / "README.md").read_text() == "my project"


@pytest.mark.skipif(os.name == "nt", reason="no folder is locked there")
def test_files_of_two_processes_are_never_mixed(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom hf_instructmine.outputs.folder import staged_folder\n"
        "for turn in range(30):\n    with staged_folder(sys.argv[1], overwrite=True) as stage:\n"
        "        for k in range(20):\n            (stage / f'{k}.txt').write_text(f'{sys.argv[2]} {turn}')\n"
    )
    (tmp_path / "out").mkdir()
    started = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "out"), name]) for name in "ab"]
    assert [process.wait(60) for process in started] == [0, 0]
    assert len({path.read_text() for path in (tmp_path / "out").iterdir()}) == 1


def test_what_a_killed_process_left_neither_counts_nor_stays_for_ever(tmp_path):
    for target in (tmp_path / "held", tmp_path / "new"):
        (tmp_path / "held").mkdir(exist_ok=True)
        parent = target if target.exists() else tmp_path
        old, young = (parent / f".{target.name}.{digits}.tmp" for digits in ("0123abcd", "4567abcd"))
        for stage in (old, young):
            stage.mkdir()
        os.utime(old, (0, 0))
        with staged_folder(target) as stage:
            write(stage)
        assert (target / "README.md").exists()
        assert young.exists() and not old.exists()


def test_a_name_with_a_zero_byte_is_refused_in_one_line(tmp_path):
    with pytest.raises(InstructMineError, match="holds a zero byte"), staged_folder(f"{tmp_path}/a\0b"):
        pass


def test_a_home_folder_of_nobody_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(InstructMineError, match="in the home folder of nobody here"),
        staged_folder("~nobody-here/out"),
    ):
        pass
    refuse_input(tmp_path / "out", ["~nobody-here/pool", "x" * 300, "a\0b"])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("source", ["pool", "pool:train", "pool/data/train-00000-of-00001.parquet"])
def test_where_rows_are_read_from_nothing_is_written(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool").mkdir()
    write(tmp_path / "pool")
    (tmp_path / "pool/data/train-00000-of-00001.parquet").touch()
    with pytest.raises(InstructMineError, match="is where the rows are read from: name another output folder"):
        refuse_input(tmp_path / "pool", [source])
    refuse_input(tmp_path, [source])
    refuse_input(tmp_path / "pool/scored", [source])


def test_a_readme_of_something_else_is_not_replaced(tmp_path):
    refuse_foreign(tmp_path / "absent", "estimator.json", "rule")
    (tmp_path / "README.md").write_text("my project")
    with pytest.raises(InstructMineError, match=r"holds a README\.md that is of no rule: name another folder"):
        refuse_foreign(tmp_path, "estimator.json", "rule")
    (tmp_path / "estimator.json").touch()
    refuse_foreign(tmp_path, "estimator.json", "rule")
