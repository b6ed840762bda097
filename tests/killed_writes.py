"""Everything that writes a folder, killed at random instants: by hand, or a few kills from a test.

    python killed_writes.py FOLDER KILLS [VERB…]

Each verb is killed so often, on one folder after another, and each folder is then finished. Whatever opens in between
is what an uninterrupted run gives, and so is the end; a user's own file in the folder stays. Processes are forks of
this one, so that what the kills meet is the work and not Python's start.
"""

import gc
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import tiny_sweep
import trl  # noqa: F401  (before the forks)
from datasets import Dataset, load_dataset
from killed_sweep import forked
from simulated_runs import simulated_runs
from tqdm.std import tqdm

from hf_instructmine import (
    MTLD,
    InstructMineError,
    LossEstimator,
    Selection,
    Selector,
    load_comparison,
    load_runs,
    run_sweep,
    score,
)
from hf_instructmine.estimator import card  # noqa: F401
from hf_instructmine.finetuning import trainer  # noqa: F401
from hf_instructmine.outputs import folder as output_folder


MINE = "my own notes"
RULES = [LossEstimator.from_coefficients({"mtld": sign * 0.01}, name=f"rule {sign}") for sign in (1, -1)]


@dataclass
class Verb:
    """Work that writes a folder.

    Attributes:
        work (`Callable[[Path, int], object]`): Does it; which of several, the number says.
        opened (`Callable[[Path], object]`): What the folder holds, in a form that can be compared. An
            [`InstructMineError`] where it holds nothing.
        partly (`Callable`, *optional*): Whether what is opened is a part of what it will be.
        rounds (`int`): How many different contents there are.
    """

    work: Callable[[Path, int], object]
    opened: Callable[[Path], object]
    partly: Callable[[object, object], bool] | None = None
    rounds: int = 1


def pool(rows: int = 3000) -> Dataset:
    texts = [" ".join(["one", "two", "three", "four", "five", "six"][: 1 + i % 6] * (1 + i % 30)) for i in range(rows)]
    return Dataset.from_dict({"prompt": [f"q{i}" for i in range(rows)], "completion": texts})


def scored() -> Dataset:
    return pool(200).add_column("mtld", [float(i * 7 % 50) for i in range(200)])


def open_scored(folder: Path) -> object:
    if not (folder / "indicators.json").exists():
        raise InstructMineError("not finished")
    rows = load_dataset("parquet", data_files=str(folder / "data/*.parquet"), split="train", keep_in_memory=True)
    return [rows.to_dict(), (folder / "report.json").read_text(), (folder / "indicators.json").read_text()]


def select(folder: Path, turn: int) -> None:
    Selector(RULES[turn]).select(scored(), size=20).save_to_disk(folder, overwrite=True)


def open_selection(folder: Path) -> object:
    found = Selection.load(folder)
    assert found.dataset.to_dict() == Dataset.from_parquet(str(folder / "data/*.parquet")).to_dict()
    return [found.dataset.to_dict(), found.estimator.to_json(), list(found.indices), found.asked]


def fit(folder: Path, turn: int) -> None:
    runs = simulated_runs(n=24, seed=turn)
    LossEstimator.fit(
        runs, permutations=0, bootstraps=5, select="none", indicators=["mtld", "reward"]
    ).save_pretrained(folder)


def open_rule(folder: Path) -> object:
    return LossEstimator.from_pretrained(folder).to_json()


def sweep(folder: Path, _: int) -> None:
    run_sweep(
        tiny_sweep.pool(),
        tiny_sweep.mixtures(6, replicates=2),
        {**tiny_sweep.RECIPE, **tiny_sweep.LAST_LAYERS, "cached_trunk": True, "model_name_or_path": MODEL},
        tiny_sweep.evaluation_sets(),
        folder,
    )


def compare(folder: Path, _: int) -> None:
    from test_compare import compare

    compare(MODEL, folder, sizes=[], tokens=[150], random_at=[], whole_pool=False)


