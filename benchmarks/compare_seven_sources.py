"""Our rules against random and the usual baselines on seven real sources, in parts of a pool that no rule has seen.

    python benchmarks/compare_seven_sources.py --data ../shared/data --output-dir sweep-output --tokens 8000

The rules are fitted to the records of `sweep_seven_sources.py`, whose pool was the first 300 rows of each source in a
fixed order. This pool is the next 900 of each; LIMA has no more, so its rows are the same. Killed and started again,
it goes on where it stopped; run again with other strategies or amounts, these join.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import report_sweep
from datasets import Dataset
from sweep_seven_sources import EVAL_SETS, ROWS_PER_SOURCE, read_pool

import hf_instructmine as him
from hf_instructmine.finetuning.recipe import Recipe


FITTED_TO = "self_instruct"


def main() -> None:
    args = parse()
    output = Path(args.output_dir)
    scored = score_pool(read_pool(Path(args.data), args.rows, after=ROWS_PER_SOURCE), output / "scored-next")
    eval_sets = him.load_eval_sets([f"{name}={args.data}/eval/{file}.jsonl" for name, file in EVAL_SETS.items()])
    contaminated = him.find_contaminated(scored, eval_sets)
    print(contaminated)
    scored = scored.select(np.setdiff1d(np.arange(len(scored)), contaminated.rows))
    runs = report_sweep.read(Path(args.runs))
    strategies = {
        "rule-given-tokens": report_sweep.fit(runs, FITTED_TO, given_tokens=True),
        "rule": report_sweep.fit(runs, FITTED_TO),
        "longest": "highest:output_length",
        "random": "random",
        "balanced-random": "balanced:source",
    }
    recipe = Recipe.load(args.recipe)
    recipe.settings["model_name_or_path"] = him.smollm2_135m()
    comparison = him.compare_strategies(
        scored, strategies, recipe, eval_sets, output / args.name,
        tokens=args.tokens, sizes=args.size, parts=args.parts, random_at=args.random_at,
    )  # fmt: skip
    write_results(comparison, Path(args.results))
    print(comparison)


def score_pool(pool: Dataset, folder: Path) -> Dataset:
    """What the rules read, and no more: without kNN distances and IFD."""
    model = him.smollm2_135m()
    indicators = [
        him.InputLength(tokenizer=model),
        him.OutputLength(tokenizer=model),
        him.MTLD(),
        him.Perplexity(model=model, also=("nll", "end_of_turn"), dtype="bfloat16", token_budget=2048),
    ]
    return him.score(pool, indicators, folder)


def write_results(comparison: him.StrategyComparison, path: Path) -> None:
    """Keeps the runs without their row numbers, one JSON object a line: enough to redo every table and interval."""
    path.parent.mkdir(parents=True, exist_ok=True)
    request = {name: value for name, value in vars(comparison).items() if name in FIELDS}
    with path.open("w") as file:
        file.write(json.dumps(request) + "\n")
        for row in comparison.runs.remove_columns(["indices"]):
            file.write(json.dumps({key: _short(value) for key, value in row.items() if value is not None}) + "\n")
    print(f"Wrote {path}")


FIELDS = ("strategies", "fitted_on", "seed", "chosen_by", "protocol", "eval_bytes", "pool", "sweeps", "untrained")


def _short(value: object) -> object:
    return [round(number, 2) for number in value] if isinstance(value, list) else value


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with pool/ and eval/")
    parser.add_argument("--output-dir", default="sweep-output", help="keeps what is costly; not for the repository")
    parser.add_argument("--results", default="docs/results/comparison-in-parts.jsonl", help="where the records go")
    parser.add_argument("--recipe", default="smollm2-135m-cpu-last-layers")
    parser.add_argument("--runs", default="docs/results/sweep.jsonl", help="what the rules are fitted to")
    parser.add_argument("--rows", type=int, default=900, help="of each source, or as many as it has")
    parser.add_argument("--name", default="comparison-in-parts", help="of the comparison's folder in --output-dir")
    parser.add_argument("--tokens", nargs="*", type=int, default=[])
    parser.add_argument("--size", nargs="*", type=int, default=[])
    parser.add_argument("--parts", type=int, default=6)
    parser.add_argument("--random-at", nargs="*", type=float, default=[0.5, 2])
    return parser.parse_args()


if __name__ == "__main__":
    main()
