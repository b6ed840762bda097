"""`him.report` and `instructmine report`: where the page goes, and one line for what cannot be shown."""

import re
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from report_folders import WRITTEN_BEFORE, pool, score, write_scored

import hf_instructmine as him
from hf_instructmine import InstructMineError
from hf_instructmine.cli.main import main


def told(page: Path) -> str:
    """What the page says, without its figures and rows."""
    text = re.sub(r"base64,[\w+/=]+|<(script|style).*?</\1>", "", page.read_text("utf-8"), flags=re.DOTALL)
    return " ".join(re.sub("<[^>]+>", " ", text).split())


# --- Where it goes ------------------------------------------------------------------------------------------------


def test_the_page_is_in_the_folder_or_where_it_is_wanted(copied, tmp_path, monkeypatch):
    assert him.report(copied / "rule") == copied / "rule" / "report.html"
    monkeypatch.chdir(tmp_path)
    assert him.report("mined/rule", "pages/mine.html") == tmp_path / "pages" / "mine.html"
    assert (tmp_path / "pages" / "mine.html").is_file()


def test_our_page_is_replaced_and_another_file_is_not(copied):
    folder = copied / "rule"
    page = him.report(folder)
    him.report(folder)
    page.write_text("<title>my own page</title>")
    with pytest.raises(InstructMineError, match=r"is no report of this project: name another file, or pass overwrite"):
        him.report(folder)
    assert page.read_text() == "<title>my own page</title>"
    him.report(folder, overwrite=True)
    assert "Verdict" in told(page)


def test_the_same_folder_gives_the_same_page(copied):
    first = him.report(copied).read_bytes()
    assert him.report(copied).read_bytes() == first


