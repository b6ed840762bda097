"""Scoring that is killed at random instants: by hand, or a few kills from a test.

    python killed_scoring.py FOLDER KILLS [local|two|ray] [SEED]

One process is killed with its whole group; or one of two that work on one folder; or, under Ray, the driver, an actor,
or the raylet of the second of two nodes. What was killed is started again, until the folder is finished: each score's
bytes, the report and `indicators.json` are then those of an uninterrupted run. One line a kill, and one at the end.
Processes are forks of this one, so that what the kills meet is the work and not Python's start.
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
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import datasets
import psutil
from datasets import Dataset, load_dataset
from tiny_models import byte_tokenizer, causal_model, save
from tqdm.std import tqdm

import hf_instructmine as him
from hf_instructmine.indicators import lengths, mtld, perplexity, shard_sizes  # noqa: F401  (before the forks)
from hf_instructmine.models import engine  # noqa: F401


ROWS, SHARD = 400, 25
# Seconds that what is left alone may take.
PATIENCE = 300


def work(pool: Dataset, model: str, folder: Path, **options) -> None:
    """Scores the pool with an indicator of each kind."""
    indicators = [him.MTLD(), him.OutputLength(tokenizer=model), him.Perplexity(model, token_budget=512)]
    him.score(pool, indicators, folder, **options)


def started(call: Callable, *arguments, **options) -> int:
    """Calls it in a process with a group of its own, and returns that one's id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()
        call(*arguments, **options)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(process: int, patience: float = PATIENCE) -> int | None:
    """How it ended, None where it still runs after so many seconds."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return os.waitpid(process, 0)[1]
        time.sleep(0.01)
    return None


def opened(folder: Path) -> list:
    """All that a finished folder says, with the bytes of each score."""
    rows = load_dataset("parquet", data_files=str(folder / "data/*.parquet"), split="train", keep_in_memory=True)
    names = json.loads((folder / "indicators.json").read_text())
    scores = [rows.data.column(name).to_numpy().tobytes() for name in sorted(names)]
    others = rows.remove_columns(list(names)).to_dict()
    return [scores, others, *((folder / name).read_text() for name in ("indicators.json", "report.json"))]


def told(**line) -> None:
    """Prints a line."""
    print(json.dumps(line), flush=True)


class Nodes:
    """A Ray cluster of two nodes with a CPU each, kept by a process of its own."""

    def __init__(self):
        command = [sys.executable, __file__, "cluster"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address, self.raylet = self._line()

    def _line(self) -> list:
        for line in self.process.stdout:
            if line.startswith("["):
                return json.loads(line)
        raise AssertionError("the cluster did not start")

    def actors(self) -> list[psutil.Process]:
        """The processes that score."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [child] if "_Scorer" in " ".join(child.cmdline()) else []
        return found

    def another(self) -> None:
        """Starts a second node in place of the one that was killed."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        _, self.raylet = self._line()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)


def keep_cluster() -> None:
    """Starts the cluster, and another second node for each line that it reads."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    quickly = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 4,
    }
    quickly["prestart_worker_first_driver"] = False  # processes that nobody asked for
    cluster = Cluster(initialize_head=True, head_node_args={**small, "_system_config": quickly})
    while True:
        node = cluster.add_node(num_cpus=1, object_store_memory=small["object_store_memory"])
        raylet = node.all_processes["raylet"][0].process.pid
        print(json.dumps([cluster.address, raylet]), flush=True)
        if not sys.stdin.readline():
            break
        cluster.remove_node(node, allow_graceful=False)
    cluster.shutdown()


def killed_alone(begin: Callable[[], int], kills: int, wait: float) -> int:
    """Kills a process with its group until it comes to its end, at most so often; returns how often it was."""
    done = 0
    while True:
        process = begin()
        if done < kills:
            after = random.uniform(0, 0.6 * wait)
            time.sleep(after)
            if ended(process, 0.001) == 0:
                return done
            os.killpg(process, signal.SIGKILL)
            done += 1
            told(of="the process", after=round(after, 2))
        status = ended(process)
        assert status is not None, "it did not end"
        if status == 0:
            return done
        assert os.WIFSIGNALED(status), f"it failed: {status}"


