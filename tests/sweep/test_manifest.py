"""What a folder's runs have in common, and what may change between two calls without making them other runs."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_sweep
from tiny_sweep import LAST_LAYERS, RECIPE, evaluation_sets, mixtures, pool

from hf_instructmine import InstructMineError, run_sweep
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.outputs.digests import digest
from hf_instructmine.outputs.records import Records
from hf_instructmine.sweep.executors import Execution
from hf_instructmine.sweep.request import check_recorded


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict:
    return {
        **RECIPE,
        **LAST_LAYERS,
        "model_name_or_path": tiny_sweep.save_model(tmp_path_factory.mktemp("a") / "model"),
    }


@pytest.fixture(scope="module")
def begun(recipe, tmp_path_factory) -> Path:
    """One run of two."""
    folder = tmp_path_factory.mktemp("begun") / "sweep"
    run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), folder)
    return folder


@pytest.fixture
def sweep(begun, tmp_path) -> Path:
    return shutil.copytree(begun, tmp_path / "sweep")


@pytest.fixture
def two_processes(tmp_path) -> str:
    path = tmp_path / "accelerate.yaml"
    path.write_text("distributed_type: MULTI_GPU\nnum_processes: 2\n")
    return str(path)


def test_the_batch_and_the_processes_are_noted_down(recipe, sweep, tmp_path):
    manifest = Records(sweep).read(sweep / "sweep.json")
    assert manifest["training"] == {"processes": 1, "global_batch": 2}


def test_a_sweep_of_one_process_is_not_gone_on_with_by_two(recipe, sweep, trained, two_processes):
    with pytest.raises(InstructMineError) as error:
        given = pool(), mixtures(1, 1), recipe, evaluation_sets(), sweep, "accelerate"
        run_sweep(*given, accelerate_config=two_processes)
    assert "another sweep (training (global_batch: 2 → 4; processes: 1 → 2)): choose another" in str(error.value)
    run_sweep(pool(), mixtures(1, 1), recipe, evaluation_sets(), sweep)  # with one, whatever the executor
    assert trained == ["mixture-000-seed1"]


@pytest.mark.parametrize(("options", "told"), [({"gradient_accumulation_steps": 2}, "global_batch: 2 → 4")])
def test_another_batch_is_another_sweep(recipe, sweep, options, told):
    with pytest.raises(InstructMineError, match=told):
        run_sweep(pool(), mixtures(1, 1), {**recipe, **options}, evaluation_sets(), sweep)


def test_of_a_folder_that_does_not_say_it_the_records_tell(recipe, sweep, two_processes, trained):
    records = Records(sweep)
    manifest = records.read(sweep / "sweep.json")
    records.write(sweep / "sweep.json", {k: v for k, v in manifest.items() if k != "training"})
    with pytest.raises(InstructMineError, match="holds runs of 1 processes, and this sweep would train with 2: the"):
        given = pool(), mixtures(1, 1), recipe, evaluation_sets(), sweep, "accelerate"
        run_sweep(*given, accelerate_config=two_processes)
    run_sweep(pool(), mixtures(1, 1), recipe, evaluation_sets(), sweep)
    assert trained == ["mixture-000-seed1"]


def test_where_the_configuration_does_not_say_how_many_processes_none_is_expected(recipe, sweep, tmp_path):
    (tmp_path / "silent.yaml").write_text("distributed_type: 'NO'\n")
    execution = Execution("accelerate", str(tmp_path / "silent.yaml"))
    assert execution.count_processes(Recipe(recipe).arguments()) is None
    check_recorded(Records(sweep), [], None)
    with pytest.raises(InstructMineError, match="holds runs of 1 processes"):
        check_recorded(Records(sweep), [], 2)


def test_options_that_no_loss_depends_on_may_change(recipe, sweep, trained):
    free = {
        "logging_steps": 1, "report_to": "none", "run_name": "b", "disable_tqdm": False, "dataloader_num_workers": 0,
        "dataloader_pin_memory": False, "eval_token_budget": 300, "save_total_limit": 1, "dataset_num_proc": 1,
    }  # fmt: skip
    runs = run_sweep(pool(), mixtures(1, 1), {**recipe, **free}, evaluation_sets(), sweep)
    assert trained == ["mixture-000-seed1"]
    assert len(set(runs["recipe_hash"])) == 1


def test_a_folder_that_holds_such_options_is_gone_on_with_under_its_hash(recipe, sweep, trained):
    records = Records(sweep)
    manifest = records.read(sweep / "sweep.json")
    old = {**manifest["recipe"], "disable_tqdm": True, "report_to": "none", "logging_steps": 4}
    records.write(sweep / "sweep.json", {**manifest, "recipe": old})
    path = records.path_of("mixture-000-seed0")
    records.write(path, {**records.read(path), "recipe_hash": "what the earlier version wrote"})
    runs = run_sweep(pool(), mixtures(1, 1), {**recipe, "logging_steps": 7}, evaluation_sets(), sweep)
    assert trained == ["mixture-000-seed1"]
    assert runs["recipe_hash"][1] == digest(old)  # of all that the folder holds, as then
    with pytest.raises(InstructMineError, match=r"another sweep \(recipe \(learning_rate: 0.001 → 0.1\)\)"):
        run_sweep(pool(), mixtures(1, 1), {**recipe, "learning_rate": 0.1}, evaluation_sets(), sweep)


def test_a_model_is_known_by_its_weights_whatever_its_folder_is_called(recipe, sweep, tmp_path, trained):
    renamed = shutil.copytree(recipe["model_name_or_path"], tmp_path / "of-another-name")
    given = pool(), mixtures(1, 1), {**recipe, "model_name_or_path": str(renamed)}, evaluation_sets(), sweep
    runs = run_sweep(*given)
    assert trained == ["mixture-000-seed1"]
    assert set(runs["base_model"]) == {"model"} and len(set(runs["recipe_hash"])) == 1
    assert "of-another-name" not in json.dumps([Records(sweep).read(path) for path in (sweep / "runs").iterdir()])
