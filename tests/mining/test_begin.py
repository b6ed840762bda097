"""What is looked at before the costly part: the answer to the plan, the disk, the machine, the size."""

import collections
from dataclasses import asdict

import pytest
import tiny_sweep
import torch

from hf_instructmine import InstructMineError
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.mining import begin
from hf_instructmine.mining.begin import agreed, check_disk
from hf_instructmine.mining.plan import Plan, ShortPlan, disk_bytes, executor_for, own_recipe, recipe_for
from hf_instructmine.mining.size import find_size, read_sizes
from hf_instructmine.outputs.records import Records


PLAN = ShortPlan(9, 9, {}, 2, "the rule mined", ["mtld"], 10)


def ask(folder, answer, size=2, dry_run=False):
    shown = []
    yes = agreed(folder, {"size": size}, lambda plan: shown.append(plan) or answer, dry_run, lambda: PLAN, 10)
    return yes, len(shown)


def test_a_no_leaves_nothing_and_another_request_may_follow(tmp_path):
    folder = tmp_path / "all"
    assert ask(folder, False) == (False, 1) and not folder.exists()
    assert ask(folder, True, size=3) == (True, 1)
    assert ask(folder, False, size=3) == (True, 0)  # what is begun goes on
    with pytest.raises(InstructMineError, match="holds another path"):
        ask(folder, True, size=2)


def test_a_dry_run_never_goes_on(tmp_path):
    assert ask(tmp_path / "all", True, dry_run=True) == (False, 1) and not (tmp_path / "all").exists()
    ask(tmp_path / "all", True)
    assert ask(tmp_path / "all", True, dry_run=True) == (False, 1)


def test_a_no_of_an_earlier_version_gives_way(tmp_path):
    records = Records(tmp_path / "all")
    records.claim("mine.json", {"size": 5}, "path")
    records.write(records.folder / "plan.json", {"plan": {}, "agreed": False})
    assert ask(tmp_path / "all", True, size=2) == (True, 1)


def test_a_disk_without_room_is_told_before_the_question(tmp_path, monkeypatch):
    free = collections.namedtuple("Usage", "free")
    monkeypatch.setattr(begin.shutil, "disk_usage", lambda place: free(5 * 2**20))
    check_disk(tmp_path / "all", 4 * 2**20)
    with pytest.raises(InstructMineError, match="takes about 6 MiB, and the disk of the output folder has 5 MiB free"):
        agreed(tmp_path / "all", {}, pytest.fail, False, pytest.fail, 6 * 2**20)


def plan(**changed) -> Plan:
    usual = {
        "rows": 9, "usable": 100, "overlapping": {}, "size": 50, "tokens_a_row": 10.0, "subset_tokens": 100,
        "part_tokens": 60, "num_runs": 8, "parts": 8, "examples": {"mine": 30},
    }  # fmt: skip
    return Plan(**{**usual, **changed})


def test_models_that_are_kept_take_room(tmp_path):
    recipe = Recipe({**tiny_sweep.RECIPE, "model_name_or_path": tiny_sweep.save_model(tmp_path)})
    models = disk_bytes(plan(), recipe, keep_models=True) - disk_bytes(plan(), recipe)
    assert models > 0 and models % sum(plan().finetunes) == 0
    adapters = Recipe({**recipe.settings, "use_peft": True})
    assert disk_bytes(plan(), adapters, keep_models=True) == disk_bytes(plan(), adapters)


@pytest.mark.parametrize(("gpus", "executor", "lora"), [(0, "inline", False), (1, "inline", True), (4, "local", True)])
def test_recipe_and_executor_are_chosen_for_the_machine(monkeypatch, gpus, executor, lora):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    settings = recipe_for("me/model", 20).settings
    assert executor_for() == executor and bool(settings.get("use_peft")) is lora
    assert settings["model_name_or_path"] == "me/model" and bool(settings.get("use_cpu")) is not lora


def test_a_recipe_that_is_given_has_the_model_put_in():
    assert (
        own_recipe({**tiny_sweep.RECIPE, "use_cpu": True}, "me/model", plan()).settings["model_name_or_path"]
        == "me/model"
    )


@pytest.mark.parametrize(
    ("size", "searched", "read"),
    [(7, None, (7, None)), ("auto", None, (500, (50, 500))), (None, (20, 90), (90, (20, 90)))],
)
def test_a_size_is_given_or_searched_for(size, searched, read):
    assert read_sizes(size, searched, 1000, 8) == read


@pytest.mark.parametrize(
    ("size", "searched", "told"),
    [
        (5, (1, 2), "give one of them"),
        (None, None, "size=None is no number of rows"),
        ("most", None, "size='most' is no number of rows"),
        (None, (1,), "the least and the most rows"),
    ],
)
def test_a_size_that_is_none_is_one_line(size, searched, told):
    with pytest.raises(InstructMineError, match=told):
        read_sizes(size, searched, 1000, 8)


def test_the_plan_shows_the_finetunes_of_a_search():
    told = str(plan(sizes=(20, 50), seconds_search=600.0))
    assert "from 20 to 50 rows, searched for with 36 finetunes; about 10 min" in told
    assert "sizes" not in plan().request and plan(sizes=(20, 50)).request["sizes"] == (20, 50)
    assert plan().request == {**{k: v for k, v in asdict(plan()).items() if k not in ("sizes", "seconds_search")}}


def test_without_a_search_the_size_is_the_plans():
    assert find_size(plan(), None, None, None, None, None, {}, 0) == (50, [])


def test_the_card_says_where_the_size_is_from(monkeypatch, tmp_path):
    import hf_instructmine as him

    class Report:
        best_size = 31

        def words(self):
            return "The loss is lowest at 31 rows."

    asked = {}
    monkeypatch.setattr(him, "search_size", lambda *given, **options: asked.update(options) or [0] * 36)
    monkeypatch.setattr(him, "size_report", lambda trials, rule: Report())
    training = {"executor": "inline", "columns": None}
    size, (section,) = find_size(plan(sizes=(20, 50)), None, None, None, None, tmp_path, training, 0)
    assert size == 31 and section.title == "How many rows" and "36 finetunes, from 20 to 50 rows" in section.markdown
    assert (asked["min_size"], asked["max_size"], asked["full_pool"]) == (20, 50, False)
