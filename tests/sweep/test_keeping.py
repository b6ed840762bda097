"""The models that a sweep keeps: whole or absent, with a card, and equal to those that were measured."""

import gc
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_sweep
from datasets import concatenate_datasets
from tiny_sweep import LAST_LAYERS, LORA, RECIPE, comparable, evaluation_sets, mixtures, pool

from hf_instructmine import InstructMineError, compare_strategies, load_runs, run_sweep
from hf_instructmine.data.evaluation_sets import EvaluationSet
from hf_instructmine.finetuning.evaluation import encode_set, evaluation_loss
from hf_instructmine.models.loading import LoadedModel
from hf_instructmine.outputs.records import Records
from hf_instructmine.sweep import executors, keeping


CACHED = {**LAST_LAYERS, "cached_trunk": True}
FORMS = {"full": {}, "last layers": LAST_LAYERS, "LoRA": LORA, "cached trunk": CACHED}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    gc.freeze()  # the trainer collects garbage once a run: not among all that pytest has imported
    return tiny_sweep.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> Path:
    """Two runs of LoRA, kept."""
    folder = tmp_path_factory.mktemp("finished") / "sweep"
    recipe = {**RECIPE, **LORA, "model_name_or_path": model}
    run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), folder, keep_models=True)
    return folder


