"""Folders to report, made without a model, with hostile text wherever text comes from data."""

import json
from pathlib import Path

import numpy as np
from datasets import Dataset
from hostile import HOSTILE

import hf_instructmine as him
from hf_instructmine.outputs.records import Records


WRITTEN_BEFORE = Path(__file__).parent / "written_before"
ACTIVE = [
    *HOSTILE,
    "</script><script>document.title = 'acted'</script>",
    "<img src=x onerror=\"document.title='acted'\">",
    "<!--rows-->",
    "a\x00b\x1b[2J",
    "\u202eright to left\u2066",
    "a lone \ud800 surrogate",
]
RULE = him.LossEstimator.from_coefficients({"reward": -0.5, "log(mtld)": 0.1}, name="<b>mine</b>{{ 7 }}")


def pool(rows: int = 60) -> Dataset:
    """Rows of words, with the hostile texts among them, an exact copy, a row without a response and one unscored."""
    words = np.random.default_rng(0).permutation([f"word{n}" for n in range(300)])
    prompts = [f"Question {n} of many" for n in range(rows)]
    responses = [" ".join(words[n : n + 5 + n % 40]) for n in range(rows)]
    for place, text in enumerate(ACTIVE):
        prompts[place] = text.encode("utf-8", "replace").decode()  # Arrow holds no lone surrogate
    prompts[50], responses[50] = prompts[49], responses[49]
    responses[51] = None
    responses[52] = "y" * 1_000_000
    sources = [["web", "human", ACTIVE[0], "</script>"][n % 4] for n in range(rows)]
    return Dataset.from_dict({"prompt": prompts, "completion": responses, "source": sources})


def score(rows: Dataset, folder: Path) -> Dataset:
    """Scores with what needs no model, and gives the rows a reward; row 53 has none."""
    rewards = np.random.default_rng(1).normal(size=len(rows))
    if len(rows) > 53:
        rewards[53] = np.nan
        rewards[49:51] = 3.0  # which is enough for both copies to be met
    return him.score(rows.add_column("reward", rewards), [him.MTLD()], folder)


def write_evaluation(folder: Path) -> None:
    """Records as `evaluate_models` keeps them, and a judge's page."""
    records = Records(folder)
    request = {"model base": "a", "model <mine>": "b", "evaluation set tests": "c", "asked": "all", "seed": 0}
    records.write(folder / "evaluation.json", request)
    for model, nll in {"base": 20.0, "<mine>": 18.0}.items():
        measured = {
            "rows": list(range(4)), "categories": [None] * 4, "nll": [nll, nll + 1, nll, nll + 2], "tokens": [9] * 4,
            "bytes": [40] * 4, "turns": 4, "truncated": 0, "skipped": 0,
        }  # fmt: skip
        records.write(records.path_of(f"{model}.loss-tests"), measured)
    (folder / "evaluation.md").write_text("| measure | model | n | value | 95 % | to base | 95 % | p |\n")
    (folder / "judge").mkdir()
    (folder / "judge" / "judge.json").write_text("{}")
    (folder / "judge" / "judge.md").write_text("# Judgement\n\n```text\n<i>mine</i> wins 3 of 4\n```\n")


def write_scored(rows: dict, folder: Path) -> None:
    """A scored pool that no indicator made."""
    (folder / "data").mkdir(parents=True)
    Dataset.from_dict(rows).to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    for name in ("indicators", "report"):
        (folder / f"{name}.json").write_text(json.dumps({}))
