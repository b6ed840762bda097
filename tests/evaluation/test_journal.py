"""A file that grows by lines: a kill costs at most the line that was being written."""

import threading

import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.evaluation.journal import Journal, read_lines


def test_lines_are_read_as_they_were_written(tmp_path):
    journal = Journal(tmp_path / "deep" / "lines.jsonl")
    assert journal.read() == []
    journal.append([{"a": 1}, {"text": "line\nbreak \u2028 é 🙂"}])
    journal.append([{"a": 2}])
    assert Journal(journal.path).read() == [{"a": 1}, {"text": "line\nbreak \u2028 é 🙂"}, {"a": 2}]


@pytest.mark.parametrize("kept", range(1, 12))
def test_a_line_that_a_kill_cut_short_is_taken_off(tmp_path, kept):
    journal = Journal(tmp_path / "lines.jsonl")
    journal.append([{"a": 1}, {"b": "é"}])
    content = journal.path.read_bytes()
    first = content.index(b"\n") + 1
    journal.path.write_bytes(content[: first + kept])
    assert journal.read() == [{"a": 1}]
    journal.append([{"c": 3}])
    assert journal.read() == [{"a": 1}, {"c": 3}]


def test_a_damaged_line_is_told_and_counts_as_missing(tmp_path, caplog):
    journal = Journal(tmp_path / "lines.jsonl")
    journal.append([{"a": 1}, {"b": 2}, {"c": 3}])
    journal.path.write_bytes(journal.path.read_bytes().replace(b'{"b"', b'\x00\xff"'))
    assert journal.read() == [{"a": 1}, {"c": 3}]
    assert "'lines.jsonl', line 2 is damaged" in caplog.text


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_file_of_somebody_elses_is_read_to_its_end_and_stays_as_it_is(tmp_path, end):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"row": 0}\n{"row": 1}' + end)
    assert read_lines(path) == [{"row": 0}, {"row": 1}]
    assert path.read_text() == '{"row": 0}\n{"row": 1}' + end
    path.write_text("")
    assert read_lines(path) == []
    with pytest.raises(InstructMineError, match="cannot read"):
        read_lines(tmp_path / "absent.jsonl")


def test_several_threads_may_append(tmp_path):
    journal = Journal(tmp_path / "lines.jsonl")
    threads = [
        threading.Thread(target=lambda i=i: [journal.append([{"i": i, "k": k}]) for k in range(10)]) for i in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(line["i"], line["k"]) for line in journal.read()}) == 50


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InstructMineError, match="cannot write"):
        Journal(tmp_path / "file" / "lines.jsonl").append([{}])
