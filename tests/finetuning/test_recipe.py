"""A recipe: YAML with TRL's options and ours, checked before any model is loaded."""

import os
import sys

import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.finetuning.recipe import Recipe, check_for_sweep


BASIC = {"model_name_or_path": "some/model", "use_cpu": True, "report_to": "none"}
TRUNK = {"cached_trunk": True, "train_last_layers": 2}


def written(folder, text):
    path = folder / "recipe.yaml"
    path.write_text("model_name_or_path: some/model\nuse_cpu: true\n" + text)
    return path


def test_yaml_is_read_as_trl_reads_its_command_line(tmp_path):
    recipe = Recipe.load(
        written(
            tmp_path,
            "learning_rate: 2e-4\n"  # which YAML takes for text
            "num_train_epochs: 2\nweight_decay: 1\nlora_target_modules: [q_proj, v_proj]\nuse_peft: true\n"
            "lr_scheduler_kwargs: {num_cycles: 2}\nlr_scheduler_type: cosine_with_restarts\nmax_length: null\n"
            "train: rows.jsonl\nsave_strategy: no\nreport_to: [tensorboard, trackio]\nbf16: false\n",
        )
    )
    arguments = recipe.arguments(seed=7)
    own, sft, model = arguments.own, arguments.sft, arguments.model
    assert (sft.learning_rate, sft.num_train_epochs, sft.weight_decay) == (2e-4, 2.0, 1.0)
    assert (own.train, model.lora_target_modules) == (["rows.jsonl"], ["q_proj", "v_proj"])
    assert (sft.lr_scheduler_kwargs, sft.max_length, sft.seed) == ({"num_cycles": 2}, None, 7)
    assert (sft.save_strategy, sft.report_to, sft.bf16) == ("no", ["tensorboard", "trackio"], False)


def test_options_of_a_command_line_win_over_the_recipe():
    recipe = Recipe({**BASIC, "learning_rate": 1e-4, "eval_sets": ["a=a.jsonl"]})
    arguments = recipe.arguments(
        "--learning_rate", "3e-4", "--eval_sets", "b=b.jsonl", "c=c.jsonl", "--use_dora", "--lora-r", "4"
    )
    assert (arguments.sft.learning_rate, arguments.own.eval_sets) == (3e-4, ["b=b.jsonl", "c=c.jsonl"])
    assert (arguments.model.use_dora, arguments.model.lora_r) == (True, 4)


def test_an_option_that_there_is_not_is_told_with_the_nearest():
    with pytest.raises(InstructMineError, match=r"no option --learning_rat: did you mean --learning_rate\?"):
        Recipe(BASIC).arguments("--learning_rat", "1e-4")
    with pytest.raises(InstructMineError, match=r"no option rows\.jsonl: it takes those of TRL's SFTConfig and"):
        Recipe(BASIC).arguments("rows.jsonl")


def test_no_checkpoints_are_kept_unless_asked():
    assert Recipe(BASIC).arguments().sft.save_strategy == "no"
    assert Recipe({**BASIC, "save_strategy": "epoch"}).arguments().sft.save_strategy == "epoch"


def test_every_option_of_trl_is_an_option_of_a_recipe():
    from dataclasses import MISSING, fields

    from trl import ModelConfig, SFTConfig

    settings = {
        option.name: option.default
        for config in (SFTConfig, ModelConfig)
        for option in fields(config)
        if option.init and option.default is not MISSING
    }
    arguments = Recipe({**settings, **BASIC, "save_strategy": "no"}).arguments()
    assert arguments.sft.learning_rate == settings["learning_rate"]


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_a_renamed_option_is_read_by_either_name_and_without_a_warning(name, recwarn):
    for value in (True, False):
        assert Recipe({**BASIC, name: value}).arguments().sft.gradient_checkpointing is value
    assert not [warning for warning in recwarn if "deprecated" in str(warning.message)]


def test_the_environment_is_set_as_trl_sets_it(monkeypatch):
    monkeypatch.setenv("TRACKIO_PROJECT", "before")
    Recipe({**BASIC, "env": {"TRACKIO_PROJECT": "rules"}}).arguments()
    assert os.environ["TRACKIO_PROJECT"] == "rules"


