"""Makes the folders beside this file, each as a call of the package leaves it.

    python tests/written_before/make.py

They were made with hf-instructmine 0.1.0.dev0 (commit 9b4d5d4, before its modules moved into sub-packages), torch
2.13.0, transformers 5.24.0, trl 1.16.0, datasets 5.2.0 and flaml 2.7.0. The sweeps, the comparison and the search were
made again when turns began to end as the chat template ends them; `sweep-eos/` is of before. Whoever made such folders
then is to go on with them today: this script is run again only where a format changes on purpose, which the CHANGELOG
then says.

The calls read and write beside them, by relative names, so that no path of a machine gets into a record.
`tests/test_written_before.py` repeats them in a copy. What they read is kept with them: the digests of the model, the
pool and the evaluation sets are part of the records.
"""

import json
import os
import shutil
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, load_dataset

import hf_instructmine as him


HERE = Path(__file__).parent
# More than a shard of `score` holds.
ROWS = 270
# It has no response, so nothing can be made of it.
SILENT = 7


# --- What the calls read ------------------------------------------------------------------------------------------


def rows(name: str) -> Dataset:
    """The rows of a JSON Lines file."""
    return Dataset.from_list([json.loads(line) for line in Path(f"{name}.jsonl").read_text("utf-8").splitlines()])


def scored() -> Dataset:
    """The pool with its indicators, from the folder that `score` left."""
    return load_dataset("scored", split="train")


def recipe(**changed: Any) -> dict[str, Any]:
    return {**yaml.safe_load(Path("recipe.yaml").read_text("utf-8")), **changed}


def eval_sets() -> dict[str, Dataset]:
    return {name: rows(name) for name in ("single", "multi")}


def mixtures(*numbers: int, step: int = 40) -> Dataset:
    """Subsets of 6 rows; one that is named again is a replicate."""
    subsets = [list(range(1 + number, ROWS, step))[:6] for number in numbers]
    return Dataset.from_dict(
        {
            "mixture_id": [f"mixture-{number:03d}" for number in numbers],
            "seed": list(range(len(numbers))),
            "indices": subsets,
            "reward": [sum(subset) / 6 for subset in subsets],
        }
    )


# --- The calls, by the folder that each writes --------------------------------------------------------------------


def score(pool: Dataset | None = None, **changed: Any) -> Dataset:
    """`scored/`: two shards of each of three indicators, of which one reads a model and one its tokenizer."""
    indicators = [him.MTLD(), him.OutputLength("model"), him.Perplexity("model", **{"device": "cpu", **changed})]
    return him.score(rows("pool") if pool is None else pool, indicators, "scored")


def sweep(**changed: Any) -> Dataset:
    """`sweep/`: three mixtures, the first of them twice."""
    request = {"mixtures": mixtures(0, 1, 2, 0), "recipe": recipe(), "eval_sets": eval_sets(), "output_dir": "sweep"}
    return him.run_sweep(scored(), **{**request, **changed})


def failing_sweep(**changed: Any) -> Dataset:
    """`failed/`: one run, which diverges."""
    wild = recipe(learning_rate=15.0, max_grad_norm=0.0)
    return sweep(**{"mixtures": mixtures(0), "recipe": wild, "output_dir": "failed", **changed})


def sweep_command(*more: str) -> int:
    """`sweep-command/`: a design of five mixtures and one replicate."""
    given = ["scored", "--recipe", "recipe.yaml", "--eval-set", "single=single.jsonl", "--output-dir", "sweep-command"]
    return instructmine("sweep", *given, "--num-runs", "5", "--replicates", "1", "--subset-size", "6", *more)


def fit() -> him.LossEstimator:
    """The rule of `rule/`, fitted to 40 runs of a known law."""
    from simulated_runs import simulated_runs

    return him.LossEstimator.fit(
        simulated_runs(n=40, seed=1),
        target=["loss_self_instruct", "loss_mt_bench"],
        indicators=["reward", "mtld", "output_length"],
        logged=["output_length"],
        squared=["mtld"],
        covariates=["subset_size"],
        name="of a known law",
        permutations=20,
        bootstraps=50,
    )