def killed_of_two(begin: Callable[[], int], kills: int, wait: float) -> int:
    """The same with two processes at once, of which one or the other is killed and started again."""
    running, done, until = {begin(), begin()}, 0, time.monotonic() + PATIENCE
    while running:
        time.sleep(random.uniform(0, wait) if done < kills else 0.05)
        for process in list(running):
            status = ended(process, 0.001)
            if status is not None:
                assert status == 0, f"it failed: {status}"
                running.remove(process)
        if running and done < kills:
            victim = random.choice(sorted(running))
            os.killpg(victim, signal.SIGKILL)
            running.remove(victim)
            if os.waitpid(victim, 0)[1] == 0:  # it came to its end in this instant
                continue
            done, until = done + 1, time.monotonic() + PATIENCE
            told(of="one of two", beside=len(running))
            running.add(begin())
        assert time.monotonic() < until, "two processes wait for each other"
    return done


def killed_under_ray(begin: Callable[[], int], kills: int, wait: float, nodes: Nodes) -> int:
    """The same with a driver of Ray, whose actors and second node are killed too, and are not started by us."""
    process, done, until = begin(), 0, time.monotonic() + PATIENCE
    while True:
        time.sleep(random.uniform(0, 0.5 * wait) if done < kills else 0.05)
        status = ended(process, 0.001)
        if status is not None:
            assert status == 0, f"it failed: {status}"
            return done
        if done < kills:
            actors = nodes.actors()
            victim = random.choice(["the driver", "the driver", "a node", *["an actor"] * bool(actors)])
            done, until = done + 1, time.monotonic() + PATIENCE
            told(of=victim, actors=len(actors))
            if victim == "an actor":
                random.choice(actors).kill()
            elif victim == "a node":
                os.kill(nodes.raylet, signal.SIGKILL)
                nodes.another()
            else:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
                process = begin()
        assert time.monotonic() < until, "it did not end"


def main(root: Path, kills: int, mode: str, seed: int) -> None:
    """Kills so often, on one folder after another, and compares each with the uninterrupted one."""
    random.seed(seed)
    root.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer()
    model = save(root / "model", causal_model("llama", tokenizer), tokenizer)
    pool = him.load_sample_pool().select(range(ROWS))
    nodes = Nodes() if mode == "ray" else None
    options = {} if nodes is None else {"executor": "ray", "address": nodes.address}
    gc.freeze()
    began = time.monotonic()
    assert ended(started(work, pool, model, root / "whole")) == 0
    alone, took, folders, counts = opened(root / "whole"), time.monotonic() - began, 0, Counter()
    if nodes is not None:  # all of it once, which tells how long that takes
        began = time.monotonic()
        assert ended(started(work, pool, model, root / "by-ray", **options)) == 0
        assert opened(root / "by-ray") == alone
        took = time.monotonic() - began
    run = {"local": killed_alone, "two": killed_of_two, "ray": lambda *given: killed_under_ray(*given, nodes)}[mode]
    began = time.monotonic()
    while counts["kills"] < kills:
        folder = root / f"killed-{folders}"
        folders += 1
        # Of a folder a few, so that many begin and many end.
        most = min(kills - counts["kills"], random.randint(1, 6))
        counts["kills"] += run(lambda folder=folder: started(work, pool, model, folder, **options), most, took)
        assert opened(folder) == alone, f"{folder} is another"
    if nodes is not None:
        nodes.close()
    told(mode=mode, seed=seed, kills=counts["kills"], folders=folders, equal=folders, rows=ROWS,
         uninterrupted_s=round(took, 1), seconds=round(time.monotonic() - began))  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "cluster":
        keep_cluster()
    else:
        tqdm.set_lock(threading.RLock())  # tqdm's own is shared by all forks: one that is killed would stop them
        datasets.disable_progress_bars()
        shard_sizes.CPU_ROWS = SHARD
        main(Path(sys.argv[1]), int(sys.argv[2]), (sys.argv[3:] or ["local"])[0], int((sys.argv[4:] or [0])[0]))
