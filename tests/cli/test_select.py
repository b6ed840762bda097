"""`instructmine select` and the selector's options."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_dataset

from hf_instructmine import InstructMineError, LossEstimator, NeighborDistance
from hf_instructmine.cli.main import main
from hf_instructmine.cli.select import parse_quotas


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A scored pool and a rule; the sentence encoder is one of words' first letters."""
    rows = {
        "prompt": [f"question number {i}" for i in range(6)],
        "completion": [f"answer {i}" for i in range(6)],
        "source": ["web"] * 4 + ["human"] * 2,
        "mtld": np.arange(6.0),
        "knn_1": [0.5] * 6,
        "output_length": [1, 2, 3, 4, 5, 600],
    }
    Dataset.from_dict(rows).to_parquet(tmp_path / "pool.parquet")
    Dataset.from_dict({"prompt": ["Question number 0?"], "completion": ["a"]}).to_json(tmp_path / "test.jsonl")
    LossEstimator.from_coefficients({"mtld": 1.0, "knn_1": -0.1}).save_pretrained(tmp_path / "rule")

    def embed(self, dataset):
        assert self.encoder.model == "some/encoder"
        return np.array([[1, 0], [0, 1], [0, 1], [1, 1], [-1, 0], [0, -1]], dtype=np.float32)

    monkeypatch.setattr(NeighborDistance, "embed", embed)
    return tmp_path


def select(files: Path, *options) -> int:
    given = ["select", files / "pool.parquet", "--rule", files / "rule", "--output-dir", files / "curated"]
    return main([str(argument) for argument in (*given, *options)])


@pytest.mark.parametrize(
    "options, chosen",
    [
        (["--size", 3], [0, 1, 2]),
        (["--size", 3, "--max-similarity", 0.9, "--encoder", "some/encoder"], [0, 1, 3]),
        (["--size", 3, "--set-level", "--encoder", "some/encoder"], [0, 1, 2]),
        (["--size", 3, "--near-duplicates", 0.5], [0, 1, 2]),
        (["--size", 2, "--quota", "human=0.5:", "web=:0.5"], [0, 4]),
        (["--size", 5, "--max-response-tokens", 500], [0, 1, 2, 3, 4]),
        (["--size", 2, "--length-bins", 2], [0, 3]),
        (["--size", 2, "--eval-set", "test={files}/test.jsonl"], [1, 2]),
        (["--tokens", 3], [0, 1]),
    ],
)
def test_options_choose(files, options, chosen):
    assert select(files, *(str(option).format(files=files) for option in options)) == 0
    assert load_dataset(str(files / "curated"), split="train")["mtld"][:] == chosen


def test_what_was_kept_out_is_told(files, capsys):
    assert select(files, "--size", 2, "--eval-set", f"test={files}/test.jsonl", "--max-response-tokens", 500) == 0
    out = capsys.readouterr().out
    assert "Of the others, 1 holds a prompt of an evaluation set (eval_sets)" in out
    assert "1 has a longer response (max_response_tokens=500)" in out
    assert "Evaluation prompts found: test in 1 row\n" in out


@pytest.mark.parametrize(
    "options, message",
    [
        (["--max-similarity", 0.9], "--max-similarity compares embeddings: name a sentence encoder with --encoder"),
        (["--set-level"], "--set-level compares embeddings"),
        (["--quota", "web"], "the quota 'web' is not of the form SOURCE=LEAST:MOST"),
        (["--quota", "wbe=0.1:"], "no row has the source 'wbe'"),
        (["--eval-set", "test"], "is not of the form name=file-or-id"),
        (["--near-duplicates", 1.5], "has to be a share of words in common, above 0 and at most 1"),
        (["--length-bins", 1], "--length-bins 1 has to be at least 2"),
    ],
)
def test_mistakes_are_told_in_one_line(files, options, message, capsys):
    assert select(files, "--size", 2, *options) == 1
    last = capsys.readouterr().err.splitlines()[-1]  # after the bars of reading files
    assert last.startswith("instructmine select: ") and message in last
    assert not (files / "curated").exists()


def test_a_pool_is_never_overwritten_by_what_is_chosen_of_it(files, capsys):
    scored = files / "scored"
    (scored / "data").mkdir(parents=True)
    rows = (files / "pool.parquet").read_bytes()
    (scored / "data/train-00000-of-00001.parquet").write_bytes(rows)
    for verb, options in {
        "select": ["--rule", files / "rule", "--size", 2, "--overwrite"],
        "score": ["--indicator", "OutputLength", "--sample", 3, "--overwrite"],
    }.items():
        assert main([str(given) for given in (verb, scored, *options, "--output-dir", scored)]) == 1
        assert "is where the rows are read from: name another output folder" in capsys.readouterr().err
    assert (scored / "data/train-00000-of-00001.parquet").read_bytes() == rows


def test_quotas_are_read():
    assert parse_quotas(None) is None
    assert parse_quotas(["a=0.1:0.5", "b=:1", "c=0.2:", "d=e=0:"]) == {
        "a": (0.1, 0.5), "b": (None, 1.0), "c": (0.2, None), "d=e": (0.0, None),
    }  # fmt: skip
    for wrong in (["a"], ["a=0.1"], ["a=0.1:0.2:0.3"], ["a=x:y"], ["=0.1:0.2"], ["a=0.1:", "a=0.2:"]):
        with pytest.raises(InstructMineError, match="quota"):
            parse_quotas(wrong)
