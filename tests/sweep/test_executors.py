"""A run gives the same wherever it runs: after others in one process, alone, in a subprocess, or as a Ray task."""

import gc
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_sweep
from tiny_sweep import LAST_LAYERS, LORA, RECIPE, comparable, evaluation_sets, mixtures, pool

from hf_instructmine import InstructMineError, load_runs, run_sweep
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.sweep import executors
from hf_instructmine.sweep.executors import run_command


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    gc.freeze()  # the trainer collects garbage once a run: not among all that pytest has imported
    return tiny_sweep.save_model(tmp_path_factory.mktemp("model"))


# In bf16 Accelerate wraps the model, and a model that it has wrapped once it leaves alone.
BF16 = {**LAST_LAYERS, "bf16": True}


@pytest.mark.parametrize("trained", [{}, LAST_LAYERS, LORA, BF16], ids=["full", "last layers", "LoRA", "bf16"])
def test_a_run_after_others_equals_the_same_run_alone_bit_for_bit(model, tmp_path, trained):
    recipe = {**RECIPE, **trained, "model_name_or_path": model}
    together = run_sweep(pool(), mixtures(3, 1), recipe, evaluation_sets(), tmp_path / "together")
    assert len(set(together["loss_single"])) == 4
    for k in range(len(mixtures(3, 1))):
        alone = run_sweep(pool(), mixtures(3, 1).select([k]), recipe, evaluation_sets(), tmp_path / f"alone-{k}")
        found = load_runs(tmp_path / f"alone-{k}", examples=True)
        there = load_runs(tmp_path / "together", examples=True)
        (row,) = (
            row
            for row in comparable(there)
            if (row["mixture_id"], row["seed"]) == (alone["mixture_id"][0], alone["seed"][0])
        )
        assert comparable(found) == [row]


@pytest.mark.parametrize("executor", ["inline", "local", "accelerate"])
def test_a_mixture_may_ask_for_optimiser_steps_of_its_own(model, tmp_path, executor):
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": model}
    asked = mixtures(2, 0).add_column("max_steps", [5, None])
    runs = run_sweep(pool(), asked, recipe, evaluation_sets(), tmp_path, executor)
    assert [(row["steps"], row["budget"], row["status"]) for row in runs] == [
        (5, "steps", "done"),
        (6, "epochs", "done"),
    ]


def test_optimiser_steps_belong_to_a_mixture(model, tmp_path, trained):
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": model}
    for steps, told in (
        (0, "max_steps of mixture 'mixture-000' is 0, not a whole number"),
        (2.5, "is 2.5, not a whole"),
    ):
        with pytest.raises(InstructMineError, match=told):
            run_sweep(pool(), mixtures(1, 0).add_column("max_steps", [steps]), recipe, evaluation_sets(), tmp_path)
    run_sweep(pool(), mixtures(1, 0).add_column("max_steps", [2]), recipe, evaluation_sets(), tmp_path)
    with pytest.raises(InstructMineError, match="a mixture 'mixture-000' of other steps"):
        run_sweep(pool(), mixtures(1, 0).add_column("max_steps", [3]), recipe, evaluation_sets(), tmp_path)
    assert trained == ["mixture-000-seed0"]


@pytest.mark.parametrize("trained", [LAST_LAYERS, LORA], ids=["last layers", "LoRA"])
def test_a_subprocess_gives_the_same_run_bit_for_bit(model, tmp_path, trained):
    recipe = {**RECIPE, **trained, "model_name_or_path": model}
    one = mixtures(2, 0).select([1])
    for executor in ("inline", "accelerate"):
        run_sweep(pool(), one, recipe, evaluation_sets(), tmp_path / executor, executor)
    inline, accelerate = (load_runs(tmp_path / e, examples=True) for e in ("inline", "accelerate"))
    assert accelerate["executor"][:] == ["accelerate"] and accelerate["status"][:] == ["done"]
    # Of an example of several turns, each turn's sum is rounded before they are added.
    rounded = ("executor", "example_nll_multi")
    assert comparable(accelerate, *rounded) == comparable(inline, *rounded)
    np.testing.assert_allclose(accelerate["example_nll_multi"][0], inline["example_nll_multi"][0], atol=1.1e-4)
    assert {path.name for path in (tmp_path / "accelerate").iterdir()} == {
        "sweep.json", "planned.json", "base.json", "runs", "locks",
    }  # fmt: skip


def test_ray_gives_the_same_runs(model, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="pip install 'hf-instructmine[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": model, "num_cpus": 1}
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), tmp_path / "ray", "ray")
        wrong = {**recipe, "expect_processes": 2}
        failed = run_sweep(pool(), mixtures(1, 0), wrong, evaluation_sets(), tmp_path / "failed", "ray")
    finally:
        ray.shutdown()
    run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), tmp_path / "inline")
    spread, inline = (load_runs(tmp_path / executor, examples=True) for executor in ("ray", "inline"))
    assert spread["executor"][:] == ["ray"] * 2
    rounded = ("executor", "example_nll_multi")
    assert comparable(spread, *rounded) == comparable(inline, *rounded)
    assert failed["status"][:] == ["failed"]
    assert failed["reason"][0].startswith("the number of processes should be 2, but is 1")


