"""`instructmine search-size`: how many rows to keep, with a report and a figure."""

import argparse
from pathlib import Path
from typing import Any

from ..data.evaluation_sets import load_eval_sets
from ..data.inputs import load_pool, parse_mapping
from ..errors import InstructMineError
from ..finetuning.recipe import Recipe
from ..search.report import size_report
from ..search.search import TRIALS, search_size
from .values import load_rule


FIGURE = "size.png"


def run(args: argparse.Namespace) -> int:
    """Runs the verb and returns its exit code."""
    columns = parse_mapping(args.columns)
    recipe, eval_sets = Recipe.load(args.recipe), load_eval_sets(args.eval_set)
    scored = load_pool(args.input, args.split, args.sample, args.seed)
    names = (
        "min_size", "max_size", "target", "num_trials", "max_cost", "max_seconds", "grid_size", "grid_seeds",
        "equal_steps", "low_cost_start", "concurrency", "executor", "accelerate_config", "seed",
    )  # fmt: skip
    options = {} if args.max_leverage is None else {"max_leverage": args.max_leverage}
    trials = search_size(
        scored,
        load_rule(args.rule),
        recipe,
        eval_sets,
        args.output_dir,
        space=dict(parse_range(text) for text in args.space),
        full_pool=not args.no_full_pool,
        columns=columns,
        select_options={**options, "allow_mismatch": args.allow_mismatch},
        **{name: getattr(args, name) for name in names},
    )
    report = size_report(trials, args.target)
    report.save_figure(Path(args.output_dir, FIGURE))
    print(report)
    print(f"\nWrote {args.output_dir}: {TRIALS} and {FIGURE}")
    given = " ".join(args.input)
    print(f"Next: instructmine select {given} --rule {args.rule} --size {report.best_size} --output-dir DIR")
    return 0


def parse_range(text: str) -> tuple[str, tuple | list]:
    """Reads `NAME=LOW:HIGH` or `NAME=VALUE,VALUE,…`.

    Raises:
        [`InstructMineError`]: Where it is neither.
    """
    name, _, values = text.partition("=")
    for separator, kind in ((":", tuple), (",", list)):
        parts = values.split(separator)
        if name and len(parts) > 1 and all(parts):
            return name.strip(), kind(_read(part) for part in parts)
    raise InstructMineError(f"'{text}' is not of the form NAME=LOW:HIGH or NAME=VALUE,VALUE")


def _read(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.strip().lower(), text.strip())
