"""What a user of the wheel gets, tried as they would: `make wheel-check`, and `make wheel-check DIST=dist` keeps both.

Builds the source distribution, and the wheel from that; installs the wheel in an environment of its own; and runs the
README's commands in small from an empty folder. torch stands in the constraints, so no other build of it comes.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path


ROOT = Path(__file__).parents[1]
ENVIRONMENT = ROOT / ".venv-wheel"
BIN = ENVIRONMENT / "bin"
FOLDERS = ("recipes", "metrics")

PUBLIC_NAMES = """
import hf_instructmine as him

assert all(getattr(him, name) is not None for name in him.__all__)
print(len(him.__all__), "public names")
"""
RECIPES = """
from hf_instructmine.finetuning.recipe import Recipe

assert Recipe.load("smollm2-135m-cpu-last-layers").settings["train_last_layers"]
"""
METRICS = """
import evaluate
import hf_instructmine as him

values = evaluate.load(him.metric_path("mtld")).compute(predictions=["one two three four five six one two three four"])
assert values["mtld"][0] > 0, values
"""
SWEEP = """
from hf_instructmine.cli import demo

assert len(demo.recorded_runs()) >= 28
"""
RULE = """
import hf_instructmine as him

him.LossEstimator.from_coefficients({"intercept": 1.0, "mtld": -0.01}, name="by hand").save_pretrained("rule")
"""
OPENED = """
from datasets import load_dataset

assert len(load_dataset("curated", split="train")) == 4
"""


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Runs a command to its end; a failure ends this script."""
    print("+", *(str(part) if "\n" not in str(part) else "…" for part in command), flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def check_contents(source: Path, wheel: Path) -> None:
    """Ends this script where a distribution lacks a module, a recipe or a measurement that the repository has."""
    listed = subprocess.run(["git", "ls-files", "src", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = set(listed.stdout.split())
    with tarfile.open(source) as archive:
        absent = wanted - {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    absent |= {f"hf_instructmine/{path}".replace("hf_instructmine/src/", "") for path in wanted} - held
    if absent:
        sys.exit(f"not in the distributions: {', '.join(sorted(absent))}")


def try_out(folder: Path) -> None:
    """Runs the README's commands, in small, in an empty folder."""
    python, instructmine = BIN / "python", BIN / "instructmine"
    run(instructmine, "--help", cwd=folder)
    for program in (PUBLIC_NAMES, RECIPES, METRICS, SWEEP, RULE):
        run(python, "-c", program, cwd=folder)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    rows = [{"instruction": f"Count to {n}.", "output": " ".join(words[:n]) + " and again" * n} for n in range(1, 13)]
    (folder / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run(instructmine, "score", "pool.jsonl", "--indicator", "MTLD", "--output-dir", "scored", cwd=folder)
    run(instructmine, "select", "scored", "--rule", "rule", "--size", "4", "--output-dir", "curated", cwd=folder)
    run(python, "-c", OPENED, cwd=folder)


def main() -> None:
    """See the module."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as temporary:
        built, empty = Path(*sys.argv[1:] or [temporary, "dist"]), Path(temporary, "empty")
        empty.mkdir()
        run(sys.executable, "-m", "build", "--outdir", built, ROOT)
        (source,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
        check_contents(source, wheel)
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        run(sys.executable, "-m", "venv", ENVIRONMENT)
        run(BIN / "pip", "install", "--quiet", wheel, "--constraint", ROOT / "constraints.txt")
        run(BIN / "pip", "check")
        try_out(empty)
    print("The wheel is whole.")


if __name__ == "__main__":
    main()