def measured(folder: Path) -> dict[str, float]:
    """The losses of a kept model, loaded as anyone would."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = LoadedModel(
        AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder), 512
    )
    sets = {name: EvaluationSet.read(name, rows) for name, rows in evaluation_sets().items()}
    return {name: evaluation_loss(loaded, encode_set(s, loaded, 64)).loss for name, s in sets.items()}


@pytest.mark.parametrize(
    ("form", "executor"),
    [
        *((form, "inline") for form in FORMS),
        ("LoRA", "accelerate"),
        ("cached trunk", "accelerate"),
        ("cached trunk", "local"),
    ],
)
def test_a_kept_model_gives_the_recorded_loss_again(model, tmp_path, form, executor):
    recipe = {**RECIPE, **FORMS[form], "learning_rate": 1e-2, "model_name_or_path": model}
    rows = mixtures(2 if executor == "inline" else 1, 0)
    runs = run_sweep(pool(), rows, recipe, evaluation_sets(), tmp_path / "sweep", executor, keep_models=True)
    assert set(runs["status"]) == {"done"}
    # The cached trunk is rounded to bfloat16.
    tolerance = 1e-3 if form == "cached trunk" and executor != "accelerate" else 1e-6
    for run in runs:
        kept = tmp_path / "sweep" / "models" / f"{run['mixture_id']}-seed{run['seed']}"
        for name, loss in measured(kept).items():
            assert loss == pytest.approx(run[f"loss_{name}"], rel=tolerance)
            assert abs(loss - run[f"base_loss_{name}"]) > 5 * tolerance * loss
        assert {path.suffix for path in kept.iterdir()} <= {".json", ".safetensors", ".jinja", ".md"}
        assert any(
            path.name == ("adapter_config.json" if form == "LoRA" else "config.json") for path in kept.iterdir()
        )
    assert not (tmp_path / "sweep" / "work").exists()


def test_a_model_of_the_cached_trunk_has_all_layers_and_the_base_models_frozen_ones(model, tmp_path):
    from transformers import AutoModelForCausalLM

    recipe = {**RECIPE, **CACHED, "bf16": True, "model_name_or_path": model}
    run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), tmp_path / "sweep", keep_models=True)
    base = AutoModelForCausalLM.from_pretrained(model).state_dict()
    for kept in (tmp_path / "sweep" / "models").iterdir():
        weights = AutoModelForCausalLM.from_pretrained(kept).state_dict()
        changed = {name for name in base if not weights[name].equal(base[name])}
        assert weights.keys() == base.keys()
        assert changed and all(
            name.startswith(("model.layers.2.", "model.layers.3.", "model.norm.")) for name in changed
        )
        assert all(weights[name].dtype == base[name].dtype for name in base)


def test_keeping_changes_no_run(model, finished, tmp_path):
    recipe = {**RECIPE, **LORA, "model_name_or_path": model}
    run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), tmp_path / "sweep")
    assert comparable(load_runs(tmp_path / "sweep", examples=True)) == comparable(load_runs(finished, examples=True))
    assert not (tmp_path / "sweep" / "models").exists()


def test_the_card_says_base_data_recipe_seed_and_losses_and_no_path(model, finished):
    run = next(row for row in load_runs(finished) if row["seed"] == 1)
    kept = finished / "models" / "mixture-001-seed1"
    card = (kept / "README.md").read_text(encoding="utf-8")
    manifest = json.loads((finished / "sweep.json").read_text())
    for told in (
        f"weights: {manifest['base_model']['weights']}",
        f"pool: {manifest['pool']}",
        f"hash of the rows' numbers in it: {run['indices_hash']}",
        "mixture: mixture-001",
        "rows: 6",
        "seed: 1",
        f"response tokens trained on: {run['train_tokens']:,}",
        "| learning\\_rate | 0.01 |",
        f"| single | {run['base_loss_single']:.4f} | {run['loss_single']:.4f} |",
        "transformers 5.",
        "library_name: peft",
    ):
        assert told in card
    assert str(Path(model).parent) not in card and str(finished.parent) not in card
    assert str(finished.parent).encode() not in b"".join(path.read_bytes() for path in kept.iterdir())


def test_what_the_disk_will_hold_is_told_before_the_first_run(model, finished, tmp_path, caplog, monkeypatch):
    recipe = {**RECIPE, **LORA, "model_name_or_path": model}

    def stop(self, indices, seed, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(executors.Inline, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), tmp_path / "sweep", keep_models=True)
    weights = (finished / "models" / "mixture-001-seed1" / "adapter_model.safetensors").stat().st_size
    told = next(r.getMessage() for r in caplog.records if r.getMessage().startswith("keep_models"))
    each = float(told.split("about ")[1].split(" kB")[0]) * 1000
    assert told.startswith("keep_models: 2 models of about") and told.endswith("in all, in models/")
    assert each < weights < each + 3000  # the names of the tensors

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InstructMineError, match=r"keep_models: 2 models .* and the disk has 1 kB free: make room"):
        run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), tmp_path / "sweep", keep_models=True)


def test_runs_that_were_recorded_without_a_model_are_named(model, tmp_path, caplog, trained):
    recipe = {**RECIPE, **LORA, "model_name_or_path": model}
    run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "sweep")
    trained.clear()
    caplog.clear()
    run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), tmp_path / "sweep", keep_models=True)
    assert trained == ["mixture-001-seed1"]
    assert [path.name for path in (tmp_path / "sweep" / "models").iterdir()] == trained
    (told,) = [r.getMessage() for r in caplog.records if "without a model" in r.getMessage()]
    assert told.startswith("keep_models: 1 run is recorded without a model and not trained again (mixture-000-seed0)")


def test_a_kill_while_a_model_is_written_leaves_none_and_a_rerun_has_it(
    model, finished, tmp_path, monkeypatch, trained
):
    sweep = shutil.copytree(finished, tmp_path / "sweep")
    kept = sweep / "models" / "mixture-000-seed0" / "adapter_model.safetensors"
    before, record = kept.read_bytes(), Records(sweep).path_of("mixture-001-seed1")
    record.unlink()
    shutil.rmtree(sweep / "models" / "mixture-001-seed1")
    recipe = {**RECIPE, **LORA, "model_name_or_path": model}
    go = lambda: run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), sweep, keep_models=True)  # noqa: E731

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keeping, "build_model_card", killed)
        with pytest.raises(KeyboardInterrupt):
            go()
    assert [path.name for path in (sweep / "models").iterdir()] == ["mixture-000-seed0"] and not record.exists()
    trained.clear()
    go()
    assert trained == ["mixture-001-seed1"] and kept.read_bytes() == before
    again, alone = (f / "models" / "mixture-001-seed1" / "adapter_model.safetensors" for f in (sweep, finished))
    assert again.read_bytes() == alone.read_bytes()
    assert not (sweep / "work").exists()


def test_a_run_that_diverged_leaves_no_model(model, tmp_path):
    recipe = {**RECIPE, **LORA, "learning_rate": 30.0, "model_name_or_path": model}
    runs = run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "sweep", keep_models=True)
    assert runs["status"][:] == ["failed"]
    assert not list((tmp_path / "sweep").rglob("*.safetensors"))


def test_checkpoints_and_models_can_both_be_kept(model, tmp_path):
    recipe = {**RECIPE, **LORA, "save_strategy": "epoch", "model_name_or_path": model}
    run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "sweep", keep_models=True)
    checkpoints = tmp_path / "sweep" / "checkpoints" / "mixture-000-seed0"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-3", "checkpoint-6"]
    assert (tmp_path / "sweep" / "models" / "mixture-000-seed0" / "adapter_model.safetensors").is_file()


def test_a_comparison_keeps_the_models_of_its_strategies(model, tmp_path):
    scored = pool().add_column("output_length", [len(text) for text in pool()["completion"]])
    compare_strategies(
        scored, {"longest": "highest:output_length"}, {**RECIPE, **LORA, "model_name_or_path": model},
        {"single": concatenate_datasets([evaluation_sets()["single"]] * 4)},
        tmp_path, sizes=[2], parts=3, random_at=[], keep_models=True,
    )  # fmt: skip
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        *(f"{name}-size2-part{k}-seed{k}" for name in ("longest", "random") for k in range(3)),
        "longest-size2-whole-seed0",
    }


# Trackers


def tracker(told: list) -> type:
    """A callback in place of one of `report_to`'s, which listens only while a run goes on."""
    from transformers import TrainerCallback

    class Tracker(TrainerCallback):
        listens = False

        def on_train_begin(self, args, state, control, **kwargs):
            self.listens = True
            told.append((args.run_name, args.project))

        def on_log(self, args, state, control, logs=None, **kwargs):
            assert self.listens
            told.append({name: value for name, value in logs.items() if name.startswith("loss_")})

        def on_train_end(self, args, state, control, **kwargs):
            self.listens = False

    return Tracker


