"""`instructmine sweep`: designs the mixtures once, keeps the design beside the runs, and sweeps."""

import argparse

from ..data.evaluation_sets import load_eval_sets
from ..data.inputs import load_pool, parse_mapping
from ..finetuning.recipe import Recipe
from ..sweep.design import design_once
from ..sweep.runs import pure_error, sweep_status
from ..sweep.session import run_sweep


def run(args: argparse.Namespace) -> int:
    """Runs the verb and returns its exit code: 1 where every run failed."""
    if args.status is not None:
        print(sweep_status(args.status))
        return 0
    columns = parse_mapping(args.columns)
    recipe, eval_sets = Recipe.load(args.recipe), load_eval_sets(args.eval_set)
    recipe.arguments()  # a mistake in it is better found before the design
    scored = load_pool(args.input, args.split, args.sample, args.seed)
    names = ("num_runs", "subset_size", "subset_tokens", "method", "replicates", "seed")
    request = {name: getattr(args, name) for name in names}
    mixtures, report = design_once(scored, args.output_dir, args.encoder, columns, **request)
    if report is not None:
        print(f"{report}\n")
    runs = run_sweep(
        scored, mixtures, recipe, eval_sets, args.output_dir, args.executor, columns=columns,
        accelerate_config=args.accelerate_config, retry_failed=args.retry_failed,
    )  # fmt: skip
    print(sweep_status(args.output_dir))
    done = runs.select([i for i, status in enumerate(runs["status"]) if status == "done"])
    for name in eval_sets if len(done) else ():
        between, within = pure_error(done, f"loss_{name}")
        spreads = ("between mixtures", between), ("of replicates", within)
        told = ", ".join(f"{spread:.5f} {what}" for what, spread in spreads if spread is not None)
        print(f"SD of log loss on {name}: {told or 'one run has none'}")
    print(f"Next: instructmine fit {args.output_dir} --output-dir DIR")
    return 0 if len(done) else 1
