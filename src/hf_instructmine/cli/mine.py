"""`instructmine mine`: the whole path, from a raw pool to a curated set with its card and report."""

import argparse
import sys
from textwrap import fill
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from ..errors import InstructMineError
from .options import add_inputs, add_verb, pick, say_next
from .select import add_described, add_strategy
from .values import build_indicators, load_rule


if TYPE_CHECKING:
    from ..mining.plan import Plan, ShortPlan

# Parameters of `mine` that are not the option of that name.
OTHERWISE = {
    "pool": "from input",
    "eval_sets": "from --eval-set",
    "confirm": "from --yes and --dry-run",
    "described": "from --license, --language, --source-license and --pretty-name",
    "indicators": "from --indicator",
}


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    verb = add_verb(
        verbs,
        "mine",
        "Go the whole way: score a pool, learn a rule from small finetunes, select by it, compare the choice with a "
        "random one, and write a curated set with its card and a report. With --rule or --strategy: without "
        "finetunes. Killed anywhere, the same command goes on.",
        run,
        required=("input", "output_dir"),
    )
    add_inputs(verb, "seed of everything that is drawn")
    verb.add_argument("--model", metavar="MODEL", help="language model to score and to finetune: Hub id or folder")
    verb.add_argument(
        "--eval-set", nargs="+", metavar="NAME=SOURCE",
        help="what the finetunes are measured on, at least 20 examples; the rule is fitted to the first",
    )  # fmt: skip
    verb.add_argument("--size", metavar="N", help="keep N rows, at most half of the usable ones; auto searches for N")
    verb.add_argument("--search-size", metavar="MIN:MAX", help="search for the size between MIN and MAX rows")
    verb.add_argument(
        "--rule", metavar="RULE", help="make no finetunes: select by a published rule, a folder or Hub id"
    )
    add_strategy(verb)
    verb.add_argument(
        "--indicator", nargs="+", default=[], metavar="NAME[,KEY=VALUE…]",
        help="with --rule or --strategy: the models of its columns, such as Reward,model=MODEL",
    )  # fmt: skip
    verb.add_argument("--allow-mismatch", action="store_true", help="accept indicators made otherwise than the rule's")
    verb.add_argument("--recipe", metavar="FILE", help="how to finetune (chosen for this machine if not given)")
    verb.add_argument("--num-runs", type=int, default=24, metavar="N", help="distinct subsets of the sweep")
    verb.add_argument("--parts", type=int, default=8, metavar="N", help="parts of the pool in the comparison")
    verb.add_argument(
        "--executor",
        help="inline, local (one run on each GPU), accelerate or ray (chosen for this machine if not given)",
    )
    verb.add_argument("--keep-models", action="store_true", help="keep the final model of each run, with a card")
    add_described(verb)
    verb.add_argument("--output-dir", metavar="DIR", help="folder for all that is made")
    verb.add_argument("--yes", action="store_true", help="go on without asking")
    verb.add_argument("--dry-run", action="store_true", help="show the plan, measured here, and stop")


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from ..data.inputs import load_pool, parse_mapping

    if not (args.yes or args.dry_run or sys.stdin.isatty()):
        raise InstructMineError("nobody is here to be asked: pass --yes to go on, or --dry-run to see the plan alone")
    _check_options(args)
    columns = parse_mapping(args.columns)
    rule = None if args.rule is None else load_rule(args.rule)
    made = build_indicators(args.indicator, columns)
    described = {name: vars(args)[name] for name in ("license", "language", "source_license", "pretty_name")}
    pool = load_pool(args.input, **pick(args, load_pool, columns=columns))
    given = pick(
        args, him.mine, eval_sets=args.eval_set, columns=columns, rule=rule, indicators=made,
        size=_size(args.size), search_size=_range(args.search_size), described={**described, "inputs": args.input},
    )  # fmt: skip
    selection = him.mine(pool, confirm=lambda plan: _confirm(plan, args), **given)
    if selection is None:
        print("Nothing was trained and nothing was written." if not args.dry_run else "This was the plan alone.")
        return
    _tell(selection, args)


def _check_options(args: argparse.Namespace) -> None:
    """Refuses what does not go together, by the names of the options."""
    from ..selection.preference import Preference

    if args.rule is not None and args.strategy is not None:
        raise InstructMineError("--rule and --strategy are two ways to choose: give one of them")
    if args.strategy is not None:
        Preference.parse(args.strategy)
    if args.size is None and args.search_size is None:
        raise InstructMineError("say how many rows with --size N, --size auto or --search-size MIN:MAX")
    without = args.rule is not None or args.strategy is not None
    missing = [name for name, value in (("--model", args.model), ("--eval-set", args.eval_set)) if not value]
    if missing and not without:
        raise InstructMineError(
            f"{' and '.join(missing)} is missing: finetunes need both; --rule RULE or --strategy WHAT go without them"
        )
    if without and (args.search_size is not None or args.size == "auto"):
        raise InstructMineError("without finetunes no size can be searched for: give --size N")


def _size(text: str | None) -> int | str | None:
    if text in (None, "auto"):
        return text
    try:
        return int(text)
    except ValueError:
        raise InstructMineError(f"--size {text!r:.40} is no number of rows: give one, or auto to search") from None


def _range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        least, most = map(int, text.split(":"))
    except ValueError:
        raise InstructMineError(f"--search-size {text!r:.40} is not of the form MIN:MAX, such as 100:800") from None
    return least, most


def _tell(selection: Any, args: argparse.Namespace) -> None:
    from ..estimator.summary import WIDTH
    from ..selection.sections import not_measured

    print(f"\n{selection.summary()}\n")
    measured = [line for section in selection.sections for line in section.verdict]
    told = [fill(line, WIDTH) for line in measured]
    # Where nothing was measured there is a command, which stays in one line.
    told = told or not_measured(selection, f"{args.output_dir}/scored", f"{args.output_dir}/curated")
    print("\n".join(told))
    print(f"\nWrote {args.output_dir}/curated (load_dataset opens it) and {args.output_dir}/report.html")
    say_next("push", f"{args.output_dir}/curated", "me/my-dataset")


def _confirm(plan: "Plan | ShortPlan", args: argparse.Namespace) -> bool:
    print(f"\n{plan}\n")
    if args.dry_run or args.yes:
        return not args.dry_run
    return input("Go on? [y/N] ").strip().lower() in ("y", "yes")
