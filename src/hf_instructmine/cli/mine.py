"""`instructmine mine`: the whole path, from a raw pool to a curated set with its card and report."""

import argparse
import sys
from textwrap import fill
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from ..errors import InstructMineError
from .options import add_inputs, add_verb, pick


if TYPE_CHECKING:
    from ..mining.plan import Plan

# Parameters of `mine` that are not the option of that name.
OTHERWISE = {
    "pool": "from input",
    "eval_sets": "from --eval-set",
    "confirm": "from --yes and --dry-run",
}


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    verb = add_verb(
        verbs,
        "mine",
        "Go the whole way: score a pool, learn a rule from small finetunes, select by it, compare the choice with a "
        "random one, and write a curated set with its card and a report. Killed anywhere, the same command goes on.",
        run,
        required=("input", "model", "eval_set", "size", "output_dir"),
    )
    add_inputs(verb, "seed of everything that is drawn")
    verb.add_argument("--model", metavar="MODEL", help="language model to score and to finetune: Hub id or folder")
    verb.add_argument(
        "--eval-set", nargs="+", metavar="NAME=SOURCE",
        help="what the finetunes are measured on, at least 20 examples; the rule is fitted to the first",
    )  # fmt: skip
    verb.add_argument("--size", type=int, metavar="N", help="keep N rows, at most half of the usable ones")
    verb.add_argument("--recipe", metavar="FILE", help="how to finetune (chosen for this machine if not given)")
    verb.add_argument("--num-runs", type=int, default=24, metavar="N", help="distinct subsets of the sweep")
    verb.add_argument("--parts", type=int, default=8, metavar="N", help="parts of the pool in the comparison")
    verb.add_argument("--executor", default="inline", help="inline, or local (one run on each GPU)")
    verb.add_argument("--output-dir", metavar="DIR", help="folder for all that is made")
    verb.add_argument("--yes", action="store_true", help="go on without asking")
    verb.add_argument("--dry-run", action="store_true", help="show the plan, measured here, and stop")


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from ..data.inputs import load_pool, parse_mapping
    from ..estimator.summary import WIDTH

    if not (args.yes or args.dry_run or sys.stdin.isatty()):
        raise InstructMineError("nobody is here to be asked: pass --yes to go on, or --dry-run to see the plan alone")
    columns = parse_mapping(args.columns)
    pool = load_pool(args.input, **pick(args, load_pool, columns=columns))
    given = pick(args, him.mine, eval_sets=args.eval_set, columns=columns)
    selection = him.mine(pool, confirm=lambda plan: _confirm(plan, args), **given)
    if selection is None:
        print("Nothing was trained. The same command goes on from here.")
        return
    print(f"\n{selection.summary()}\n")
    for section in selection.sections:
        print("\n".join(fill(line, WIDTH) for line in section.verdict))
    print(f"\nWrote {args.output_dir}/curated (load_dataset opens it) and {args.output_dir}/report.html")
    print(f"Next: instructmine push {args.output_dir}/curated me/my-dataset")


def _confirm(plan: "Plan", args: argparse.Namespace) -> bool:
    print(f"\n{plan}\n")
    if args.dry_run or args.yes:
        return not args.dry_run
    return input("Go on? [y/N] ").strip().lower() in ("y", "yes")
