"""The size search: a grid and BlendSearch over recorded runs, which a kill does not lose."""

import gc
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny_sweep
import yaml
from datasets import Dataset
from tiny_sweep import LAST_LAYERS, RECIPE, evaluation_sets, pool

from hf_instructmine import InstructMineError, LossEstimator, Selector, search_size
from hf_instructmine.cli.main import main
from hf_instructmine.cli.search_size import parse_range
from hf_instructmine.search.blend_search import TrialOutcome, blend_search
from hf_instructmine.search.subsets import Subsets
from hf_instructmine.sweep import executors


RULE = LossEstimator.from_coefficients({"reward": -1.0})  # prefers the last rows
QUICK = {"min_size": 3, "max_size": 18, "num_trials": 3, "grid_seeds": 2, "full_pool": False}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict:
    gc.freeze()
    model = tiny_sweep.save_model(tmp_path_factory.mktemp("model"))
    return {**RECIPE, **LAST_LAYERS, "num_train_epochs": 1, "model_name_or_path": model}


@pytest.fixture(scope="module")
def searched(recipe, tmp_path_factory) -> tuple[Dataset, Path]:
    """A search with the whole pool and with equal steps."""
    folder = tmp_path_factory.mktemp("searched") / "search"
    return search(recipe, folder, full_pool=True, equal_steps=4), folder


def search(recipe: dict, folder: Path, selector=None, **options) -> Dataset:
    return search_size(pool(), selector or Selector(RULE), recipe, evaluation_sets(), folder, **{**QUICK, **options})


def untimed(trials: Dataset) -> list[dict]:
    return list(trials.remove_columns("seconds"))


# --- What it runs -------------------------------------------------------------------------------------------------


def test_a_grid_with_seeds_then_the_search_the_whole_pool_and_equal_steps(searched):
    trials, folder = searched
    rows = list(trials)
    assert [row["trial"] for row in rows] == list(range(len(rows)))
    assert Counter((r["kind"], r["strategy"]) for r in rows) == {
        ("grid", "selected"): 10, ("grid", "random"): 10, ("full", "full"): 1, ("search", "selected"): 3,
        ("grid-steps", "selected"): 10, ("grid-steps", "random"): 10,
    }  # fmt: skip
    assert set(trials["status"]) == {"done"}
    grid = [r for r in rows if r["kind"] == "grid"]
    assert sorted({r["size"] for r in grid}) == [3, 5, 7, 12, 18]
    assert len({r["seed"] for r in grid}) == 20  # no two share one
    assert {r["mixture_id"] for r in grid if r["size"] == 7} == {"select-7", "random-7-draw0", "random-7-draw1"}
    found = [r["size"] for r in rows if r["kind"] == "search"]
    assert all(3 <= size <= 18 for size in found) and not {3, 5, 7, 12, 18} & set(found)
    assert [r["size"] for r in rows if r["kind"] == "full"] == [24]
    assert {r["steps"] for r in rows if r["kind"] == "grid-steps"} == {4}
    assert len({r["recipe_hash"] for r in rows}) == 2
    assert all(0 < r["loss_single"] < 10 and 0 < r["base_loss_multi"] < 10 for r in rows)
    assert Dataset.from_parquet(str(folder / "trials.parquet"))[:] == trials[:]


def test_selected_rows_are_the_selectors_and_random_ones_nest(searched):
    subsets = Subsets(pool(), Selector(RULE), seed=5)
    assert subsets.selected(4) == Selector(RULE).select(pool(), size=4).indices.tolist() == [23, 22, 21, 20]
    small, large = subsets.random(5, 0), subsets.random(9, 0)
    assert large[:5] == small and subsets.random(5, 1) != small
    assert Subsets(pool(), Selector(RULE), seed=5).random(5, 0) == small
    assert Subsets(pool(), Selector(RULE), seed=6).random(5, 0) != small
    assert subsets.largest() == 24


def test_rows_without_a_response_are_never_drawn():
    silent = pool().map(lambda row, i: {"completion": "" if i % 3 == 0 else row["completion"]}, with_indices=True)
    subsets = Subsets(silent, RULE)
    assert subsets.all() == [i for i in range(24) if i % 3]
    assert all(i % 3 for i in subsets.random(16, 0))
    assert subsets.largest() == 16


# --- Going on -----------------------------------------------------------------------------------------------------


