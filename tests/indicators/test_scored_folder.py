"""The folder of a scored pool: nobody else's files are touched, and several processes may score into it at once."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from tiny_models import byte_tokenizer

from hf_instructmine import MTLD, InputLength, InstructMineError, OutputLength, score
from hf_instructmine.indicators import mtld


def pool(rows: int = 300) -> Dataset:
    texts = [" ".join(["one", "two", "three"][: 1 + i % 3]) for i in range(rows)]
    return Dataset.from_dict({"prompt": [f"q{i}" for i in range(rows)], "completion": texts})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "scored"
    score(pool(), [MTLD()], folder)
    return folder


@pytest.fixture
def scored(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "scored")


# --- Damaged files ------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    ".columns/pool.json": (cut, "pool.json' is not JSON"),
    "report.json": (cut, "report.json' is not JSON"),
    "indicators.json": (cut, "indicators.json' is not JSON"),
    "data/train-00000-of-00001.parquet": (cut, "cannot read '.*parquet'"),
    ".columns/pool.json ": (lambda path: path.write_text("[]"), "pool.json' is not what it should be"),
    "indicators.json ": (lambda path: path.write_text('{"mtld": 5}'), "indicators.json' is not what it should be"),
    "report.json ": (lambda path: path.write_text('{"mtld": {}}'), "report.json' is not what it should be"),
    "report.json  ": (lambda path: path.write_text("{}"), "report.json' says nothing of 'mtld'"),
    "report.json   ": (lambda path: path.unlink(), "cannot read '.*report.json': No such file"),
    "data/train-00000-of-00001.parquet ": (lambda path: path.unlink(), "has 0 rows of 300: a file is missing"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_one_line_before_anything_is_scored_and_the_shards_stay(scored, monkeypatch, name):
    damage, message = DAMAGE[name]
    damage(scored / name.strip())
    monkeypatch.setattr(mtld.MTLD, "score", None)
    with pytest.raises(InstructMineError, match=message) as error:
        score(pool(), [OutputLength(byte_tokenizer())], scored)
    assert "overwrite=True" in str(error.value) and "\n" not in str(error.value)
    if "pool.json" not in name:  # as the error advises; the pool's own digest cannot be guessed
        assert len(score(pool(), [MTLD()], scored, overwrite=True)["mtld"]) == 300


def test_a_damaged_note_of_the_pool_may_be_overwritten(scored):
    (scored / ".columns/pool.json").write_text("{")
    assert len(score(pool(), [MTLD()], scored, overwrite=True)) == 300


# --- Somebody else's files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data/train-00000-of-00002.parquet", "data/rows.jsonl", "report.json"])
def test_files_of_something_else_are_not_replaced_whatever_may_be(tmp_path, name):
    theirs = tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("mine")
    with pytest.raises(InstructMineError, match="is of no scored pool, and would be replaced: choose another"):
        score(pool(), [MTLD()], tmp_path, overwrite=True)
    assert theirs.read_text() == "mine"
    assert not (tmp_path / ".columns").exists()


# --- Several processes --------------------------------------------------------------------------------------------


def test_columns_that_another_process_finished_meanwhile_stay(tmp_path, monkeypatch):
    measure, tokenizer = mtld.MTLD.score, byte_tokenizer()

    def slow(self, rows):
        if not (tmp_path / "indicators.json").exists():
            score(pool(), [OutputLength(tokenizer)], tmp_path)
        return measure(self, rows)

    monkeypatch.setattr(mtld.MTLD, "score", slow)
    both = score(pool(), [MTLD()], tmp_path)
    assert {"mtld", "output_length"} <= set(both.column_names)
    again = load_dataset(str(tmp_path), split="train")
    assert again.column_names == both.column_names
    assert again["output_length"][:] == score(pool(), [OutputLength(tokenizer)])["output_length"][:]
    assert set(json.loads((tmp_path / "report.json").read_text())) == {"mtld", "output_length"}


def test_another_pool_that_another_process_began_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    measure = mtld.MTLD.score

    def slow(self, rows):
        if len(rows) > 10:
            score(pool(5), [MTLD()], tmp_path, overwrite=True)
        return measure(self, rows)

    monkeypatch.setattr(mtld.MTLD, "score", slow)
    with pytest.raises(InstructMineError, match="another process has begun to score another pool in"):
        score(pool(), [MTLD()], tmp_path)
    assert len(load_dataset(str(tmp_path), split="train")) == 5


def test_scores_at_once_lose_no_column(tmp_path):
    pool().to_parquet(tmp_path / "pool.parquet")
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    model = str(tmp_path / "tokenizer")
    indicators = [MTLD(), OutputLength(model), InputLength(model)]
    started = [
        threading.Thread(target=score, args=(pool(), [indicator], tmp_path / "scored")) for indicator in indicators
    ]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(60)
    found = load_dataset(str(tmp_path / "scored"), split="train")
    for indicator in indicators:
        (name,) = indicator.names
        assert np.array_equal(found[name][:], indicator(pool()[:])[name])


def test_the_lock_of_a_killed_process_is_free_again(tmp_path):
    script = (
        "import os, signal, sys\nfrom hf_instructmine.outputs.records import Records\n"
        "with Records(sys.argv[1]).lock('folder', patience=-1):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / ".columns").mkdir()
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / ".columns")], check=False)
    assert done.returncode == -9
    assert len(score(pool(5), [MTLD()], tmp_path)) == 5
