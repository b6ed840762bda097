"""A finetune that goes on from a checkpoint: from the right one, and told of as a whole."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_finetunes import LORA, finetuned, tiny_base

from hf_instructmine import InstructMineError
from hf_instructmine.finetuning.checkpoints import find_checkpoint
from hf_instructmine.finetuning.recipe import Recipe


SAVED = {"save_strategy": "epoch", "logging_steps": 500}  # never logged before the end


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """A finetune of two epochs with a checkpoint after each, its result, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return *finetuned(base, folder, **SAVED), folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    finetuned(base, folder, **SAVED, **LORA)
    return folder


def test_what_is_told_of_a_resumed_finetune_is_of_all_of_it(base, whole, tmp_path):
    uninterrupted, _, folder = whole
    resumed, trainer = finetuned(base, tmp_path, resume_from_checkpoint=str(folder / "checkpoint-3"), **SAVED)
    assert resumed.losses == uninterrupted.losses and resumed.base_losses == uninterrupted.base_losses != {}
    assert resumed.train_loss == pytest.approx(uninterrupted.train_loss, rel=1e-6)
    assert resumed.train_tokens == uninterrupted.train_tokens
    of_the_rest = next(entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry)
    assert abs(of_the_rest - resumed.train_loss) > 0.1


def test_a_checkpoint_of_an_earlier_release_does_not_say_it(base, whole, tmp_path, caplog):
    uninterrupted, _, folder = whole
    earlier = shutil.copytree(folder / "checkpoint-3", tmp_path / "checkpoint-3")
    state = json.loads((earlier / "trainer_state.json").read_text())
    state["log_history"] = [entry for entry in state["log_history"] if "loss" in entry]
    (earlier / "trainer_state.json").write_text(json.dumps(state))
    resumed, _ = finetuned(base, tmp_path, resume_from_checkpoint=str(earlier), **SAVED)
    assert resumed.losses == uninterrupted.losses
    assert (resumed.train_loss, resumed.base_losses) == (None, {})
    assert resumed.train_tokens == uninterrupted.train_tokens  # whole epochs
    assert any("train_loss is not known" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("said", ["true", "True", "yes"])
def test_true_is_the_last_checkpoint_in_output_dir(base, whole, said):
    folder = whole[2]
    sft = Recipe({"model_name_or_path": base, "use_cpu": True, "bf16": False}).arguments(
        "--resume_from_checkpoint", said, "--output_dir", str(folder)
    )
    assert find_checkpoint(sft.sft) == str(folder / "checkpoint-6")


@pytest.mark.parametrize("said", [None, "false", "no", False])
def test_false_is_none(base, said):
    recipe = Recipe({"model_name_or_path": base, "use_cpu": True, "bf16": False, "resume_from_checkpoint": said})
    assert find_checkpoint(recipe.arguments().sft) is None


def test_what_is_not_there_is_one_line(base, tmp_path):
    for said, message in (
        ("true", f"there is no checkpoint in '{tmp_path}': name its folder"),
        ("absent", "'absent' is no checkpoint: name a folder such as"),
        (base, f"'{base}' is no checkpoint: name a folder such as"),
    ):
        with pytest.raises(InstructMineError, match=f"^resume_from_checkpoint: {message}"):
            finetuned(base, tmp_path, resume_from_checkpoint=said)


def test_a_checkpoint_of_another_model_is_refused_before_training(base, whole, adapter, tmp_path):
    whole_model, adapters = str(whole[2] / "checkpoint-3"), str(adapter / "checkpoint-3")
    other = tiny_base(tmp_path / "other", "qwen3")
    renamed = shutil.copytree(base, tmp_path / "renamed")
    for settings, model, checkpoint, message in (
        (LORA, base, whole_model, "it holds a whole model, and the recipe trains an adapter"),
        ({}, base, adapters, "it holds an adapter, and the recipe trains a whole model"),
        ({}, other, whole_model, r"it is of another model \(model_type: llama → qwen3"),
        ({**LORA, "lora_r": 2}, base, adapters, r"it is of another model \(r: 4 → 2\)"),
        (LORA, str(renamed), adapters, rf"it is of another model \(base model: {Path(base).name} → renamed\)"),
    ):
        with pytest.raises(InstructMineError, match=f"does not fit: {message}.*; name a checkpoint of this recipe$"):
            finetuned(model, tmp_path / "out", resume_from_checkpoint=checkpoint, **settings)


def test_an_adapters_checkpoint_is_gone_on_with(base, adapter, tmp_path):
    alone, _ = finetuned(base, tmp_path / "alone", **LORA)
    resumed, _ = finetuned(base, tmp_path, resume_from_checkpoint=str(adapter / "checkpoint-3"), **LORA)
    assert resumed.losses == alone.losses
