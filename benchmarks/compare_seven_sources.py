"""Our rules against random and the usual baselines on seven real sources, at equal response tokens.

    python benchmarks/compare_seven_sources.py --data ../shared/data --output-dir sweep-output --tokens 8000

It goes on with the pool that `sweep_seven_sources.py` scored and fits its rules to the records of that sweep. Killed
and started again, it goes on where it stopped; run again with other strategies or amounts, these join.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import report_sweep
from sweep_seven_sources import EVAL_SETS, read_pool, score_pool

import hf_instructmine as him
from hf_instructmine.finetuning.recipe import Recipe


FITTED_TO = "self_instruct"


def main() -> None:
    args = parse()
    output = Path(args.output_dir)
    scored, embeddings = score_pool(read_pool(Path(args.data)), output / "scored")
    eval_sets = him.load_eval_sets([f"{name}={args.data}/eval/{file}.jsonl" for name, file in EVAL_SETS.items()])
    contaminated = him.find_contaminated(scored, eval_sets)
    print(contaminated)
    clean = np.setdiff1d(np.arange(len(scored)), contaminated.rows)
    scored, embeddings = scored.select(clean), embeddings[clean]
    scored = scored.add_column("nll", np.log(np.array(scored["perplexity"])))  # as the records of the sweep have it
    runs = report_sweep.read(Path(args.runs))
    adjusted = report_sweep.fit(runs, FITTED_TO, given_tokens=True)
    strategies = {
        "rule": report_sweep.fit(runs, FITTED_TO),
        "rule-given-tokens": adjusted,
        "rule-given-tokens-diverse": him.Selector(adjusted, max_similarity=0.7, embeddings=embeddings),
        **him.usual_strategies(scored),
        "full": "full",
    }
    if args.only:
        strategies = {name: strategies[name] for name in args.only}
    recipe = Recipe.load(args.recipe)
    recipe.settings["model_name_or_path"] = him.smollm2_135m()
    if args.steps:
        recipe = Recipe({**recipe.settings, "budget": "steps", "max_steps": args.steps})
    comparison = him.compare_strategies(
        scored, strategies, recipe, eval_sets, output / args.name,
        tokens=args.tokens, sizes=args.size, seeds=args.seeds, random_draws=args.random_draws,
    )  # fmt: skip
    write_results(comparison, Path(args.results))
    print(comparison)


def write_results(comparison: him.StrategyComparison, path: Path) -> None:
    """Keeps the runs without their row numbers, one JSON object a line: enough to redo every table and interval."""
    path.parent.mkdir(parents=True, exist_ok=True)
    request = {"strategies": comparison.strategies, "fitted_on": comparison.fitted_on, "seed": comparison.seed}
    with path.open("w") as file:
        file.write(json.dumps(request) + "\n")
        for row in comparison.runs.remove_columns(["indices"]):
            file.write(json.dumps({key: _short(value) for key, value in row.items() if value is not None}) + "\n")
    print(f"Wrote {path}")


def _short(value: object) -> object:
    return [round(number, 2) for number in value] if isinstance(value, list) else value


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with pool/ and eval/")
    parser.add_argument("--output-dir", default="sweep-output", help="keeps what is costly; not for the repository")
    parser.add_argument("--results", default="docs/results/comparison.jsonl", help="where the records go")
    parser.add_argument("--recipe", default="smollm2-135m-cpu-last-layers")
    parser.add_argument("--runs", default="docs/results/sweep.jsonl", help="what the rules are fitted to")
    parser.add_argument("--name", default="comparison", help="of the comparison's folder in --output-dir")
    parser.add_argument("--steps", type=int, help="optimiser steps of every finetune, instead of epochs")
    parser.add_argument("--only", nargs="*", default=[], metavar="STRATEGY", help="of all the strategies, these")
    parser.add_argument("--tokens", nargs="*", type=int, default=[])
    parser.add_argument("--size", nargs="*", type=int, default=[])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--random-draws", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