def open_runs(folder: Path) -> object:
    rows = tiny_sweep.comparable(load_runs(folder))
    return {(row["mixture_id"], row["seed"]): rounded(row) for row in rows}


def open_comparison(folder: Path) -> object:
    found = load_comparison(folder)
    assert found.strategies == ["rule", "longest", "random"]
    return open_runs(folder)


def rounded(row: dict) -> dict:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def is_part(found: dict, whole: dict) -> bool:
    return found.items() <= whole.items()


VERBS = {
    "score": Verb(lambda folder, _: score(pool(), [MTLD()], folder), open_scored),
    "select": Verb(select, open_selection, rounds=2),
    "fit": Verb(fit, open_rule, rounds=2),
    "sweep": Verb(sweep, open_runs, is_part),
    "compare": Verb(compare, open_comparison, is_part),
}


def killed(verb: Verb, folder: Path, kills: int) -> dict[str, int]:
    """Kills it so often, and looks at what is there after each."""
    expected = []
    for turn in range(verb.rounds):
        began = time.perf_counter()
        assert os.waitpid(forked(verb.work, folder / f"whole-{turn}", turn), 0)[1] == 0
        patience = time.perf_counter() - began
        expected.append(verb.opened(folder / f"whole-{turn}"))
    counts = {"kills": 0, "folders": 0, "opened": 0, "refused": 0}
    while counts["kills"] < kills:
        output, turn = folder / f"killed-{counts['folders']}", 0
        counts["folders"] += 1
        if verb.rounds > 1:  # the next write over what is there
            assert os.waitpid(forked(verb.work, output, turn), 0)[1] == 0
        while counts["kills"] < kills:
            turn = (turn + 1) % verb.rounds
            process = forked(verb.work, output, turn)
            time.sleep(random.uniform(0.3 if verb.rounds > 1 else 0, 1.1) * patience)
            os.kill(process, signal.SIGKILL)
            done = os.waitpid(process, 0)[1] == 0
            counts["kills"] += not done
            if output.is_dir() and any(output.iterdir()):
                (output / "notes.txt").write_text(MINE)
            look(verb, output, expected, counts)
            if done and random.random() < 0.5:
                break
        assert os.waitpid(forked(verb.work, output, turn), 0)[1] == 0, "what a kill left was not accepted"
        assert verb.opened(output) == expected[turn]
        assert (output / "notes.txt").read_text() == MINE
        shutil.rmtree(output)
    return counts


def look(verb: Verb, folder: Path, expected: list, counts: dict[str, int]) -> None:
    try:
        found = verb.opened(folder)
    except InstructMineError as error:
        assert "\n" not in str(error)
        counts["refused"] += 1
        return
    counts["opened"] += 1
    assert any(found == whole or (verb.partly is not None and verb.partly(found, whole)) for whole in expected), folder


def move_slowly() -> None:
    """Most kills are to meet the moment that takes the least time: when files are moved."""
    replace, rename = os.replace, os.rename

    def slow(*paths: object) -> None:
        time.sleep(0.02)
        replace(*paths)

    def slow_rename(*paths: object) -> None:
        time.sleep(0.02)
        rename(*paths)

    output_folder.os.replace, output_folder.os.rename = slow, slow_rename


if __name__ == "__main__":
    tqdm.set_lock(threading.RLock())  # tqdm's own is shared by all forks: one that is killed with it would stop them
    datasets.disable_progress_bars()
    random.seed(0)
    ROOT, KILLS, NAMES = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(VERBS)
    sys.path.insert(0, str(Path(__file__).parent / "comparison"))
    MODEL = tiny_sweep.save_model(ROOT / "model")
    move_slowly()
    gc.freeze()
    for NAME in NAMES:
        print(json.dumps({NAME: killed(VERBS[NAME], ROOT / NAME, KILLS)}), flush=True)
