"""A sweep that can teach nothing says so before its first run, with the figures."""

import pytest
import tiny_sweep
from datasets import Dataset
from tiny_sweep import LAST_LAYERS, LORA, RECIPE, evaluation_sets, mixtures, pool

from hf_instructmine import InstructMineError, run_sweep
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.sweep.outlook import count_steps, doubts


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict:
    return {**RECIPE, **LAST_LAYERS, "model_name_or_path": tiny_sweep.save_model(tmp_path_factory.mktemp("model"))}


def arguments(**options):
    return Recipe({**RECIPE, "model_name_or_path": "some/model", **options}).arguments()


RUNS = [{"mixture_id": "a", "indices": list(range(16))}, {"mixture_id": "b", "indices": list(range(12))}]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"num_train_epochs": 1.5, "per_device_train_batch_size": 4}, {"gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 4, "dataloader_drop_last": True}, {"budget": "steps", "max_steps": 5},
        {"per_device_train_batch_size": 16, "num_train_epochs": 3},
    ],
)  # fmt: skip
def test_the_steps_that_are_foretold_are_those_that_are_made(recipe, tmp_path, options):
    settings = {**recipe, **options}
    runs = run_sweep(pool(), mixtures(1, 0), settings, evaluation_sets(), tmp_path / "sweep")
    assert [count_steps(Recipe(settings).arguments(), 6, 1)] == runs["steps"][:]


def test_the_number_of_processes_counts():
    assert [count_steps(arguments(), 12, n) for n in (1, 2, 3)] == [12, 6, 4]
    assert count_steps(arguments(budget="tokens", train_tokens=100), 12, 1) is None


@pytest.mark.parametrize(
    ("options", "processes", "told"),
    [
        ({}, 1, []),
        ({"warmup_steps": 11}, 1, []),
        (
            {"warmup_steps": 12},
            1,
            ["1 of 2 mixtures train no longer than the warm-up of 12 steps (mixture 'b': 12 rows, batch 2, 12 steps)"],
        ),
        ({"warmup_steps": 12, "lr_scheduler_type": "constant"}, 1, []),
        ({"warmup_steps": 0.1}, 1, []),
        (
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3},
            1,
            ["1 of 2 mixtures are one batch (mixture 'b': 12 rows, batch 12, 2 steps)"],
        ),
        (
            {"per_device_train_batch_size": 8},
            2,
            ["2 of 2 mixtures are one batch (mixture 'b': 12 rows, batch 16, 2 steps)"],
        ),
        (
            {"per_device_train_batch_size": 16, "budget": "tokens", "train_tokens": 9},
            1,
            ["2 of 2 mixtures are one batch (mixture 'b': 12 rows, batch 16)"],
        ),
    ],
)
def test_it_is_said_where_runs_may_teach_nothing(options, processes, told):
    said = list(doubts(arguments(**options), RUNS, processes).values())
    assert [line.partition(":")[0] for line in said] == [line.partition(":")[0] for line in told]
    assert all(line in said[k] for k, line in enumerate(told))


def test_what_replicates_of_one_batch_differ_by_is_said():
    (whole,), (adapters,) = (
        doubts(arguments(per_device_train_batch_size=16, **options), RUNS, 1).values() for options in ({}, LORA)
    )
    assert "differ by dropout alone" in whole and "dropout and their adapters' first weights alone" in adapters


def test_a_run_without_a_step_is_refused(recipe, tmp_path):
    options = {"per_device_train_batch_size": 8, "dataloader_drop_last": True}
    with pytest.raises(InstructMineError, match=r"no step \(mixture 'mixture-000': 6 rows, batch 8, 0 steps\)"):
        run_sweep(pool(), mixtures(), {**recipe, **options}, evaluation_sets(), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_says_it_once_before_its_first_run(recipe, tmp_path, caplog, trained):
    settings = {**recipe, "warmup_steps": 2, "per_device_train_batch_size": 16}
    run_sweep(pool(), mixtures(1, 1), settings, evaluation_sets(), tmp_path / "sweep")
    told = [r.getMessage() for r in caplog.records if "mixtures" in r.getMessage()]
    assert sorted(line.partition(" (")[0] for line in told) == [
        "1 of 1 mixtures are one batch", "1 of 1 mixtures train no longer than the warm-up of 2 steps"
    ]  # fmt: skip
    caplog.clear()
    run_sweep(pool(), mixtures(1, 1), settings, evaluation_sets(), tmp_path / "sweep")
    assert not caplog.records and len(trained) == 2


def test_replicates_of_one_batch_are_equal_as_it_says(recipe, tmp_path):
    settings = {**recipe, "per_device_train_batch_size": 8}
    runs = run_sweep(pool(), mixtures(1, 1), settings, evaluation_sets(), tmp_path / "sweep")
    assert runs["loss_single"][0] == pytest.approx(runs["loss_single"][1], abs=1e-6)
    assert isinstance(runs, Dataset)
