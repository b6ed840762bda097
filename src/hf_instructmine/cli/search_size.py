"""`instructmine search-size`: how many rows to keep, with a report and a figure."""

import argparse
from pathlib import Path
from typing import Any

import hf_instructmine as him

from ..errors import InstructMineError
from .options import add_finetuning, add_inputs, add_rule, add_verb, beside, pick, say_next
from .values import load_rule, read_finetuning


FIGURE = "size.png"
# Parameters of `search_size` and `size_report` that are not the option of that name.
OTHERWISE = {
    "scored": "from input",
    "selector": "from --rule",
    "eval_sets": "from --eval-set",
    "space": "from --space",
    "full_pool": "from --no-full-pool",
    "select_options": "from --max-leverage and --allow-mismatch",
    "trials": "what `search_size` gives",
    "confidence": "that of all intervals of the package; `size_report` can be called again with another",
}


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    verb = add_verb(
        verbs,
        "search-size",
        "Finetune on the best n rows for many n, and on random ones beside them: a grid, then BlendSearch. Finished "
        "runs are kept: the same command goes on after a kill.",
        run,
        required=("input", "rule", "recipe", "eval_set", "min_size", "output_dir"),
    )
    add_inputs(verb, "seed of the sample, the search, the random rows and, counting up, the runs")
    add_rule(verb)
    add_finetuning(verb)
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the runs, the trials and the figure")
    verb.add_argument("--min-size", type=int, metavar="N", help="smallest number of rows")
    verb.add_argument("--max-size", type=int, metavar="N", help="largest (all that can be selected if not given)")
    verb.add_argument("--target", metavar="COLUMN", help="loss to search by (the first evaluation set's if not given)")
    verb.add_argument("--num-trials", type=int, default=20, metavar="N", help="trials of BlendSearch, after the grid")
    verb.add_argument("--grid-size", type=int, default=5, metavar="N", help="sizes of the grid")
    verb.add_argument("--grid-seeds", type=int, default=3, metavar="N", help="runs at each, selected and random")
    verb.add_argument("--no-full-pool", action="store_true", help="do not finetune on the whole pool")
    verb.add_argument("--equal-steps", type=int, metavar="N", help="run the grid again with N steps at every size")
    verb.add_argument("--space", nargs="+", default=[], metavar="NAME=LOW:HIGH", help="options to search besides")
    verb.add_argument(
        "--points-to-evaluate", nargs="+", type=int, default=[], metavar="N", help="sizes to try after the grid"
    )
    verb.add_argument("--cost", default="train_tokens", help="what BlendSearch spares: train_tokens or seconds")
    verb.add_argument("--max-cost", type=float, metavar="N", help="start no trial beyond N response tokens in all")
    verb.add_argument("--max-seconds", type=float, metavar="S", help="start no trial beyond S seconds of runs")
    verb.add_argument("--low-cost-start", action="store_true", help="start at the smallest size, as the paper does")
    verb.add_argument("--concurrency", type=int, default=1, metavar="N", help="trials suggested at once")


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from ..data.inputs import load_pool, parse_mapping
    from ..search.search import TRIALS

    columns, space = parse_mapping(args.columns), dict(parse_range(text) for text in args.space)
    recipe, eval_sets = read_finetuning(args)
    rule = load_rule(args.rule)
    scored = load_pool(args.input, **pick(args, load_pool, columns=columns))
    options = {} if args.max_leverage is None else {"max_leverage": args.max_leverage}
    given = pick(
        args, him.search_size, selector=rule, recipe=recipe, eval_sets=eval_sets, columns=columns, space=space,
        full_pool=not args.no_full_pool, select_options={**options, "allow_mismatch": args.allow_mismatch},
    )  # fmt: skip
    trials = him.search_size(scored, **given)
    report = him.size_report(trials, args.target, rule=rule)
    report.save_figure(Path(args.output_dir, FIGURE))
    print(report)
    print(f"\nWrote {args.output_dir}: {TRIALS} and {FIGURE}")
    chosen = ["--size", report.best_size, "--output-dir", beside(args.output_dir, "curated")]
    say_next("select", *args.input, "--rule", args.rule, *chosen)


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