def test_arguments_of_the_process_are_not_taken_for_options(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["notebook", "--learning_rate", "9", "--kernel"])
    assert Recipe(BASIC).arguments().sft.learning_rate != 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 1e-4}, "unknown option 'learning_rat': did you mean 'learning_rate'"),
        ({"max_steps": "ten"}, "invalid int value: 'ten'"),
        ({"lora_r": 1.5}, "invalid int value: '1.5'"),
        ({"dtype": "bf16"}, "dtype must be one of auto, bfloat16, float16, float32, not 'bf16'"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type must be one of .*, not 'cosin'"),
        ({"model_name_or_path": None}, "names no model"),
        ({"env": "A=1"}, "env must hold"),
        ({"budget": "hours"}, "budget must be one of epochs, steps, tokens"),
        ({"budget": "steps"}, "budget: steps needs max_steps"),
        ({"budget": "tokens"}, "budget: tokens needs train_tokens"),
        ({"max_steps": 5}, "max_steps is set, but budget is epochs"),
        ({"train_last_layers": 0}, "train_last_layers must be at least 1"),
        ({"train_last_layers": 2, "use_peft": True}, "does not go with use_peft"),
        ({"cached_trunk": True}, "cached_trunk needs train_last_layers"),
        (
            {**TRUNK, "save_strategy": "epoch"},
            "save_strategy: checkpoints would hold the last layers alone; set cached",
        ),
        ({**TRUNK, "neftune_noise_alpha": 5}, "does not go with neftune_noise_alpha: .* set cached_trunk: false"),
        ({"load_in_4bit": True}, "need use_peft: quantised weights cannot be trained"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "8 bit and 4 bit precision at the same time"),
        ({"max_length": 1}, "max_length must be at least 2"),
        ({"eval_max_length": 0}, "eval_max_length must be at least 2"),
        ({"eval_strategy": "steps"}, "eval_strategy is not supported"),
        ({"packing": True}, "packing: True is not supported: loss is on the responses"),
        ({"completion_only_loss": False}, "completion_only_loss: False is not supported"),
        ({"truncation_mode": "keep_end"}, "truncation_mode: keep_end is not supported"),
        ({"eval_on_start": True}, "eval_on_start: True is not supported: there is no evaluation while"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end: True is not supported"),
        ({"save_strategy": "best", "metric_for_best_model": "loss"}, "save_strategy: best is not supported"),
        ({"dataset_kwargs": {"skip_prepare_dataset": False}}, "dataset_kwargs is not supported"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings, message):
    with pytest.raises(InstructMineError, match=message) as refused:
        Recipe({**BASIC, **settings}).arguments()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data_seed": 0}, "does not go with data_seed: all runs would see their rows in one order"),
        ({"resume_from_checkpoint": "finetuned/checkpoint-9"}, "every run would start from that checkpoint"),
        ({"push_to_hub": True}, "all runs would be pushed to one repository"),
        ({"auto_find_batch_size": True}, "a run could train with another batch than the others"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches: per_device_train_batch_size would be"),
    ],
)
def test_what_a_sweep_would_misuse_is_refused_there_alone(settings, message):
    recipe = Recipe({**BASIC, **settings})
    arguments = recipe.arguments()
    with pytest.raises(InstructMineError, match=message) as refused:
        check_for_sweep(recipe, arguments)
    assert "\n" not in str(refused.value)


def test_what_a_sweep_gives_each_run_itself_is_named_where_a_recipe_has_it(caplog):
    for settings, told in (({}, []), ({"seed": 3, "output_dir": "out", "train": None}, ["output_dir, seed"])):
        caplog.clear()
        recipe = Recipe({**BASIC, **settings})
        check_for_sweep(recipe, recipe.arguments())
        assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == told


def test_of_several_gpus_that_a_process_sees_it_uses_one(monkeypatch):
    # The trainer would spread each batch over all of them, which makes it as many times larger.
    from transformers import TrainingArguments

    seen = property(lambda self: 1 if self.__dict__.get("_n_gpu") == 1 else 4)
    monkeypatch.setattr(TrainingArguments, "n_gpu", seen)
    arguments = Recipe({**BASIC, "per_device_train_batch_size": 2}).arguments()
    assert arguments.gpus == 4
    assert arguments.sft.n_gpu == 1 and arguments.sft.train_batch_size == 2
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 4))  # a release that cannot be told
    with pytest.raises(
        InstructMineError, match=r"4 GPUs are visible, .*: set CUDA_VISIBLE_DEVICES to one, or use exec"
    ):
        Recipe(BASIC).arguments()


