"""Sweeps in processes of their own: killed at random instants, or several on one folder.

    python killed_sweep.py kill FOLDER KILLS
    python killed_sweep.py kill-workers FOLDER KILLS
    python killed_sweep.py together FOLDER PROCESSES

Everything heavy is imported once; each process is a fork of this one, so that what the kills meet is the sweep and not
Python's start.
"""

import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import tiny_sweep
import trl  # noqa: F401  (before the forks)
from tqdm.std import tqdm

from hf_instructmine import run_sweep
from hf_instructmine.finetuning import trainer  # noqa: F401
from hf_instructmine.sweep import executors


def sweep(folder: Path, model: str, **options) -> None:
    """Eight runs over a cached trunk."""
    run_sweep(
        tiny_sweep.pool(),
        tiny_sweep.mixtures(6, replicates=2),
        {**tiny_sweep.RECIPE, **tiny_sweep.LAST_LAYERS, "cached_trunk": True, "model_name_or_path": model},
        tiny_sweep.evaluation_sets(),
        folder,
        **options,
    )


def forked(work: Callable, *arguments) -> int:
    """Calls `work` in a process of its own, and returns that one's id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        work(*arguments)
        status = 0
    finally:
        os._exit(status)


def kill(folder: Path, kills: int) -> None:
    """Kills sweeps until so many kills have met one that was not done, and lets each come to its end."""
    random.seed(0)
    model = tiny_sweep.save_model(folder / "model")
    gc.freeze()
    started = time.perf_counter()
    assert os.waitpid(forked(sweep, folder / "uninterrupted", model), 0)[1] == 0
    patience = (time.perf_counter() - started) / 2
    met: list[int] = []
    while sum(met) < kills:
        met.append(0)
        while True:
            process = forked(sweep, folder / f"killed-{len(met) - 1}", model)
            if sum(met) < kills:
                time.sleep(random.uniform(0, patience))
                os.kill(process, signal.SIGKILL)
            status = os.waitpid(process, 0)[1]
            if status == 0:
                patience *= 0.8  # the first sweep may have been slow, with a cold cache: most kills are to meet a run
                break
            assert os.WIFSIGNALED(status), f"the sweep failed: {status}"
            met[-1] += 1
    (folder / "kills.json").write_text(json.dumps(met))


def kill_workers(folder: Path, kills: int) -> None:
    """The same with two workers: each kill ends one of them, or the sweep itself. A sweep that gave up, as its workers
    were killed too often, is called again."""
    random.seed(0)
    model = tiny_sweep.save_model(folder / "model")
    gc.freeze()
    two_workers = partial(sweep, executor="local", workers=2)
    started = time.perf_counter()
    assert os.waitpid(forked(two_workers, folder / "uninterrupted", model), 0)[1] == 0
    patience = (time.perf_counter() - started) / 2
    met: list[int] = []
    while sum(met) < kills:
        met.append(0)
        output = folder / f"killed-{len(met) - 1}"
        while True:
            process = forked(two_workers, output, model)
            while sum(met) < kills:
                time.sleep(random.uniform(0, patience))
                if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    break
                victim = random.choice([process, *children_of(process)])
                os.kill(victim, signal.SIGKILL)
                met[-1] += 1
                print("killed", "the sweep" if victim == process else "a worker", flush=True)
            status = os.waitpid(process, 0)[1]
            assert status == 0 or met[-1], f"a sweep failed that was left alone: {status}"
            if status == 0 and len(list((output / "runs").glob("*.json"))) == 8:
                break
    (folder / "kills.json").write_text(json.dumps(met))


def children_of(process: int) -> list[int]:
    """The ids of its workers."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


def together(folder: Path, processes: int) -> None:
    """Starts so many sweeps on one folder at once; each notes the runs that it trains."""
    model = tiny_sweep.save_model(folder / "model")
    train = executors.Inline.run

    def noted(self, indices, seed, run_folder):
        with (folder / "trained").open("a") as file:
            file.write(f"{run_folder.name}\n")
        return train(self, indices, seed, run_folder)

    executors.Inline.run = noted
    started = [forked(sweep, folder / "sweep", model) for _ in range(processes)]
    assert [os.waitpid(process, 0)[1] for process in started] == [0] * processes


if __name__ == "__main__":
    tqdm.set_lock(threading.RLock())  # tqdm's own is shared by all forks: one that is killed with it would stop them
    {"kill": kill, "kill-workers": kill_workers, "together": together}[sys.argv[1]](
        Path(sys.argv[2]), int(sys.argv[3])
    )