def compare(**changed: Any) -> him.StrategyComparison:
    """`comparison/` as its request is today: a rule, the longest responses and random ones, at 8 rows. It was written
    when every strategy chose once, for several finetunes."""
    rule = him.LossEstimator.from_coefficients({"reward": -0.1}, name="by reward", target="loss_single")
    request = {
        "strategies": {"rule": rule, "longest": "highest:output_length"},
        "recipe": recipe(),
        "eval_sets": {"single": rows("single").select([0] * 20)},
        "output_dir": "comparison",
        "sizes": [2],
        "parts": 4,
    }
    return him.compare_strategies(scored(), **{**request, **changed})


def search(**changed: Any) -> Dataset:
    """`search/`: a grid of twenty runs in one sweep, and two trials with recipes of their own."""
    rule = him.LossEstimator.from_coefficients({"reward": -1.0}, target="loss_single")
    request = {
        "selector": him.Selector(rule),
        "recipe": recipe(cached_trunk=True, num_train_epochs=1),
        "eval_sets": eval_sets(),
        "output_dir": "search",
        "min_size": 3,
        "max_size": 18,
        "num_trials": 2,
        "grid_seeds": 2,
        "full_pool": False,
        "space": {"learning_rate": (1e-3, 5e-2)},
        "points_to_evaluate": [{"size": 4, "learning_rate": 1e-2}],
    }
    return him.search_size(scored(), **{**request, **changed})


def select() -> Any:
    """The selection of `curated/`, by a rule fitted to the runs of `sweep-command/`, which knows how its indicator
    was made."""
    rule = him.LossEstimator.fit(
        him.load_runs("sweep-command"),
        target="loss_single",
        indicators=["perplexity"],
        select="none",
        logged=["perplexity"],
        name="by perplexity",
        permutations=0,
        bootstraps=10,
    )
    return him.Selector(rule).select(scored(), size=12)


def instructmine(*arguments: str) -> int:
    """Runs the command in this process, wherever this checkout keeps it, and returns its exit code."""
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    command = EntryPoint("instructmine", project["scripts"]["instructmine"], "console_scripts")
    before, sys.argv = sys.argv, ["instructmine", *arguments]
    try:
        command.load()()
    except SystemExit as ended:
        return ended.code
    finally:
        sys.argv = before


# --- Making them --------------------------------------------------------------------------------------------------


def make_inputs() -> None:
    """The random model, the pool, the evaluation sets and the recipe."""
    import tiny_models
    import tiny_sweep

    tiny_sweep.save_model(Path("model"), num_layers=2)
    pool = []
    for i in range(ROWS):
        prompt, response = tiny_models.ROWS[i % len(tiny_models.ROWS)]
        answer = "" if i == SILENT else f"{response} {i}"
        pool.append({"prompt": f"{prompt} ({i})", "completion": answer, "source": "ab"[i % 2], "reward": float(i)})
    for name, table in {"pool": pool, **tiny_sweep.evaluation_sets()}.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in table]
        Path(f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    # So quick that a seed shows in the third digit of a loss.
    settings = {**tiny_sweep.RECIPE, "train_last_layers": 1, "learning_rate": 2e-2, "model_name_or_path": "model"}
    Path("recipe.yaml").write_text(yaml.safe_dump(settings), "utf-8")


def make() -> None:
    make_inputs()
    score()
    sweep()
    failing_sweep()
    if sweep_command() != 0:
        raise RuntimeError("the sweep's command failed")
    fit().save_pretrained("rule")
    compare()
    search()
    select().save_to_disk("curated")
    for needless in (*Path().rglob("locks"), Path("rule/figures")):  # empty files, and more than all the rest
        shutil.rmtree(needless)
    Path("curated/predicted_log_loss.png").unlink()  # large too, and read by nothing


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    os.chdir(HERE)
    for folder in (path for path in HERE.iterdir() if path.is_dir()):
        shutil.rmtree(folder)
    make()