def test_a_folder_with_a_page_is_still_what_it_was(copied, tmp_path):
    for name in ("curated", "scored", "rule", "sweep", "comparison", "search"):
        him.report(copied / name)
    rows = load_dataset(str(copied / "curated"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 20 and len(him.Selection.load(copied / "curated").dataset) == 20
    him.Selection.load(copied / "curated").save_to_disk(copied / "curated", overwrite=True)
    assert len(load_dataset(str(copied / "scored"), split="train", cache_dir=str(tmp_path / "cache"))) == 60
    assert him.LossEstimator.from_pretrained(copied / "rule") and him.load_comparison(copied / "comparison")
    assert len(him.load_runs(copied / "sweep")) == 4
    assert told(him.report(copied))  # a report.json of scores and a report.html are not of each other


def test_work_in_a_folder_with_a_page_goes_on(tmp_path):
    folder, rows = tmp_path / "scored", pool()
    first = score(rows, folder)
    him.report(folder)
    again = score(rows, folder)
    assert again["mtld"][:] == pytest.approx(first["mtld"][:], nan_ok=True)
    him.score(rows, [him.MTLD(threshold=0.6)], folder, overwrite=True)
    assert (folder / "report.html").is_file()


def test_nothing_else_is_written_and_nothing_is_left_behind(copied, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("TMPDIR", str(work))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = set(copied.rglob("*"))
    him.report(copied)
    assert set(copied.rglob("*")) - before == {copied / "report.html"}
    assert list(work.iterdir()) == []


# --- The verb -----------------------------------------------------------------------------------------------------


def test_the_verb_says_where_the_page_is(copied, capsys):
    assert main(["report", str(copied / "curated"), "--pool", str(copied / "scored")]) == 0
    page = copied / "curated" / "report.html"
    assert capsys.readouterr().out.startswith(f"Wrote {page} (0.")
    assert "no comparison: run instructmine compare" in told(page) and "no scored pool" not in told(page)


def test_options_reach_the_page(tmp_path, capsys):
    rows = {"q": ["ask " * 900], "a": ["answer"], "mtld": [1.0]}
    write_scored(rows, tmp_path / "scored")
    arguments = ["report", str(tmp_path / "scored"), "--output-file", str(tmp_path / "page.html")]
    assert main([*arguments, "--columns", "prompt=q,response=a"]) == 0
    assert "are cut at 2,000 characters" in told(tmp_path / "page.html")
    assert main([*arguments, "--columns", "prompt=q,response=a", "--full-texts"]) == 0
    assert "are cut" not in told(tmp_path / "page.html")
    assert main(arguments) == 0
    assert "the texts of the rows are not shown" in told(tmp_path / "page.html")


def _nothing(folder: Path) -> list[str]:
    (folder / "empty").mkdir()
    return [str(folder / "empty")]


def _no_rows(folder: Path) -> list[str]:
    write_scored({"prompt": ["a"], "completion": ["b"], "mtld": [1.0]}, folder / "scored")
    shard = folder / "scored" / "data" / "train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(shard).slice(0, 0), shard)
    return [str(folder / "scored")]


def _damaged_rows(folder: Path) -> list[str]:
    write_scored({"prompt": ["a"], "completion": ["b"], "mtld": [1.0]}, folder / "scored")
    (folder / "scored" / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and no more")
    return [str(folder / "scored")]


def _damaged_records(folder: Path) -> list[str]:
    shutil.copytree(WRITTEN_BEFORE / "sweep", folder / "sweep")
    for path in (folder / "sweep" / "runs").iterdir():
        path.write_text("{")
    return [str(folder / "sweep")]


def _damaged_trials(folder: Path) -> list[str]:
    shutil.copytree(WRITTEN_BEFORE / "search", folder / "search")
    pq.write_table(pa.table({"size": [1]}), folder / "search" / "trials.parquet")
    return [str(folder / "search")]


def _folder_as_page(folder: Path) -> list[str]:
    shutil.copytree(WRITTEN_BEFORE / "rule", folder / "rule")
    return [str(folder / "rule"), "--output-file", str(folder)]


@pytest.mark.parametrize(
    "make, line",
    [
        (_nothing, "holds nothing that instructmine wrote"),
        (lambda folder: [str(folder / "absent")], "is not there"),
        (lambda folder: [__file__], "is a file"),
        (lambda folder: [str(folder), "--pool", str(folder)], "holds nothing"),
        (lambda folder: ["~nobody-here/x"], "home folder of nobody"),
        (lambda folder: ["a\0b"], "zero byte"),
        (_no_rows, "has no rows"),
        (_damaged_rows, "cannot be read"),
        (_damaged_records, "holds no finished run"),
        (_damaged_trials, "no trials of search_size"),
        (_folder_as_page, "is a folder: name a file"),
    ],
)
def test_what_cannot_be_shown_is_one_line(tmp_path, capsys, make, line):
    arguments = make(tmp_path)
    capsys.readouterr()
    assert main(["report", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("instructmine report: ") and line in said and len(said.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a folder there is not made read-only so")
def test_a_page_that_cannot_be_written_is_one_line(copied, capsys):
    (copied / "not-a-folder").write_text("")
    assert main(["report", str(copied), "--output-file", str(copied / "not-a-folder" / "page.html")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_no_page(copied, capsys, monkeypatch):
    from hf_instructmine.reporting import contents, rows

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(rows.gzip, "compress", full)
        assert main(["report", str(copied)]) == 1
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.setattr(contents.Dataset, "from_parquet", full)
    assert main(["report", str(copied)]) == 1
    assert capsys.readouterr().err.endswith("No space left on device; free some, or set TMPDIR\n")
    assert not (copied / "report.html").exists()


# --- What earlier versions wrote, and odd pools -------------------------------------------------------------------


def test_folders_of_earlier_versions_are_shown(tmp_path):
    here = shutil.copytree(WRITTEN_BEFORE, tmp_path / "before", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    text = told(him.report(here))
    assert "Does it beat a random choice?" in text and "How many rows" in text and "Runs of the sweep" in text
    assert "left out, as sweep holds a sweep too" in text  # of failed, sweep-command and sweep-eos
    assert "not selected" in text or "why is not known" in text


def test_rows_of_none_are_shown(tmp_path):
    rows = {"prompt": [None, "a", None], "completion": [None, None, "b"], "source": [None, "web", ""]}
    write_scored({**rows, "mtld": [None] * 3}, tmp_path / "scored")
    assert "with a response that can be read 0" in told(him.report(tmp_path / "scored"))


def test_a_single_row_is_shown(tmp_path):
    write_scored({"prompt": ["a"], "completion": ["b"], "mtld": [1.0]}, tmp_path / "scored")
    him.LossEstimator.from_coefficients({"mtld": 1.0}).save_pretrained(tmp_path / "rule")
    assert "in the pool 1" in told(him.report(tmp_path))


def test_failed_runs_stand_first_with_why_and_without_a_path(tmp_path):
    from hf_instructmine.outputs.records import Records

    folder = shutil.copytree(WRITTEN_BEFORE / "failed", tmp_path / "sweep")
    records = Records(folder)
    path = next((folder / "runs").iterdir())
    records.write(path, records.read(path) | {"reason": f"cannot read '{tmp_path}/secret.bin' <b>"})
    text = told(him.report(folder))
    assert "1 failed" in text and "cannot read &#39;secret.bin&#39; &lt;b&gt;" in text and str(tmp_path) not in text


def test_a_name_that_is_no_text_is_shown_as_far_as_it_is(copied):
    (copied / "older-\udcff").mkdir()  # as Python reads a name that is not UTF-8
    shutil.copy(copied / "rule" / "estimator.json", copied / "older-\udcff")
    assert "older-�: left out, as rule holds a rule too" in told(him.report(copied))


def test_progress_is_told_of_a_pool_that_takes_a_while_and_of_no_other(copied, capsys):
    him.report(copied / "scored")
    assert capsys.readouterr().err == ""
