"""What a run of a sweep costs, and how much of that is training and evaluating: in one process against one for each.

    python benchmarks/sweep.py [--runs 3] [--rows 32] [--recipe smollm2-135m-cpu-last-layers]

Prints a Markdown table. Times are of the clock: let nothing else run. Rows, evaluation set and model are the bundled
ones; all ways train on the same subsets and must agree on the losses.
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import disable_progress_bars

from hf_instructmine import load_sample_evaluation, load_sample_pool, smollm2_135m
from hf_instructmine.data.conversation import read_conversations
from hf_instructmine.data.evaluation_sets import EvaluationSet
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.sweep.executors import Inline, Subprocess


@dataclass
class Cost:
    """Seconds: `once` before the first run, and of each run in all, training and evaluating."""

    once: float
    runs: np.ndarray
    training: np.ndarray
    evaluating: np.ndarray
    losses: np.ndarray

    def line(self, way: str, runs_of_a_sweep: int = 28) -> str:
        run, training, evaluating = (values.mean() for values in (self.runs, self.training, self.evaluating))
        rest = run - training - evaluating
        sweep = self.once + runs_of_a_sweep * run
        cells = [f"{seconds:.1f} ({seconds / run:.0%})" for seconds in (training, evaluating, rest)]
        working = runs_of_a_sweep * (training + evaluating) / sweep
        return " | ".join(
            [f"| {way}", f"{run:.1f}", *cells, f"{self.once:.1f}", f"{sweep / 60:.1f}", f"{working:.0%} |"]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="smollm2-135m-cpu-last-layers")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--model", help="folder or Hub id; SmolLM2-135M-Instruct from its PyPI package if not given")
    args = parser.parse_args()
    disable_progress_bars()
    settings = {**Recipe.load(args.recipe).settings, "model_name_or_path": args.model or smollm2_135m()}
    whole = Recipe({**settings, "cached_trunk": False})
    pool = load_sample_pool()
    rng = np.random.default_rng(0)
    subsets = [sorted(rng.choice(len(pool), args.rows, replace=False).tolist()) for _ in range(args.runs)]
    numbers = sorted({i for subset in subsets for i in subset})
    rows = dict(zip(numbers, read_conversations(pool[numbers])))
    sets = {"evaluation": EvaluationSet.read("evaluation", load_sample_evaluation())}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        costs = {}
        if settings.get("cached_trunk"):
            cached = Recipe(settings)
            costs["inline, cached trunk"] = measure(lambda: Inline(cached, sets, rows, folder), subsets, folder)
        costs["inline"] = measure(lambda: Inline(whole, sets, rows, folder), subsets, folder)
        costs["accelerate"] = measure(lambda: Subprocess(whole, sets, rows), subsets, folder)
    print(f"{args.runs} runs of {args.rows} rows each, {os.cpu_count()} CPUs, {Path(args.recipe).name}")
    print("\n| executor | seconds a run | training | evaluating | the rest | once | minutes for 28 runs | at work |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for way, cost in costs.items():
        print(cost.line(way))
    apart = max(np.abs(cost.losses - costs["inline"].losses).max() for cost in costs.values())
    print(f"\nLosses differ by at most {apart:.1g}.")


def measure(start: Any, subsets: list[list[int]], folder: Path) -> Cost:
    """Starts an executor and runs every subset."""
    started = time.perf_counter()
    engine = start()
    engine.base()
    once = time.perf_counter() - started
    seconds, results = [], []
    for seed, subset in enumerate(subsets):
        started = time.perf_counter()
        results.append(engine.run(subset, seed, folder / f"run-{seed}"))
        seconds.append(time.perf_counter() - started)
    training, evaluating = (np.array([r[f"seconds_{part}"] for r in results]) for part in ("training", "evaluating"))
    return Cost(once, np.array(seconds), training, evaluating, np.array([r["losses"]["evaluation"] for r in results]))


if __name__ == "__main__":
    main()