def test_the_run_of_a_ray_worker_that_is_killed_is_tried_once_more(model, tmp_path, monkeypatch, caplog):
    ray = pytest.importorskip("ray", reason="pip install 'hf-instructmine[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": model, "num_cpus": 1}
    command, tries = executors.Subprocess.command, []
    # The command's parent is its guard, and that one's parent the worker.
    kill = "import os, psutil; psutil.Process().parent().parent().kill()"

    def killing(self, indices, seed, folder):
        launch = command(self, indices, seed, folder)
        tries.append(seed)
        lethal = seed == 0 or tries == [1]
        return ([sys.executable, "-c", kill], *launch[1:]) if lethal else launch

    monkeypatch.setattr(executors.Subprocess, "command", killing)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        one_dies_once = mixtures(2, 0).select([1])
        runs = run_sweep(pool(), one_dies_once, recipe, evaluation_sets(), tmp_path / "once", "ray")
        assert runs["status"][:] == ["done"] and tries == [1, 1]
        tries.clear()
        with pytest.raises(InstructMineError, match="1 runs have no record: the machine stopped them twice"):
            run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "twice", "ray")
        assert tries == [0, 0]
    finally:
        ray.shutdown()
    assert "run mixture-001-seed1 was stopped by a fault of the machine (WorkerCrashedError" in caplog.text


def test_ray_is_asked_for_where_it_is_missing(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": model}
    with pytest.raises(InstructMineError, match="pip install 'hf-instructmine\\[ray\\]'"):
        run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "sweep", "ray")


def test_a_subprocess_that_fails_says_why_in_one_line(model, tmp_path):
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": model, "learning_rate": 1e30, "max_grad_norm": 0.0}
    runs = run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "sweep", "accelerate")
    assert runs["status"][:] == ["failed"]
    reason = runs["reason"][0]
    assert "lower the learning rate" in reason and reason.endswith("(exit code 1)") and "Traceback" not in reason


def test_the_last_error_of_a_command_is_its_reason(tmp_path):
    def reason_of(script: str) -> str:
        with pytest.raises(InstructMineError) as error:
            run_command([sys.executable, "-c", script], {"ANSWER": "42"}, tmp_path / "result.json")
        return str(error.value)

    assert reason_of("raise OSError(28, 'No space left')") == "OSError: [Errno 28] No space left (exit code 1)"
    assert reason_of("import sys; print('finetuning: no GPU'); print('bye'); sys.exit(3)") == "no GPU (exit code 3)"
    assert reason_of("import os; os.kill(os.getpid(), 9)") == "it said nothing (exit code 137)"
    assert reason_of("pass") == "it said nothing (exit code 0)"
    assert reason_of("import os; print('Error', os.environ['ANSWER'])") == "Error 42 (exit code 0)"


def _asleep(marker: str) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 1) for line in listed.splitlines()[1:]]
    return [int(pid) for pid, command in lines if command == f"sleep {marker}"]


def test_a_killed_sweep_takes_its_finetune_with_it(tmp_path):
    # `accelerate launch` starts processes of its own, which must end too.
    marker = f"600.{os.getpid()}"
    script = (
        "from pathlib import Path\nfrom hf_instructmine.sweep.executors import run_command\n"
        f"run_command(['sh', '-c', 'sleep {marker} & sleep {marker}; true'], {{}}, Path({str(tmp_path / 'r')!r}))\n"
    )
    sweep = subprocess.Popen([sys.executable, "-c", script])
    _wait_until(lambda: len(_asleep(marker)) == 2)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    _wait_until(lambda: not _asleep(marker))


def _wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_interrupt_ends_the_finetune_and_goes_on(tmp_path):
    marker = f"700.{os.getpid()}"
    script = (
        "import signal\nfrom pathlib import Path\nfrom hf_instructmine.sweep.executors import run_command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
        f"run_command(['sleep', '{marker}'], {{}}, Path({str(tmp_path / 'r')!r}))\n"
    )
    sweep = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    _wait_until(lambda: len(_asleep(marker)) == 1)
    sweep.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in sweep.communicate(timeout=30)[1]
    assert _asleep(marker) == []


def test_a_base_model_that_gives_no_numbers_stops_the_sweep(tmp_path):
    from transformers import AutoModelForCausalLM

    broken = tiny_sweep.save_model(tmp_path / "model")
    weights = AutoModelForCausalLM.from_pretrained(broken)
    weights.lm_head.weight.data[0, 0] = float("nan")
    weights.save_pretrained(broken)
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": broken}
    with pytest.raises(InstructMineError, match="the untrained model's loss on 'single' is nan"):
        run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "sweep")


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_what_needs_a_launcher_is_refused_where_there_is_none(executor):
    arguments = Recipe({**RECIPE, "model_name_or_path": "some/model"}).arguments()
    assert executors.Execution(executor).count_processes(arguments) == 1
    arguments.sft.deepspeed = "zero3.json"
    with pytest.raises(InstructMineError, match="need a launcher: set executor='accelerate'"):
        executors.Execution(executor).count_processes(arguments)


def test_a_search_and_a_comparison_hand_workers_on(monkeypatch):
    from hf_instructmine import compare_strategies, search_size

    asked = []

    def stopped(self):
        asked.append((self.executor, self.workers))
        raise InstructMineError("stopped")

    monkeypatch.setattr(executors.Execution, "__post_init__", stopped)
    scored = pool().add_column("output_length", [9] * 24)
    for call in (
        lambda: compare_strategies(scored, {"a": "random"}, {}, {}, "out", sizes=[6], executor="local", workers=2),
        lambda: search_size(scored, "rule", {}, {}, "out", min_size=3, executor="local", workers=2),
    ):
        with pytest.raises(InstructMineError, match="stopped"):
            call()
    assert asked == [("local", 2)] * 2


def test_the_executors_are_those_that_are_documented():
    assert executors.EXECUTORS == ("inline", "accelerate", "ray", "local")
    assert all(f'`"{name}"`' in run_sweep.__doc__ for name in executors.EXECUTORS)
