"""Size searches in processes of their own, killed at random instants and started again until they come to their end.

    python killed_search.py FOLDER KILLS

Each process is a fork of this one, as in killed_sweep.py. What is trained is noted beforehand, and what is recorded
afterwards, so that a run that is trained again although its record was there shows.
"""

import gc
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import tiny_sweep
import trl  # noqa: F401  (before the forks)
from killed_sweep import forked
from tqdm.std import tqdm

from hf_instructmine import LossEstimator, Selector, search_size
from hf_instructmine.finetuning import trainer  # noqa: F401
from hf_instructmine.outputs.records import Records
from hf_instructmine.search import blend_search  # noqa: F401
from hf_instructmine.sweep import executors


def search(folder: Path, model: str, log: Path) -> None:
    """Ten runs of the grid and five trials, over a cached trunk."""
    train = executors.Inline.run

    def noted(self, indices, seed, run_folder):
        recorded = Records(folder / "sweep").path_of(run_folder.name).exists()
        with log.open("a") as file:
            file.write(f"{run_folder.name} {'again' if recorded else 'first'}\n")
        return train(self, indices, seed, run_folder)

    executors.Inline.run = noted
    search_size(
        tiny_sweep.pool(),
        Selector(LossEstimator.from_coefficients({"reward": -1.0})),
        {**tiny_sweep.RECIPE, **tiny_sweep.LAST_LAYERS, "cached_trunk": True, "model_name_or_path": model},
        tiny_sweep.evaluation_sets(),
        folder,
        min_size=3,
        max_size=18,
        num_trials=5,
        grid_seeds=2,
        full_pool=False,
    )


def main(folder: Path, kills: int) -> None:
    random.seed(0)
    model = tiny_sweep.save_model(folder / "model")
    gc.freeze()
    started = time.perf_counter()
    assert os.waitpid(forked(search, folder / "uninterrupted", model, folder / "uninterrupted.log"), 0)[1] == 0
    patience = (time.perf_counter() - started) / 4
    met: list[int] = []
    while sum(met) < kills:
        met.append(0)
        folder_of_kills = folder / f"killed-{len(met) - 1}"
        while True:
            process = forked(search, folder_of_kills, model, folder / f"{folder_of_kills.name}.log")
            if sum(met) < kills:
                time.sleep(random.uniform(0, patience))
                os.kill(process, signal.SIGKILL)
            status = os.waitpid(process, 0)[1]
            if status == 0:
                patience *= 0.5  # the first search may have been slow: most kills are to meet one that is not done
                break
            assert os.WIFSIGNALED(status), f"the search failed: {status}"
            met[-1] += 1
    (folder / "kills.json").write_text(json.dumps(met))


if __name__ == "__main__":
    tqdm.set_lock(threading.RLock())  # tqdm's own is shared by all forks: one that is killed with it would stop them
    main(Path(sys.argv[1]), int(sys.argv[2]))