@pytest.mark.parametrize("named", [{}, {"run_name": "mine", "project": "ours"}])
def test_a_tracker_hears_the_runs_name_and_the_losses_before_and_after(model, tmp_path, monkeypatch, named):
    from transformers.integrations import integration_utils

    told: list = []
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "trackio", tracker(told))
    recipe = {**RECIPE, **LORA, "report_to": "trackio", "model_name_or_path": model, **named}
    runs = run_sweep(pool(), mixtures(1, 1), recipe, evaluation_sets(), tmp_path / "sweep")
    begun = [entry for entry in told if isinstance(entry, tuple)]
    prefix, project = ("mine-", "ours") if named else ("", "sweep")
    assert begun == [(f"{prefix}mixture-000-seed{seed}", project) for seed in (0, 1)]
    losses = [entry for entry in told if isinstance(entry, dict) and entry]
    row = runs[0]
    assert losses[0] == {f"loss_{name}": row[f"base_loss_{name}"] for name in ("single", "multi")}
    assert losses[1] == {f"loss_{name}": row[f"loss_{name}"] for name in ("single", "multi")}


def test_tensorboards_files_are_kept_by_run(model, tmp_path):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = {**RECIPE, **LORA, "report_to": "tensorboard", "model_name_or_path": model}
    runs = run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), tmp_path / "sweep")
    for run in runs:
        logs = EventAccumulator(str(tmp_path / "sweep" / "logs" / f"{run['mixture_id']}-seed{run['seed']}"))
        logs.Reload()
        before, after = (scalar.value for scalar in logs.Scalars("train/loss_single"))
        assert (before, after) == pytest.approx((run["base_loss_single"], run["loss_single"]))


def test_each_run_has_a_wandb_run_of_its_own(monkeypatch):
    wandb = SimpleNamespace(run=None)
    wandb.finish = lambda: setattr(wandb, "run", None)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    with keeping.tracked({"WANDB_PROJECT": "sweep"}):
        import os

        assert os.environ["WANDB_PROJECT"] == "sweep"
        wandb.run = "of a finetune"
    assert wandb.run is None and "WANDB_PROJECT" not in os.environ
    wandb.run = "of the notebook"
    with keeping.tracked({}):
        pass
    assert wandb.run == "of the notebook"
