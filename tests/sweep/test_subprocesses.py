"""A finetune in a process of its own: what it is handed, and who is to blame where it ends early."""

import sys
from pathlib import Path

import pytest
import tiny_sweep
from datasets import Dataset
from tiny_sweep import LAST_LAYERS, RECIPE, comparable, evaluation_sets, mixtures, pool

from hf_instructmine import InstructMineError, load_runs, run_sweep
from hf_instructmine.sweep.faults import MachineError
from hf_instructmine.sweep.subprocesses import run_command


LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
ONE = ["--num_processes", "1", "--cpu"]
TWO = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


def error_of(tmp_path: Path, script: str, launched: list[str]) -> InstructMineError:
    """What comes of a script in the place of the finetune."""
    (tmp_path / "script.py").write_text(script)
    with pytest.raises(InstructMineError) as error:
        command = [*launched, str(tmp_path / "script.py")]
        run_command(command, {"ACCELERATE_USE_CPU": "true"}, tmp_path / "result.json")
    assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)
    return error.value


@pytest.mark.parametrize("flags", [ONE, TWO], ids=["one process", "two processes"])
def test_a_finetune_that_the_system_kills_is_no_failure_of_the_run(tmp_path, flags):
    error = error_of(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", [*LAUNCH, *flags])
    assert isinstance(error, MachineError)
    assert str(error).startswith("its process was killed by the signal ")


@pytest.mark.parametrize("flags", [ONE, TWO], ids=["one process", "two processes"])
def test_a_finetune_that_ends_with_an_error_is_one(tmp_path, flags):
    script = "import sys\nprint('finetuning: the loss became nan', file=sys.stderr)\nsys.exit(1)"
    error = error_of(tmp_path, script, [*LAUNCH, *flags])
    assert type(error) is InstructMineError
    assert str(error) == "the loss became nan (exit code 1)"


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("raise ConnectionResetError(104, 'reset by peer')", MachineError),
        ("raise OSError(28, 'No space left on device')", MachineError),
        ("raise RuntimeError('CUDA error: unspecified launch failure')", MachineError),
        ("raise RuntimeError('CUDA error: out of memory')", InstructMineError),
        ("import sys; sys.exit('finetuning: cannot load the base model: no network')", MachineError),
        ("raise ValueError('odd')", InstructMineError),
        ("import os; os.abort()", MachineError),
    ],
)
def test_the_machine_is_told_apart_by_what_was_said(tmp_path, script, kind):
    assert type(error_of(tmp_path, script, [sys.executable])) is kind


def test_texts_reach_the_finetune_as_they_are(tmp_path):
    # A reader of files would take these answers for dates, and so train on other texts.
    answers = [f"2021-03-{day:02d}" for day in range(1, 25)]
    dates = Dataset.from_dict({"prompt": pool()["prompt"][:], "completion": answers})
    sets = {"dates": dates.select(range(4)), "multi": evaluation_sets()["multi"]}
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": tiny_sweep.save_model(tmp_path / "model")}
    for executor in ("inline", "accelerate"):
        run_sweep(dates, mixtures(1, 0), recipe, sets, tmp_path / executor, executor)
    inline, accelerate = (load_runs(tmp_path / name, examples=True) for name in ("inline", "accelerate"))
    assert accelerate["status"][:] == ["done"]
    assert comparable(accelerate, "executor") == comparable(inline, "executor")
