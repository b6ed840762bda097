"""Every verb ends with what to do next: commands that can be run as they are printed."""

import shlex
from pathlib import Path

import pytest
from datasets import Dataset
from simulated_runs import simulated_runs

from hf_instructmine.cli.main import _parse, main
from hf_instructmine.cli.options import say_next


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = {"prompt": ["a", "b"], "completion": ["one two", "one"], "source": ["x", "y"]}
    Dataset.from_dict(rows).to_json("pool.jsonl")
    simulated_runs().to_json("runs.jsonl", orient="records", lines=True)
    simulated_runs(n=40, seed=1, effect=0.0).to_json("noise.jsonl", orient="records", lines=True)


def commands(out: str) -> list[list[str]]:
    """The words of what is proposed."""
    lines = [line.removeprefix("Next: ").removeprefix("  or: ") for line in out.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("instructmine ")]


def runnable(words: list[str]) -> bool:
    """Whether a command is one, all that is missing being words in capitals."""
    return _parse(words).verb == words[0]


def test_words_are_quoted_for_a_shell(capsys):
    say_next("select", Path("my pool"), "--rule", "it's", instead=["report", "a;b"])
    assert capsys.readouterr().out == (
        "Next: instructmine select 'my pool' --rule 'it'\"'\"'s'\n  or: instructmine report 'a;b'\n"
    )


def test_after_score_who_has_no_rule_can_go_on(capsys):
    assert main(["score", "pool.jsonl", "--indicator", "MTLD", "--output-dir", "my scores"]) == 0
    select, sweep = commands(capsys.readouterr().out)
    assert select[:2] == ["select", "my scores"] and "--rule" not in select
    assert sweep[:2] == ["sweep", "my scores"] and "RULE" not in sweep
    assert runnable(sweep) and runnable(select)


def test_after_select_what_decided_can_be_looked_at(capsys):
    assert main(["score", "pool.jsonl", "--indicator", "MTLD", "--output-dir", "scored"]) == 0
    assert main(["select", "scored", "--strategy", "highest:mtld", "--size", "1", "--output-dir", "my choice"]) == 0
    assert commands(capsys.readouterr().out)[-1] == ["report", "my choice"]


def fit(runs: str, capsys) -> str:
    given = [
        "--target",
        "loss_mt_bench",
        "--indicators",
        "mtld",
        "reward",
        "--permutations",
        "50",
        "--bootstraps",
        "20",
    ]
    assert main(["fit", runs, *given, "--output-dir", "rule"]) == 0
    return capsys.readouterr().out


def test_after_fit_the_rule_selects_where_it_does_not_advise_against_itself(capsys):
    (words,) = commands(fit("runs.jsonl", capsys))
    assert words[:4] == ["select", "SCORED", "--rule", "rule"] and runnable(words)


def test_after_fit_a_rule_that_advises_against_itself_is_not_what_comes_next(capsys):
    out = fit("noise.jsonl", capsys)
    assert "Do not select by it" in " ".join(out.split()) and "More or larger subsets may tell more" in out
    (words,) = commands(out)
    assert "--rule" not in words and runnable(words)


def test_fit_does_not_replace_another_rule(capsys):
    fit("runs.jsonl", capsys)
    before = Path("rule/estimator.json").read_text()
    again = ["fit", "noise.jsonl", "--permutations", "50", "--bootstraps", "20", "--target", "loss_mt_bench"]
    assert main([*again, "--indicators", "mtld", "--output-dir", "rule"]) == 1
    assert "'rule' holds a rule: name another folder, or replace it with --overwrite" in capsys.readouterr().err
    assert Path("rule/estimator.json").read_text() == before
    assert main([*again, "--indicators", "mtld", "--output-dir", "rule", "--overwrite"]) == 0
    assert Path("rule/estimator.json").read_text() != before
