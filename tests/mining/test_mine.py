"""The whole path on a tiny model: what it leaves, when it asks, how it goes on after a kill, what it refuses."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_sweep
import yaml
from datasets import Dataset

import hf_instructmine as him
from hf_instructmine import InstructMineError


RECIPE = {**tiny_sweep.RECIPE, "budget": "steps", "max_steps": 2}
del RECIPE["num_train_epochs"]
SMALL = {"size": 20, "num_runs": 10, "parts": 5}


def rows(count: int, first: int = 0) -> list[dict]:
    """Chats, no two alike, whose prompts share no 8 words."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Which thing has number {i}?"},
                {"role": "assistant", "content": f"{'Well, ' * (i % 5)}thing {i} has it" + ", as it should" * (i % 7)},
            ]
        }
        for i in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> dict:
    """What [`mine`] is called with, but for the folder."""
    model = tiny_sweep.save_model(tmp_path_factory.mktemp("model"))
    evaluation = Dataset.from_list(rows(20, 1000))
    return {
        "pool": Dataset.from_list(rows(60)),
        "model": model,
        "eval_sets": {"own": evaluation},
        "recipe": RECIPE,
        **SMALL,
    }


@pytest.fixture(scope="module")
def mined(asked, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mined") / "all"
    him.mine(output_dir=folder, **asked)
    return folder


def curated(folder: Path) -> tuple:
    """What of a path has to be the same again."""
    dataset = him.Selection.load(folder / "curated").dataset
    losses = him.load_runs(folder / "comparison")["loss_own"]
    return dataset.to_list(), losses


def test_each_stage_leaves_a_folder_that_its_own_function_opens(mined):
    selection = him.Selection.load(mined / "curated")
    assert len(selection.dataset) == SMALL["size"]
    assert "than random" in str(selection.card) or "differ from random" in str(selection.card)
    assert len(him.load_runs(mined / "sweep")) == SMALL["num_runs"] + 4
    assert len(him.load_runs(mined / "comparison")) == 2 * SMALL["parts"]
    assert him.LossEstimator.from_pretrained(mined / "rule").coefficients == selection.estimator.coefficients
    assert (mined / "report.html").stat().st_size > 10_000
    assert json.loads((mined / "mine.json").read_text())["plan"]["usable"] == 60


def test_what_is_done_is_not_done_again(mined, asked, trained):
    before = curated(mined)
    him.mine(output_dir=mined, **asked)
    assert trained == [] and curated(mined) == before


def test_what_is_said_of_the_rows_may_change_and_is_no_part_of_the_path(mined, asked, trained):
    him.mine(output_dir=mined, described={"license": "mit", "pretty_name": "Things"}, **asked)
    card = him.Selection.load(mined / "curated").card
    assert card.data.license == "mit" and card.data.pretty_name == "Things" and trained == []


def test_it_asks_once_with_what_it_takes_and_a_no_trains_nothing(asked, tmp_path):
    shown = []
    assert him.mine(output_dir=tmp_path / "all", confirm=lambda plan: shown.append(plan) or False, **asked) is None
    (plan,) = shown
    assert plan.finetunes == (14, 10) and plan.seconds_scoring > 0 and plan.seconds_sweep > plan.seconds_comparison > 0
    for words in (
        "60 rows, 60 of them usable",
        "14 finetunes on",
        "in each of 5 parts",
        "is seen in 80 %",
        "tokens a second",
    ):
        assert words in str(plan)
    assert not (tmp_path / "all").exists()


def test_rows_with_a_prompt_of_an_evaluation_set_and_copies_are_left_out(asked, tmp_path):
    shown = []
    pool = Dataset.from_list([*rows(60), *rows(5), *rows(3, 1000)])
    him.mine(output_dir=tmp_path / "all", confirm=lambda plan: shown.append(plan) or False, **{**asked, "pool": pool})
    assert shown[0].rows == 68 and shown[0].usable == 60 and shown[0].overlapping == {"own": 3}
    assert "3 rows left out that hold a prompt of own" in str(shown[0])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"size": 31}, "size=31 is not from 1 to 30, half of the 60 usable rows"),
        ({"size": 4}, "ask for at least 10, or fewer parts"),
        ({"parts": 2}, "parts=2 cannot give a verdict"),
        ({"model": "no/such-model"}, "no/such-model"),
        ({"eval_sets": {"own": Dataset.from_list(rows(5, 1000))}}, "has 5 examples, too few"),
        ({"pool": Dataset.from_list(rows(10, 1000))}, "every row of the pool holds a prompt of an evaluation set"),
        ({"pool": Dataset.from_list([{"a": 1}] * 20)}, "no known layout"),
        ({"eval_sets": {"own": Dataset.from_list([{"messages": r["messages"][:1]} for r in rows(20, 1000)])}},
         "no row of the evaluation set 'own' has a reference answer"),
        ({"described": {"license": "no such one!"}}, "licence"),
        ({"search_size": (5, 20), "size": None}, "no range of at least 10"),
        ({"recipe": {**RECIPE, "learning_rat": 1}}, "did you mean 'learning_rate'"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line_before_anything_is_trained(asked, changed, told, tmp_path, trained):
    with pytest.raises(InstructMineError, match=told) as error:
        him.mine(output_dir=tmp_path / "all", **{**asked, **changed})
    assert "\n" not in str(error.value) and trained == []
    assert not (tmp_path / "all").exists()


def test_another_path_does_not_go_into_the_folder(mined, asked):
    with pytest.raises(InstructMineError, match="holds another path"):
        him.mine(output_dir=mined, **{**asked, "size": 21})


def test_killed_three_times_it_ends_the_same(mined, asked, tmp_path):
    for name, content in (("pool", rows(60)), ("own", rows(20, 1000))):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    words = [
        *(sys.executable, "-m", "hf_instructmine.cli", "mine", "pool.jsonl", "--model", asked["model"], "--yes"),
        *("--eval-set", "own=own.jsonl", "--size", "20", "--num-runs", "10", "--parts", "5"),
        *("--recipe", "recipe.yaml", "--output-dir", "all"),
    ]
    for stage, enough in (("scored/.columns", 1), ("sweep/runs", 5), ("comparison/runs", 4)):
        process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len([*tmp_path.glob(f"all/{stage}/*")]) < enough:
            time.sleep(0.05)
        assert process.poll() is None, "it ended before it was killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Next: instructmine push all/curated" in done.stdout
    assert curated(tmp_path / "all") == curated(mined)


def test_nobody_to_ask_is_one_line(tmp_path, asked, monkeypatch, capsys):
    from hf_instructmine.cli.main import main

    monkeypatch.chdir(tmp_path)
    words = ["mine", "pool.jsonl", "--model", "m", "--eval-set", "own=own.jsonl", "--size", "2", "--output-dir", "all"]
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(words) == 1
    assert "pass --yes to go on, or --dry-run" in capsys.readouterr().err
