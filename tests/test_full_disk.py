"""A full disk, at twenty sizes: one line each, nothing half, and the same call goes on once there is room.

A limit on the size of a file stands in for a full disk.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of a file stands for a full disk")

CHILD = """
import json, resource, sys, warnings
from pathlib import Path
import hf_instructmine as him
from datasets import Dataset
from hf_instructmine.sweep.design import design_once

warnings.simplefilter("ignore")
RULE = him.LossEstimator.from_coefficients({"mtld": 0.01})
SCORED = Dataset.from_dict(
    {
        "prompt": [f"q{i}" for i in range(300)],
        "completion": [f"{i} " * 30 for i in range(300)],
        "mtld": [float(i * 7 % 50) for i in range(300)],
    }
)

def fit(folder):
    RULE.save_pretrained(folder)

def save(folder):
    him.Selector(RULE).select(SCORED, size=150).save_to_disk(folder, overwrite=True)

def design(folder):
    design_once(SCORED, folder, num_runs=4, subset_size=40, replicates=0, seed=0)

def sweep(folder):
    sys.path.insert(0, sys.argv[3])
    import tiny_sweep
    model = folder.parent / "model"
    if not model.exists():
        tiny_sweep.save_model(model)
    recipe = {**tiny_sweep.RECIPE, **tiny_sweep.LAST_LAYERS, "cached_trunk": True, "model_name_or_path": str(model)}
    him.run_sweep(tiny_sweep.pool(), tiny_sweep.mixtures(2, 0), recipe, tiny_sweep.evaluation_sets(), folder)

work, whole, folder = globals()[sys.argv[1]], Path(sys.argv[2], "whole"), Path(sys.argv[2], "out")
work(whole)
largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
told = []
for k in range(20):
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest * k // 20, resource.RLIM_INFINITY))
    try:
        work(folder)
    except him.InstructMineError as error:
        told.append(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    held = sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []
    print(json.dumps([told[-1] if len(told) > k else None, held]), flush=True)
work(folder)
"""


def attempts(work: str, folder: Path) -> list[tuple[str | None, list[str]]]:
    """What each of twenty attempts said, and what it left."""
    command = [sys.executable, "-c", CHILD, work, str(folder), str(Path(__file__).parent)]
    environment = {**os.environ, "MPLCONFIGDIR": str(folder / "mpl")}
    child = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert child.returncode == 0, child.stderr[-2000:]
    return [tuple(json.loads(line)) for line in child.stdout.splitlines()]


@pytest.mark.parametrize("work", ["fit", "save"])
def test_a_folder_is_there_whole_or_not_at_all(tmp_path, work):
    found = attempts(work, tmp_path)
    assert len(found) == 20
    for said, held in found:
        assert said is not None and "\n" not in said and "could not write" in said and "nothing was kept" in said
        assert held == []
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(tmp_path / "whole"))
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("work", ["design", "sweep"])
def test_what_is_finished_is_kept_and_the_rest_is_one_line(tmp_path, work):
    found = attempts(work, tmp_path)
    assert len(found) == 20
    for said, held in found:
        assert said is not None and "\n" not in said and "cannot write" in said and "what is finished is kept" in said
        assert not [name for name in held if Path(name).name.startswith(".")]

    def files(name: str) -> list[str]:
        return sorted(str(p.relative_to(tmp_path / name)) for p in (tmp_path / name).rglob("*") if p.suffix != ".lock")

    assert files("out") == files("whole")
