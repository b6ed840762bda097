"""The words of a command: in any order, lists that add up, nothing shortened, and the nearest name for a wrong one."""

from collections import Counter
from pathlib import Path

import pytest

from hf_instructmine.cli.main import _parse, parsers
from hf_instructmine.cli.parser import ORDER


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("scored").mkdir()


def parse(command: str) -> dict:
    return vars(_parse(command.split()))


def refused(command: str, capsys) -> str:
    """The last line of what is said of wrong usage."""
    with pytest.raises(SystemExit) as end:
        _parse(command.split())
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"usage: instructmine {command.split()[0]} ")  # of the verb
    return said.splitlines()[-1]


@pytest.mark.parametrize(
    "command",
    [
        "score pool.jsonl --indicator MTLD nll,model=m --output-dir out",
        "score --indicator MTLD nll,model=m pool.jsonl --output-dir out",
        "score --indicator MTLD nll,model=m --output-dir out pool.jsonl",
        "score --output-dir out --indicator MTLD pool.jsonl --indicator nll,model=m",
        "score --indicator MTLD --output-dir=out --indicator nll,model=m -- pool.jsonl",
    ],
)
def test_the_order_of_inputs_and_options_does_not_matter(command):
    args = parse(command)
    assert (args["input"], args["indicator"]) == (["pool.jsonl"], ["MTLD", "nll,model=m"])


@pytest.mark.parametrize(
    "command, expected",
    [
        (
            "score a.jsonl --indicator mtld b.csv.gz me/rows:test --output-dir o",
            ["a.jsonl", "b.csv.gz", "me/rows:test"],
        ),
        ("mine --eval-set mine=eval.jsonl chats.jsonl --model m --size 5 --output-dir o", ["chats.jsonl"]),
        ("compare --tokens 100 200 scored --recipe r --eval-set a=b --output-dir o", ["scored"]),
        ("select --quota web=0.1:0.5 scored --rule r --output-dir o", ["scored"]),
        ("sweep --sample -1 scored --recipe r --eval-set a=b --output-dir o", ["scored"]),
    ],
)
def test_a_word_that_no_list_can_hold_is_an_input(command, expected):
    assert parse(command)["input"] == expected


def test_the_first_word_of_a_list_stays_in_it_however_wrong():
    assert parse("compare scored --rule scored --recipe r --eval-set a=b --output-dir o")["rule"] == ["scored"]


def test_a_named_model_is_no_benchmark():
    args = parse("evaluate --benchmarks openllm base=some/model --eval-set a=x.jsonl --output-dir o tuned=t")
    assert (args["models"], args["benchmarks"]) == (["base=some/model", "tuned=t"], ["openllm"])


def test_words_of_any_kind_stay_in_their_list():
    args = parse("fit runs.parquet --datasets me/some-2.5 me/more --covariates subset_tokens --output-dir o")
    assert (args["runs"], args["datasets"]) == ("runs.parquet", ["me/some-2.5", "me/more"])


def test_where_a_list_took_the_input_it_says_so(capsys):
    said = refused("fit --indicators mtld sweep --output-dir o", capsys)
    assert said.endswith(
        "runs is missing (here or in --config); --indicators takes all words after it: write the runs first"
    )


def test_a_list_that_is_given_twice_adds_up_and_takes_the_place_of_a_files():
    base = "sweep scored --recipe r --output-dir o"
    assert parse(f"{base} --eval-set a=x --eval-set b=y c=z")["eval_set"] == ["a=x", "b=y", "c=z"]
    Path("more.yaml").write_text("eval_set: [f=g]\nsources: [web]\n")
    args = parse(f"{base} --config more.yaml --eval-set a=x --eval-set b=y")
    assert (args["eval_set"], args["sources"]) == (["a=x", "b=y"], ["web"])
    assert parse("compare scored --recipe r --eval-set a=b --output-dir o --random-at 2")["random_at"] == [2.0]


def test_an_underscore_is_taken_for_a_hyphen():
    args = parse("sweep scored --recipe r --eval_set a=x --output_dir o --num_runs=3")
    assert (args["eval_set"], args["output_dir"], args["num_runs"]) == (["a=x"], "o", 3)


@pytest.mark.parametrize(
    "command, message",
    [
        (
            "score pool.jsonl --indicaters MTLD",
            "there is no option --indicaters: did you mean --indicator? known are ",
        ),
        ("sweep scored --eval a=b", "there is no option --eval: did you mean --eval-set? known are "),  # not shortened
        ("fit runs --num_run 3", "there is no option --num_run: "),
        (
            "judge a=b --mode pairs",
            "argument --mode: invalid choice: 'pairs': did you mean 'pair'? known are pair, single",
        ),
    ],
)
def test_a_wrong_option_shows_the_usage_of_the_verb_and_the_nearest(command, message, capsys):
    assert message in refused(command, capsys)


def test_a_wrong_verb_gets_the_nearest(capsys):
    with pytest.raises(SystemExit):
        _parse(["comparison"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert "invalid choice: 'comparison': did you mean 'compare'? known are mine, score, " in said


def test_what_finetune_does_not_know_is_the_recipes():
    args = parse("finetune --config r --learning_rate 1e-4 --eval_sets a=b c=d --num-processes 2")
    assert args["options"] == ["--learning_rate", "1e-4", "--eval_sets", "a=b", "c=d"]
    assert args["num_processes"] == 2


# --- One order ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", parsers()[1])
def test_options_stand_in_one_order_in_every_help(verb):
    ranks = [
        ORDER.index(name if name in ORDER else "…")
        for name, a in parsers()[1][verb].options.items()
        if a.option_strings
    ]
    assert ranks == sorted(ranks)


def test_what_two_verbs_have_has_its_place_in_the_order():
    names = Counter(name for verb in parsers()[1].values() for name, a in verb.options.items() if a.option_strings)
    assert [name for name, verbs in names.items() if verbs > 1 and name not in ORDER] == []
    assert len(set(ORDER)) == len(ORDER)


def test_the_help_is_written_in_that_order(capsys):
    with pytest.raises(SystemExit):
        _parse(["compare", "--help"])
    said = capsys.readouterr().out.partition("options:")[2]
    places = [
        said.index(f"  {name} ")
        for name in ("--config", "--rule", "--recipe", "--tokens", "--eval-set", "--output-dir")
    ]
    assert places == sorted(places)