def test_killed_at_random_instants_it_ends_with_the_same_history_and_trains_nothing_twice(tmp_path):
    script = Path(__file__).parents[1] / "killed_search.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path), "10"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills = json.loads((tmp_path / "kills.json").read_text())
    assert sum(kills) == 10
    whole = Dataset.from_parquet(str(tmp_path / "uninterrupted" / "trials.parquet"))
    assert len(whole) == 25
    for number, met in enumerate(kills):
        killed = Dataset.from_parquet(str(tmp_path / f"killed-{number}" / "trials.parquet"))
        assert untimed(killed) == untimed(whole)
        log = [line.split() for line in (tmp_path / f"killed-{number}.log").read_text().splitlines()]
        assert {state for _, state in log} == {"first"}  # no record was there when its training began
        assert {name for name, _ in log} == {f"{r['mixture_id']}-seed{r['seed']}" for r in whole}
        assert len(log) <= 25 + met  # a kill costs at most the run that it meets


def test_a_second_call_trains_nothing_and_more_trials_go_on(recipe, tmp_path, trained):
    first = search(recipe, tmp_path / "search")
    assert len(trained) == 23
    trained.clear()
    assert search(recipe, tmp_path / "search")[:] == first[:] and trained == []
    more = search(recipe, tmp_path / "search", num_trials=5)
    assert len(trained) == 2 and list(more)[:23] == list(first)


def test_another_request_is_refused_and_named(searched, recipe):
    _, folder = searched
    other = LossEstimator.from_coefficients({"reward": 1.0})
    for changed, told in (
        ({"seed": 1}, "another search .*seed: 0 → 1"),
        ({"grid_seeds": 3}, "another search .grid_seeds: 2 → 3"),
        ({"selector": Selector(other)}, "another search .selection: "),
        ({"recipe": {**recipe, "learning_rate": 2e-3}}, "learning_rate: 0.001 → 0.002"),
    ):
        with pytest.raises(InstructMineError, match=told):
            search(**{"recipe": recipe, "folder": folder, **changed})


def test_budgets_count_what_is_recorded_and_stop_the_search_not_the_grid(recipe, tmp_path, trained):
    trials = search(recipe, tmp_path / "search", max_cost=1)
    assert len(trials) == 20 and set(trials["kind"]) == {"grid"}
    one_more = sum(trials["train_tokens"]) + 1
    assert len(search(recipe, tmp_path / "search", max_cost=one_more)) == 21
    assert len(search(recipe, tmp_path / "search", max_seconds=sum(trials["seconds"]) + 1e-6)) == 21
    assert len(trained) == 21


def test_only_one_search_at_a_time(recipe, tmp_path):
    from hf_instructmine.outputs.records import Records

    with (
        Records(tmp_path / "search").lock("search"),
        pytest.raises(InstructMineError, match="another process is searching in"),
    ):
        search(recipe, tmp_path / "search")


# --- A failing run, a joint search --------------------------------------------------------------------------------


def test_a_failed_run_does_not_stop_the_search(recipe, tmp_path, monkeypatch):
    train = executors.Inline.run

    def fragile(self, indices, seed, folder):
        if len(indices) not in (3, 5, 12, 18):
            raise ValueError("no such size")
        return train(self, indices, seed, folder)

    monkeypatch.setattr(executors.Inline, "run", fragile)
    trials = search(recipe, tmp_path / "search")
    failed = [row for row in trials if row["status"] == "failed"]
    assert {row["size"] for row in failed if row["kind"] == "grid"} == {7}
    assert len([row for row in trials if row["kind"] == "search"]) == 3
    assert {row["reason"] for row in failed} == {"ValueError: no such size"}


def test_options_of_the_recipe_and_of_the_selector_are_searched_together(recipe, tmp_path, trained):
    def last_or_first(scored, size, part="last"):
        return range(size) if part == "first" else range(len(scored) - size, len(scored))

    space = {"learning_rate": (1e-4, 1e-2), "part": ["last", "first"]}
    point = {"size": 4, "learning_rate": 2e-3, "part": "first"}
    options = {"space": space, "points_to_evaluate": [point], "concurrency": 2, "num_trials": 4}
    trials = search(recipe, tmp_path / "search", last_or_first, **options)
    rows = [row for row in trials if row["kind"] == "search"]
    assert [rows[0][name] for name in point] == list(point.values())
    assert {(row["learning_rate"], row["part"]) for row in trials if row["kind"] == "grid"} == {(1e-3, "last")}
    assert all(1e-4 <= row["learning_rate"] <= 1e-2 for row in rows)
    assert len({row["recipe_hash"] for row in rows}) == len({row["learning_rate"] for row in rows}) > 1
    assert len({row["mixture_id"] for row in rows}) == len({(row["size"], row["part"]) for row in rows})
    trained.clear()
    assert search(recipe, tmp_path / "search", last_or_first, **options)[:] == trials[:] and trained == []


