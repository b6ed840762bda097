"""Workers side by side: each run is trained once, whoever dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_sweep
from tiny_sweep import LAST_LAYERS, RECIPE, comparable, evaluation_sets, mixtures, pool

from hf_instructmine import InstructMineError, load_runs, run_sweep
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.sweep import local
from hf_instructmine.sweep.local import worker_environments


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict:
    return {**RECIPE, **LAST_LAYERS, "model_name_or_path": tiny_sweep.save_model(tmp_path_factory.mktemp("model"))}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """A worker has one, as this process has in these tests: sums of other splits round otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    yield
    torch.set_num_threads(before)


def test_workers_give_the_runs_of_one_process_and_leave_nothing(recipe, tmp_path):
    design, trunk = mixtures(4, 1), {**recipe, "cached_trunk": True}
    run_sweep(pool(), design, trunk, evaluation_sets(), tmp_path / "inline")
    runs = run_sweep(pool(), design, trunk, evaluation_sets(), tmp_path / "local", "local", workers=2)
    assert runs["executor"][:] == ["local"] * 5 and runs["processes"][:] == [1] * 5
    one, many = (load_runs(tmp_path / name, examples=True) for name in ("inline", "local"))
    assert comparable(many, "executor") == comparable(one, "executor")
    left = {path.name for path in (tmp_path / "local").iterdir()}
    assert left == {"sweep.json", "planned.json", "base.json", "runs", "locks"}


def test_a_failed_run_is_told_and_tried_again_once_whoever_comes_by(recipe, tmp_path, caplog):
    wild = {**recipe, "learning_rate": 5.0, "max_grad_norm": 0.0}
    given = pool(), mixtures(1, 0), wild, evaluation_sets(), tmp_path / "sweep", "local"
    for again in (False, True):
        caplog.clear()
        runs = run_sweep(*given, workers=2, retry_failed=again)
        assert runs["status"][:] == ["failed"]
        told = [r.getMessage() for r in caplog.records if "mixture-000-seed0 failed: diverged" in r.getMessage()]
        assert len(told) == 1


def workers_of(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


class Killed:
    """Kills a worker once it has begun a run of this name, so many times."""

    def __init__(self, monkeypatch, run_id: str, times: int):
        self.left, start = times, local._Worker.start

        def started(request, environment, events):
            worker = start(request, environment, _Put(events, self, run_id))
            return worker

        monkeypatch.setattr(local._Worker, "start", started)


class _Put:
    def __init__(self, events, killed, run_id):
        self.events, self.killed, self.run_id = events, killed, run_id

    def put(self, told):
        worker, event = told
        if event.get("started") == self.run_id and self.killed.left:
            self.killed.left -= 1
            os.kill(worker.process.pid, signal.SIGKILL)
        self.events.put(told)


def test_the_run_of_a_worker_that_is_killed_goes_to_another(recipe, tmp_path, monkeypatch, caplog):
    undisturbed = run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "undisturbed")
    Killed(monkeypatch, "mixture-001-seed1", 1)
    runs = run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "sweep", "local")
    assert comparable(runs, "executor") == comparable(undisturbed, "executor")
    assert "run mixture-001-seed1 was stopped by a fault of the machine (its process was killed" in caplog.text


def test_a_run_that_costs_two_workers_is_left_without_a_record(recipe, tmp_path, monkeypatch, caplog):
    Killed(monkeypatch, "mixture-000-seed0", 2)
    runs = run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), tmp_path / "sweep", "local")
    assert runs["mixture_id"][:] == ["mixture-001"]
    assert "1 runs have no record: the machine stopped them twice, mixture-000-seed0" in caplog.text


def test_workers_that_cannot_work_stop_the_sweep_in_one_line(recipe, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    broken = tiny_sweep.save_model(tmp_path / "model")
    weights = AutoModelForCausalLM.from_pretrained(broken)
    weights.lm_head.weight.data[0, 0] = float("nan")
    weights.save_pretrained(broken)
    given = pool(), mixtures(1, 0), {**recipe, "model_name_or_path": broken}, evaluation_sets(), tmp_path / "sweep"
    with pytest.raises(InstructMineError, match="the untrained model's loss on 'single' is nan"):
        run_sweep(*given, "local")
    monkeypatch.setattr(local.sys, "executable", "false")
    with pytest.raises(InstructMineError, match="workers of executor='local' end before they can train: it said"):
        run_sweep(*given, "local")


def test_killed_at_random_instants_it_ends_as_if_nothing_had_happened(tmp_path):
    # `python tests/killed_sweep.py kill-workers FOLDER 20` does it twenty times.
    script = Path(__file__).parents[1] / "killed_sweep.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, str(script), "kill-workers", str(tmp_path), "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills = json.loads((tmp_path / "kills.json").read_text())
    assert sum(kills) == 2
    undisturbed = load_runs(tmp_path / "uninterrupted", examples=True)
    for number in range(len(kills)):
        assert comparable(load_runs(tmp_path / f"killed-{number}", examples=True)) == comparable(undisturbed)
    assert {path.name for path in (tmp_path / "killed-0").iterdir()} == {
        "sweep.json", "planned.json", "base.json", "runs", "locks",
    }  # fmt: skip


def test_workers_end_with_the_sweep_that_started_them(recipe, tmp_path):
    script = (
        "import sys, json\nsys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\nimport tiny_sweep as t\n"
        "from hf_instructmine import run_sweep\n"
        "run_sweep(t.pool(), t.mixtures(), json.loads(sys.argv[2]), t.evaluation_sets(), sys.argv[3], 'local', "
        "workers=2)\n"
    )
    arguments = [str(Path(__file__).parents[1]), json.dumps({**recipe, "num_train_epochs": 500}), str(tmp_path / "s")]
    sweep = subprocess.Popen([sys.executable, "-c", script, *arguments], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(list((tmp_path / "s" / "locks").glob("mixture-*"))) < 2:  # both are at a run
        assert time.monotonic() < end and sweep.poll() is None
        time.sleep(0.05)
    workers = workers_of(sweep.pid)
    assert len(workers) == 2
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    while any(Path(f"/proc/{pid}").exists() and b"worker" in _command(pid) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.05)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()  # nothing for one that has ended
    except (FileNotFoundError, ProcessLookupError):
        return b""


class _Gpu:
    """What a recipe for four GPUs looks like, which no machine of the tests has."""

    class sft:
        class device:
            type = "cuda"


def test_each_worker_has_a_gpu_of_its_own_or_its_share_of_the_cores(recipe, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices = [e["CUDA_VISIBLE_DEVICES"] for e in worker_environments(_Gpu, None)]
    assert devices == ["0", "1", "2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-7f")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in worker_environments(_Gpu, None)] == ["2", "GPU-7f"]
    assert len(worker_environments(_Gpu, 1)) == 1
    with pytest.raises(InstructMineError, match="workers is 3, but 2 GPUs are visible"):
        worker_environments(_Gpu, 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    arguments = Recipe(recipe).arguments()
    assert worker_environments(arguments, None) == [{"OMP_NUM_THREADS": "8"}]
    assert worker_environments(arguments, 3) == [{"OMP_NUM_THREADS": "2"}] * 3


@pytest.mark.parametrize("given", [{"workers": 2}, {"executor": "local", "workers": 0}])
def test_workers_are_for_local_and_at_least_one(recipe, tmp_path, given):
    with pytest.raises(InstructMineError, match="workers is the number, at least 1, of processes of executor='local'"):
        run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "sweep", **given)
