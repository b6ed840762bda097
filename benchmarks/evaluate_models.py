"""Kept models of one comparison measured outside of the loss that they were chosen by.

    python benchmarks/evaluate_models.py --data ../shared/data --output-dir sweep-output

Two finetunes of SmolLM2-135M: on what the rule chooses of the pool, and on a random choice of as many response tokens,
for the same optimiser steps. Both models are kept, and measured beside the untrained one: losses, `own_response` with
and without the chat template, and SmolLM2 itself as a judge of 36 answers. Killed and started again, it goes on where
it stopped. Records go to docs/results, numbers alone.
"""

import argparse
import json
from dataclasses import replace
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
    named = [f"{name}={args.data}/eval/{file}.jsonl" for name, file in EVAL_SETS.items()]
    eval_sets = him.load_eval_sets(named)
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
    kept = {name: str(folder / "models" / f"{name}-seed{args.seed}") for name in ("random", "rule")}
    evaluate({"base": him.smollm2_135m(), **kept}, args, named)


def evaluate(models: dict[str, str], args: argparse.Namespace, eval_sets: list[str]) -> None:
    """Prints the tables against the untrained model and against random, and keeps the records."""
    output = Path(args.output_dir)
    options = {"benchmarks": ["own_response"], "batch_size": 4, "dtype": "bfloat16"}
    tasks = Dataset.from_json(f"{args.data}/eval/self_instruct_252.jsonl")
    prompts = tasks.select(range(0, len(tasks), 7))
    judge = {"judge": models["base"], "prompts": prompts, "max_new_tokens": 96, "batch_size": 12}
    plain = him.evaluate_models(models, eval_sets=eval_sets, judge=judge, output_dir=output / "evaluated", **options)
    chat = him.evaluate_models(models, chat_template=True, output_dir=output / "evaluated-chat", **options)
    print(f"{plain}\n\n{chat}\n")
    for found in (plain, chat):
        print("\n".join(replace(found, baseline="random").verdict()))
    write_results([plain, chat], Path(args.results))


def write_results(evaluations: list, path: Path) -> None:
    """Keeps every number that a table is made of, one record a line; no text."""
    with path.open("w") as file:
        for found in evaluations:
            for kind, records in (("loss", found.losses), ("benchmark", found.benchmarks)):
                for name, by_model in records.items():
                    for model, record in by_model.items():
                        line = {"kind": kind, "name": name, "model": model, "how": found.how, **record}
                        file.write(json.dumps({k: _short(v) for k, v in line.items()}) + "\n")
            if found.judgement is not None:
                file.write(json.dumps({"kind": "judge", **found.judgement.to_dict()}) + "\n")
    print(f"Wrote {path}")


def _short(value: object) -> object:
    return [round(v, 3) if isinstance(v, float) else v for v in value] if isinstance(value, list) else value


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with pool/ and eval/")
    parser.add_argument("--scored", default="sweep-output/scored-next", help="as compare_seven_sources.py scores it")
    parser.add_argument("--output-dir", default="sweep-output", help="keeps the models; not for the repository")
    parser.add_argument("--recipe", default="smollm2-135m-cpu-last-layers")
    parser.add_argument("--runs", default="docs/results/sweep.jsonl", help="what the rule is fitted to")
    parser.add_argument("--results", default="docs/results/evaluation.jsonl", help="where the records go")
    parser.add_argument("--tokens", type=int, default=8000, help="response tokens of either choice")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