def test_a_recipe_for_a_gpu_says_that_none_is_there():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InstructMineError, match="trains in bf16 on a GPU, but no GPU that can is visible"):
        Recipe({"model_name_or_path": "some/model", "bf16": True}).arguments()


@pytest.mark.parametrize("text", ["- a\n- b\n", "", "a: [\n"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InstructMineError, match=r"the recipe '.*recipe\.yaml'"):
        Recipe.load(path)
    with pytest.raises(InstructMineError, match="cannot read the recipe"):
        Recipe.load(tmp_path / "absent.yaml")


def test_the_hash_changes_with_the_recipe_and_not_with_seed_data_or_machine():
    recipe = Recipe({**BASIC, "learning_rate": 1e-4})
    same = {"seed": 3, "train": ["other.jsonl"], "output_dir": "elsewhere", "expect_processes": 2, "num_gpus": 1}
    assert recipe.hash == Recipe({**same, "learning_rate": 1e-4, **BASIC}).hash
    assert recipe.hash != Recipe({**BASIC, "learning_rate": 2e-4}).hash
    assert recipe.difference(Recipe({**BASIC, **same, "learning_rate": 2e-4})) == ["learning_rate: 0.0001 → 0.0002"]


def test_the_hash_does_not_change_with_what_no_loss_depends_on():
    # The reasons are the groups of `_OF_NO_LOSS`: what is told and kept, how rows are fetched, what never runs here.
    recipe = Recipe({**BASIC, "learning_rate": 1e-4})
    free = {
        "logging_steps": 3, "report_to": "trackio", "run_name": "a", "disable_tqdm": True, "save_strategy": "epoch",
        "save_total_limit": 1, "dataloader_num_workers": 2, "dataloader_pin_memory": False, "eval_token_budget": 64,
        "hub_model_id": "me/model", "per_device_eval_batch_size": 1,
    }  # fmt: skip
    other = Recipe({**BASIC, "learning_rate": 1e-4, **free})
    assert recipe.hash == other.hash and recipe.difference(other) == []
    assert recipe.recorded_hash != other.recorded_hash  # as earlier versions recorded it
    bound = {
        "dataloader_drop_last": True, "dataloader_in_order": False, "train_sampling_strategy": "sequential",
        "cached_trunk": True, "bf16": True, "gradient_checkpointing": False, "full_determinism": True,
        "average_tokens_across_devices": False, "eval_max_length": 64, "model_revision": "v2",
    }  # fmt: skip
    assert all(
        Recipe({**BASIC, "learning_rate": 1e-4, name: value}).hash != recipe.hash for name, value in bound.items()
    )


def test_the_hash_knows_a_local_model_by_its_folders_name(tmp_path):
    paths = [tmp_path / "here" / "model", tmp_path / "there" / "model", tmp_path / "there" / "other"]
    for path in paths:
        path.mkdir(parents=True)
    here, there, other = (Recipe({**BASIC, "model_name_or_path": str(path)}) for path in paths)
    assert here.base_model == "model"
    assert here.hash == there.hash != other.hash
    assert here.difference(there) == []
    assert here.difference(other) == ["model_name_or_path: 'model' → 'other'"]
    paths[0].rmdir()  # moved away since
    assert here.hash == there.hash and here.comparable["model_name_or_path"] == "model"
    assert Recipe({"model_name_or_path": "me/model"}).base_model == "me/model"


@pytest.mark.parametrize(
    "columns",
    ["messages=turns,roles={teacher: assistant}", {"messages": "turns", "roles": {"teacher": "assistant"}}],
)
def test_a_recipe_maps_columns_and_roles(columns):
    from hf_instructmine.data.inputs import parse_mapping

    read = Recipe.load({**BASIC, "columns": columns}).arguments().own.columns
    assert parse_mapping(read) == {"messages": "turns", "roles": {"teacher": "assistant"}}


def test_a_recipe_of_another_encoding_or_with_an_option_twice_is_one_line(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model_name_or_path: café", "latin-1")
    with pytest.raises(InstructMineError, match=r"^the recipe '.*recipe.yaml' is not UTF-8 text"):
        Recipe.load(tmp_path / "recipe.yaml")
    (tmp_path / "recipe.yaml").write_text("learning_rate: 1e-4\nlearning_rate: 2e-4", "utf-8")
    with pytest.raises(InstructMineError, match=r"^cannot read the recipe '.*recipe.yaml': 'learning_rate' stands"):
        Recipe.load(tmp_path / "recipe.yaml")
