"""What `score` looks at before the first row is scored: the indicators, their models, and what an earlier run made."""

import pytest
from datasets import Dataset
from tiny_models import byte_tokenizer, unigram_tokenizer

from hf_instructmine import MTLD, InstructMineError, OutputLength, Perplexity, score
from hf_instructmine.cli.main import main
from hf_instructmine.data.texts import pool_digest
from hf_instructmine.indicators.scoring import read_rows


def pool_of(rows: int) -> Dataset:
    return Dataset.from_dict({"prompt": ["a"] * rows, "completion": ["one two three"] * rows})


@pytest.fixture
def unscored(monkeypatch):
    """MTLD must not be computed."""

    def refuse(*args):
        raise AssertionError("a row was scored")

    monkeypatch.setattr(MTLD, "score", refuse)


def test_the_models_of_all_indicators_are_looked_for_before_the_first_row(unscored, tmp_path, capsys):
    for missing in (Perplexity("nobody/model"), OutputLength("nobody/model")):
        with pytest.raises(InstructMineError, match=r"^cannot load the tokenizer 'nobody/model'"):
            score(pool_of(2), [MTLD(), missing], tmp_path / "scored")
    pool_of(2).to_json(tmp_path / "pool.jsonl")
    command = ["score", tmp_path / "pool.jsonl", "--output-dir", tmp_path / "scored", "--indicator", "MTLD"]
    assert main([str(word) for word in (*command, "Reward,model=nobody/model")]) == 1
    assert "'nobody/model'" in capsys.readouterr().err
    assert not (tmp_path / "scored").exists()


def test_a_column_that_was_made_otherwise_is_told_before_the_first_row(tmp_path, monkeypatch):
    score(pool_of(2), [OutputLength(byte_tokenizer())], tmp_path)
    monkeypatch.setattr(MTLD, "score", None)
    with pytest.raises(InstructMineError, match=r"holds a column 'output_length' that was made otherwise"):
        score(pool_of(2), [MTLD(), OutputLength(unigram_tokenizer())], tmp_path)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ([], "no indicator was given: pass at least one"),
        ([MTLD], r"MTLD is a class: pass one of its kind, e\.g\. \[MTLD\(\)\]"),
        (MTLD, "MTLD is a class"),
        (["MTLD"], "'MTLD' is no indicator: pass some"),
    ],
)
def test_what_is_no_indicator_is_told(wrong, message):
    with pytest.raises(InstructMineError, match=message):
        score(pool_of(2), wrong)


def test_rows_are_read_once_and_the_digest_is_that_of_the_pool():
    talk = [{"role": "user", "content": "q “é”"}, {"role": "assistant", "content": "a"}]
    pool = Dataset.from_dict(
        {"messages": [talk, talk, [*talk, *talk]], "n": [1, None, 3], "x": [0.5, float("nan"), 1]}
    )
    rows = read_rows(pool, [MTLD()], digested=True)
    assert rows.digest == pool_digest(pool)
    assert rows.copies["null"].tolist() == [0, 0, 2]  # by what is read: the other columns differ
    assert read_rows(pool, [MTLD()], digested=False).digest == ""


@pytest.mark.parametrize("rank, prints", [("0", True), ("1", False)])
def test_of_several_processes_the_first_alone_says_what_came_of_it(tmp_path, monkeypatch, capsys, rank, prints):
    monkeypatch.setenv("RANK", rank)
    pool_of(2).to_json(tmp_path / "pool.jsonl")
    out = tmp_path / "scored"
    assert main(["score", str(tmp_path / "pool.jsonl"), "--output-dir", str(out), "--indicator", "MTLD"]) == 0
    assert ("Scored 2 rows" in capsys.readouterr().out) == prints
    assert (out / "indicators.json").exists()