def test_a_rule_lends_the_selectors_options_and_any_loss_may_be_searched_for(recipe, tmp_path):
    options = {"space": {"drop_duplicates": [True, False]}, "num_trials": 2, "target": "loss_multi"}
    trials = search(recipe, tmp_path / "search", RULE, **options)
    assert [name for name in trials.column_names if name.startswith("loss_")] == ["loss_multi", "loss_single"]
    assert set(trials["drop_duplicates"]) <= {True, False}
    assert all("-" in row["mixture_id"][len("select-") :] for row in trials if row["kind"] == "search")


def test_a_configuration_that_selects_too_little_is_a_failed_trial(recipe, tmp_path, trained):
    def scarce(scored, size, few=1):
        return range(size - 1 if few == 2 else size)

    point = {"size": 4, "few": 2}
    trials = search(
        recipe, tmp_path / "search", scarce, space={"few": [1, 2]}, points_to_evaluate=[point], num_trials=1
    )
    (row,) = (row for row in trials if row["kind"] == "search")
    assert (row["status"], row["loss_single"]) == ("failed", None)
    assert row["reason"] == "the selector was asked for 4 rows and gave 3 different ones"
    assert len(trained) == 20


# --- What is refused before any run -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"min_size": 18}, "max_size must be above min_size=18, not 18"),
        ({"min_size": 0}, "min_size must be at least 1, not 0"),
        ({"max_size": 25}, "max_size=25 is above the 24 rows of the pool that have a response"),
        ({"max_size": 5}, "from 3 to 5 there are not 5 sizes for the grid"),
        ({"max_size": 9.5}, "max_size must be a whole number, not 9.5"),
        ({"target": "loss_other"}, "'loss_other' is not measured: there is loss_single, loss_multi"),
        ({"grid_size": 4}, "grid_size must be at least 5, not 4"),
        ({"grid_seeds": 1}, "grid_seeds must be at least 2, not 1"),
        ({"num_trials": -1}, "num_trials must be at least 0, not -1"),
        ({"max_cost": 0}, "max_cost must be above 0, not 0"),
        ({"max_seconds": -1.0}, "max_seconds must be above 0, not -1.0"),
        ({"concurrency": 0}, "concurrency must be at least 1, not 0"),
        ({"equal_steps": 0}, "equal_steps must be at least 1, not 0"),
        ({"seed": -1}, "seed must be from 0"),
        ({"cost": "dollars"}, "cost must be one of train_tokens, seconds"),
        ({"executor": "slurm"}, "executor must be one of inline"),
        ({"space": {"learning_rat": (1e-4, 1e-2)}}, "did you mean 'learning_rate'"),
        ({"space": {"max_similarity": (0.5, 0.9)}}, "those of a Selector need its rule in its place"),
        ({"space": {"seed": (1, 9)}}, "the space names 'seed'"),
        ({"space": {"size": (1, 9)}}, "the space names 'size'"),
        ({"space": {"learning_rate": (1e-2, 1e-4)}}, r"must be \(low, high\) with low below high"),
        ({"space": {"learning_rate": 1e-2}}, r"must be \(low, high\) with low below high"),
        ({"space": {"train_last_layers": (0, 2)}}, "train_last_layers must be at least 1"),
        ({"points_to_evaluate": [2]}, r"size=2 is outside \(3, 18\)"),
        ({"points_to_evaluate": [{"size": 4, "lr": 1}]}, "'lr' is not searched"),
        ({"select_options": {"size": 3}}, "select_options names 'size', no option of this selector"),
        ({"selector": "a rule"}, "selector must be a Selector, a LossEstimator or a function, not a str"),
        ({"selector": lambda scored, size: [0] * size}, "was asked for 3 rows and gave 1 different"),
        ({"selector": lambda scored, size: range(30, 30 + size)}, "gave row 30, which is not in the pool or has no"),
        ({"selector": lambda scored, size, k: range(size), "space": {"k": (1, 2)}}, "'k' has no default"),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_what_cannot_be_is_refused_before_any_run(recipe, tmp_path, trained, options, told):
    with pytest.raises(InstructMineError, match=told) as refused:
        search(recipe, tmp_path / "search", **options)
    assert trained == [] and not (tmp_path / "search").exists()
    assert "\n" not in str(refused.value)


