"""Kept models of one comparison measured outside of the loss that they were chosen by.

    python benchmarks/evaluate_models.py --data ../shared/data --output-dir sweep-output

Two finetunes of SmolLM2-135M: on what the rule chooses of the pool, and on a random choice of as many response tokens,
for the same optimiser steps. Both models are kept. Killed and started again, it goes on where it stopped.
`instructmine evaluate` measures them and the untrained model then; the script prints its command line.
"""

import argparse
from pathlib import Path

import numpy as np
import report_sweep
from compare_seven_sources import EVAL_SETS, FITTED_TO
from datasets import Dataset

import hf_instructmine as him
from hf_instructmine.comparison.strategies import choose_rows
from hf_instructmine.data.texts import usable_rows
from hf_instructmine.finetuning.recipe import Recipe


STEPS = 18  # two epochs of the random choice, as in the comparison in parts


def main() -> None:
    args = parse()
    eval_sets = him.load_eval_sets([f"{name}={args.data}/eval/{file}.jsonl" for name, file in EVAL_SETS.items()])
    scored = Dataset.from_parquet(str(Path(args.scored, "data", "*.parquet")))
    contaminated = him.find_contaminated(scored, eval_sets)
    scored = scored.select(np.setdiff1d(np.arange(len(scored)), contaminated.rows))
    rule = report_sweep.fit(report_sweep.read(Path(args.runs)), FITTED_TO, given_tokens=True)
    usable, costs = usable_rows(scored, copies=False), np.array(scored["output_length"])
    rows = {
        "rule": choose_rows(scored, rule, {"tokens": args.tokens}, usable, costs),
        "random": choose_rows(scored, "random", {"tokens": args.tokens}, usable, costs, draw=(args.seed,)),
    }
    mixtures = Dataset.from_list(
        [
            {"mixture_id": name, "seed": args.seed, "indices": indices.tolist(), "max_steps": STEPS}
            for name, indices in rows.items()
        ]
    )
    recipe = Recipe.load(args.recipe)
    recipe.settings["model_name_or_path"] = him.smollm2_135m()
    folder = Path(args.output_dir, "kept")
    runs = him.run_sweep(scored, mixtures, recipe, eval_sets, folder, keep_models=True)
    for run in runs:
        losses = {name: round(run[f"loss_{name}"], 4) for name in EVAL_SETS}
        print(run["mixture_id"], len(run["indices"]), "rows", run["train_tokens"], "tokens", run["steps"], losses)
    kept = " ".join(f"{name}={folder}/models/{name}-seed{args.seed}" for name in ("random", "rule"))
    print(f"instructmine evaluate base={him.smollm2_135m()} {kept} …")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with pool/ and eval/")
    parser.add_argument("--scored", default="sweep-output/scored-next", help="as compare_seven_sources.py scores it")
    parser.add_argument("--output-dir", default="sweep-output", help="keeps the models; not for the repository")
    parser.add_argument("--recipe", default="smollm2-135m-cpu-last-layers")
    parser.add_argument("--runs", default="docs/results/sweep.jsonl", help="what the rule is fitted to")
    parser.add_argument("--tokens", type=int, default=8000, help="response tokens of either choice")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
