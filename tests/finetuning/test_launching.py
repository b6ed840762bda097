"""A finetune on several processes, started by the command or by `accelerate launch`: the same losses as on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_finetunes import finetuned, trajectory
from tiny_models import ROWS
from transformers import AutoModelForCausalLM

from hf_instructmine import InstructMineError
from hf_instructmine.finetuning.launching import launch_command


def run(command, environment=None):
    source = str(Path(__file__).parents[2] / "src")
    environment = os.environ | {"PYTHONPATH": source} | (environment or {})
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_two_processes_train_and_measure_as_one_does(base, recipe_file, tmp_path):
    # Ten rows in batches of four: the last batch of an epoch is not full, and not equally long on both.
    options = [
        "--save_strategy",
        "epoch",
        "--output_dir",
        str(tmp_path / "two"),
        "--record",
        str(tmp_path / "two.json"),
    ]
    command, environment = launch_command(recipe_file, 2, options=["--per_device_train_batch_size", "2", *options])
    done = run(command, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("loss_held_out: ") == 1
    state = json.loads((tmp_path / "two" / "checkpoint-6" / "trainer_state.json").read_text())
    two = json.loads((tmp_path / "two.json").read_text())

    held_out = {"prompt": [p for p, _ in ROWS[::-1]], "completion": [r for _, r in ROWS[::-1]]}
    one, trainer = finetuned(base, tmp_path / "one", eval_sets=held_out, per_device_train_batch_size=4)
    assert (two["processes"], one.processes) == (2, 1)
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    np.testing.assert_allclose(losses, trajectory(trainer), rtol=1e-4)
    assert two["losses"]["held_out"] == pytest.approx(one.losses["held_out"], rel=1e-4)
    np.testing.assert_allclose(two["examples"]["held_out"]["nll"], one.examples["held_out"]["nll"], rtol=1e-3)
    assert two["examples"]["held_out"]["tokens"] == one.examples["held_out"]["tokens"]
    assert (two["train_tokens"], two["steps"]) == (one.train_tokens, one.steps) == (2 * one.subset_tokens, 6)
    assert two["train_loss"] == pytest.approx(one.train_loss, rel=1e-4)
    assert two["base_losses"]["held_out"] == pytest.approx(one.base_losses["held_out"], rel=1e-5)
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "two").state_dict()
    trained = trainer.model.state_dict()
    assert all(torch.allclose(kept[name], trained[name], atol=1e-3) for name in trained)
    assert f"| held\\_out | {two['base_losses']['held_out']:.4f} |" in (tmp_path / "two" / "README.md").read_text()


def test_asking_for_two_processes_in_the_way_that_starts_one_is_an_error(recipe_file):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = run([*launch, "-m", "hf_instructmine.finetuning", "--config", str(recipe_file), "--expect_processes", "2"])
    assert done.returncode != 0
    assert "finetuning: the number of processes should be 2, but is 1" in done.stderr


def test_the_command_launches_as_many_processes_as_asked(recipe_file, tmp_path, capfd):
    from hf_instructmine.cli.main import main as instructmine

    config = Path(__file__).parents[2] / "recipes" / "accelerate" / "two-cpu-processes.yaml"
    record = tmp_path / "record.json"
    options = ["--record", str(record), "--num_train_epochs", "1"]
    assert instructmine(["finetune", "--config", str(recipe_file), "--accelerate-config", str(config), *options]) == 0
    assert json.loads(record.read_text())["processes"] == 2
    assert "loss_held_out: " in capfd.readouterr().out


def test_a_failed_finetune_is_told_of_by_the_commands_exit_code(recipe_file, capfd):
    from hf_instructmine.cli.main import main as instructmine

    assert instructmine(["finetune", "--config", str(recipe_file), "--train", "absent.jsonl"]) == 1
    assert "finetuning: there is no file 'absent.jsonl'" in capfd.readouterr().err
    assert instructmine(["finetune", "--config", "absent.yaml"]) == 1
    assert "cannot read the recipe 'absent.yaml'" in capfd.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        instructmine(["finetune"])
    with pytest.raises(SystemExit, match="2"):
        instructmine(["demo", "--no-such-option"])


def test_each_form_of_launching_is_told_what_to_expect(recipe_file, tmp_path):
    def launched(*args, **kwargs):
        command, environment = launch_command(recipe_file, *args, **kwargs)
        module = command.index("hf_instructmine.finetuning")
        return " ".join(command[4:module]), " ".join(command[module + 1 :]), environment

    flags, options, environment = launched()
    assert "--num_processes 1 --cpu" in flags  # or Accelerate would give a CPU one thread
    assert "--expect_processes 1" in options
    recipe_file.write_text(recipe_file.read_text().replace("use_cpu: true", "use_cpu: false"))
    flags, options, environment = launched()  # with several GPUs too: the batch is the recipe's
    assert flags == "--num_processes 1 -m" and "--expect_processes 1" in options
    recipe_file.write_text(recipe_file.read_text().replace("use_cpu: false", "use_cpu: true"))
    flags, options, environment = launched(3, options=["--lora_r", "4"])
    assert "--multi_gpu --num_processes 3" in flags
    assert options.endswith("--expect_processes 3 --lora_r 4")
    assert environment == {"ACCELERATE_USE_CPU": "true"}
    config = tmp_path / "accelerate.yaml"
    config.write_text("distributed_type: MULTI_GPU\nnum_processes: 8\n")
    assert "--expect_processes 8" in launched(None, config)[1]
    assert "--expect_processes 4" in launched(4, config)[1]
    assert "--expect_processes" not in launched(4, config, options=["--expect-processes=2"])[1]
    for wrong, message in ((0, "at least 1"), (-1, "at least 1")):
        with pytest.raises(InstructMineError, match=message):
            launched(wrong)
    with pytest.raises(InstructMineError, match="cannot read the Accelerate configuration"):
        launched(2, tmp_path / "absent.yaml")


def test_deepspeed_is_asked_for_where_it_is_missing_before_a_process_starts(
    recipe_file, tmp_path, monkeypatch, capsys
):
    import importlib.util

    from hf_instructmine.finetuning import launching
    from hf_instructmine.finetuning.__main__ import main

    monkeypatch.setattr(launching, "find_spec", lambda name: None)
    zero3 = Path(__file__).parents[2] / "recipes" / "accelerate" / "deepspeed-zero3.yaml"
    with pytest.raises(InstructMineError, match=r"deepspeed-zero3\.yaml' asks for DeepSpeed.*pip install deepspeed$"):
        launch_command(recipe_file, None, zero3)
    if importlib.util.find_spec("deepspeed") is not None:
        pytest.skip("DeepSpeed is here")
    zero = tmp_path / "zero.json"
    zero.write_text("{}")
    settings = {**yaml.safe_load(recipe_file.read_text()), "deepspeed": str(zero)}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    for config, options in ((tmp_path / "recipe.yaml", []), (recipe_file, ["--deepspeed", str(zero)])):
        assert main(["--config", str(config), *options]) == 2
        assert capsys.readouterr().err == (
            "finetuning: the recipe asks for DeepSpeed, which is not here: pip install deepspeed\n"
        )
