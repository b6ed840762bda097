"""Evaluation sets by name: given as a dict of whatever holds rows, or as texts `name=source`."""

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from hf_instructmine import InstructMineError, LossEstimator, Selector, find_contaminated, load_eval_sets
from hf_instructmine.cli.main import main
from hf_instructmine.data import evaluation_sets
from hf_instructmine.data.evaluation_sets import EvaluationSet, open_eval_sets


QUESTIONS = ["How many moons does the planet Venus have at all?", "How many moons does the planet Mars have in all?"]
ROWS = Dataset.from_dict({"question": QUESTIONS, "answer": ["None", "Two"]})


@pytest.fixture
def folder(tmp_path) -> Path:
    """A file, a saved set of one split, and one of two."""
    ROWS.to_json(tmp_path / "moons.jsonl")
    DatasetDict(test=ROWS).save_to_disk(tmp_path / "one")
    DatasetDict(validation=ROWS.select([0]), test=ROWS).save_to_disk(tmp_path / "two")
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        lambda folder: {"moons": ROWS},
        lambda folder: {"moons": EvaluationSet.read("moons", ROWS)},
        lambda folder: {"moons": ROWS.to_list()},
        lambda folder: {"moons": folder / "moons.jsonl"},
        lambda folder: {"moons": f"{folder}/two:test"},
        lambda folder: DatasetDict(moons=ROWS),
        lambda folder: f"moons={folder}/moons.jsonl",
        lambda folder: [f"moons={folder}/moons.jsonl"],
        lambda folder: (f"moons={folder}/one",),
        lambda folder: [f"moons={folder}/one:test"],
        lambda folder: [f"moons={folder}/two:test"],
    ],
)
def test_sets_are_given_by_name(given, folder):
    (examples,) = load_eval_sets(given(folder)).values()
    assert (examples.name, [turn.response for turn in examples.turns]) == ("moons", ["None", "Two"])
    assert find_contaminated(ROWS, given(folder)).counts == {"moons": 2}


MENDS = {
    "a Dataset": (
        ROWS,
        "eval_sets is of type Dataset: give each evaluation set its name, as in eval_sets={'mine': …}",
    ),
    "a Path": (Path("moons.jsonl"), "eval_sets is of type PosixPath: give each evaluation set its name, as in"),
    "a list of rows": (ROWS.to_list(), "eval_sets is of type list: give each evaluation set its name, as in"),
    "a path": (
        "moons.jsonl",
        "the evaluation set 'moons.jsonl' is not of the form name=file-or-id, such as mine=moons.jsonl",
    ),
    "no path": (["moons="], "the evaluation set 'moons=' is not of the form name=file-or-id"),
    "no name": (
        ["=moons.jsonl"],
        "the evaluation set '=moons.jsonl' is not of the form name=file-or-id, such as mine=",
    ),
    "one name twice": (["a=x.jsonl", "a=y.jsonl"], "two evaluation sets have the name 'a'"),
    "splits": (
        {"moons": DatasetDict(validation=ROWS, test=ROWS)},
        "eval_sets['moons'] is a DatasetDict of validation, test: pass one of them, such as "
        "eval_sets['moons']['validation']",
    ),
    "nothing": ({"moons": None}, "eval_sets['moons'] is of type NoneType: pass a Dataset, "),
}


@pytest.mark.parametrize("given, message", MENDS.values(), ids=MENDS)
def test_what_has_no_name_or_is_no_set_gets_the_mend(given, message):
    for take in (load_eval_sets, lambda sets: find_contaminated(ROWS, sets)):
        with pytest.raises(InstructMineError) as refused:
            take(given)
        assert str(refused.value).startswith(message)


def test_a_name_that_cannot_name_a_loss_is_refused_for_losses_alone(folder):
    with pytest.raises(InstructMineError, match="name 'gsm-8k' must be letters, digits and underscores"):
        load_eval_sets({"gsm-8k": ROWS})
    assert find_contaminated(ROWS, {"gsm-8k": ROWS}).counts == {"gsm-8k": 2}


def test_several_splits_and_no_train_are_named(folder):
    with pytest.raises(InstructMineError, match=r"two' has no split 'train': it has validation, test; name one, as"):
        load_eval_sets([f"moons={folder}/two"])


def test_a_selector_opens_its_sets_at_once_and_without_references(folder):
    with pytest.raises(InstructMineError, match=r"there is no file 'absent.jsonl'"):
        Selector(LossEstimator.from_coefficients({"mtld": 1.0}), eval_sets=["moons=absent.jsonl"])
    prompts = ROWS.map(lambda row: {"answer": ""})
    assert open_eval_sets({"moons": prompts})["moons"] is prompts
    rule = LossEstimator.from_coefficients({"mtld": 1.0})
    pool = [*ROWS.to_list(), {"question": "And Earth?", "answer": "One"}]
    pool = [{**row, "mtld": 1.0} for row in pool]
    selection = Selector(rule, eval_sets={"moons": prompts}).select(pool, size=1)
    assert selection.contaminated == {"moons": 2}
    assert selection.dataset["question"][:] == ["And Earth?"]


def test_the_command_names_splits_of_pools_and_evaluation_sets(folder, capsys):
    LossEstimator.from_coefficients({"mtld": 1.0}).save_pretrained(folder / "rule")
    pool = DatasetDict(test=ROWS.add_column("mtld", [1.0, 2.0]), dev=ROWS.select([0]).add_column("mtld", [1.0]))
    pool.save_to_disk(folder / "pool")

    def select(source: str, *options: str) -> int:
        command = ["select", source, "--rule", str(folder / "rule"), "--size", "1", "--overwrite", *options]
        return main([*command, "--output-dir", str(folder / "curated")])

    assert select(f"{folder}/pool") == 1
    assert f"has no split 'train': it has test, dev; name one, as in {folder}/pool:test" in capsys.readouterr().err
    assert select(f"{folder}/pool:test") == select(f"{folder}/pool", "--split", "dev") == 0
    capsys.readouterr()
    assert select(f"{folder}/pool:test", "--eval-set", f"moons={folder}/two:validation") == 0
    assert "moons in 1 row" in capsys.readouterr().out
    assert select(f"{folder}/pool:test", "--eval-set", f"moons={folder}/two") == 1
    assert "has no split 'train': it has validation, test" in capsys.readouterr().err


def test_a_set_is_read_a_few_rows_at_a_time_and_its_rows_keep_their_numbers(monkeypatch):
    monkeypatch.setattr(evaluation_sets, "_CHUNK", 2)
    answers = ["a", None, "b", "c", "d"]
    examples = EvaluationSet.read("few", {"question": QUESTIONS[:1] * 5, "answer": answers, "more": range(5)})
    assert (examples.rows, examples.skipped) == ([0, 2, 3, 4], 1)
    assert [turn.response for turn in examples.turns] == ["a", "b", "c", "d"]
    with pytest.raises(InstructMineError, match=r"^row 3, column 'answer': expected text"):
        EvaluationSet.read("few", {"question": QUESTIONS[:1] * 5, "answer": ["a", "b", "c", 7, "d"]})