def test_a_folder_with_other_files_is_refused(recipe, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InstructMineError, match=r"holds other files \('thesis.txt', …\)"):
        search(recipe, tmp_path)


# --- BlendSearch --------------------------------------------------------------------------------------------------


def bowl(configs):
    return [TrialOutcome((np.log(c["size"]) - 7.5) ** 2, float(c["size"])) for c in configs]


def test_the_same_outcomes_give_the_same_suggestions_with_and_without_ray():
    program = """
import sys, json, numpy as np
if sys.argv[1] == "without":
    sys.modules["ray"] = None
from hf_instructmine.search.blend_search import TrialOutcome, blend_search
bowl = lambda configs: [TrialOutcome((np.log(c["size"]) - 7.5) ** 2, float(c["size"])) for c in configs]
found = blend_search(bowl, {"size": (512, 10_000), "rate": (1e-5, 1e-3)}, 25, known=[
    ({"size": 512, "rate": 1e-4}, TrialOutcome(1.0, 512.0))], seed=3)
print(json.dumps([config for config, _ in found]))
"""
    told = [
        subprocess.run([sys.executable, "-c", program, ray], capture_output=True, text=True, check=True)
        for ray in ("with", "without")
    ]
    assert told[0].stdout == told[1].stdout and len(json.loads(told[0].stdout)) == 25
    assert told[1].stderr == ""  # neither FLAML nor Optuna says a word


def test_both_ends_can_be_suggested_and_nothing_beyond():
    sizes = [c["size"] for seed in range(3) for c, _ in blend_search(bowl, {"size": (8, 12)}, 99, seed=seed)]
    assert set(sizes) == {8, 9, 10, 11, 12}


def test_a_search_in_batches_tells_in_order_and_can_be_told_again():
    found = blend_search(bowl, {"size": (512, 10_000)}, 12, concurrency=4, seed=1)
    again = blend_search(bowl, {"size": (512, 10_000)}, 9, concurrency=4, seed=1)
    assert again == found[:9]
    assert len({c["size"] for c, _ in found}) == 12


# --- The command --------------------------------------------------------------------------------------------------


def test_the_command_prints_a_report_and_writes_trials_and_a_figure(recipe, tmp_path, capsys):
    pool().to_parquet(tmp_path / "pool.parquet")
    evaluation_sets()["single"].to_json(tmp_path / "single.jsonl")
    RULE.save_pretrained(tmp_path / "rule")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    given = [
        "search-size", tmp_path / "pool.parquet", "--rule", tmp_path / "rule", "--recipe", tmp_path / "recipe.yaml",
        "--eval-set", f"single={tmp_path}/single.jsonl", "--min-size", 3, "--max-size", 18, "--num-trials", 1,
        "--grid-seeds", 2, "--no-full-pool", "--output-dir", tmp_path / "search",
    ]  # fmt: skip
    assert main([str(part) for part in given]) == 0
    out = capsys.readouterr().out
    assert out.startswith("The rule hand-set is hand-set: nothing is known of how well it predicts.")
    assert "\nSize search: 21 runs, 0 failed" in out and "Best size by the curve" in out
    assert f"Next: instructmine select {tmp_path / 'pool.parquet'} --rule" in out
    assert {"trials.parquet", "size.png"} <= {path.name for path in (tmp_path / "search").iterdir()}
    assert main([str(part) for part in [*given, "--grid-size", 4]]) == 1
    assert capsys.readouterr().err == "instructmine search-size: --grid-size must be at least 5, not 4\n"


def test_ranges_are_read_from_the_command_line():
    assert parse_range("learning_rate=1e-5:1e-3") == ("learning_rate", (1e-5, 1e-3))
    assert parse_range("lora_r=4:16") == ("lora_r", (4, 16))
    assert parse_range("lr_scheduler_type=cosine,linear") == ("lr_scheduler_type", ["cosine", "linear"])
    assert parse_range("set_level=true,false") == ("set_level", [True, False])
    for wrong in ("lora_r", "lora_r=4", "=1:2", "a=1:"):
        with pytest.raises(InstructMineError, match="is not of the form NAME=LOW:HIGH"):
            parse_range(wrong)
