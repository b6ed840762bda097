"""`instructmine compare`: rules against random and the usual baselines, on finetunes of one's own."""

import argparse
import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from ..errors import InstructMineError, nearest
from ..outputs.files import written_whole
from .options import add_finetuning, add_inputs, add_retry_failed, add_verb, pick, say_next
from .values import embed, load_rule, read_finetuning


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from ..comparison.results import StrategyComparison
    from ..comparison.strategies import Strategy
    from ..estimator.rule import Rule
    from ..selection.curated import Selection

TABLES, FIGURE = "comparison.md", "comparison.png"
# Parameters of `compare_strategies` and `usual_strategies` that are not the option of that name.
OTHERWISE = {
    "scored": "from input",
    "strategies": "from --rule, --strategy, --no-usual and --full-pool",
    "eval_sets": "from --eval-set",
    "sizes": "from --size",
}


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    verb = add_verb(
        verbs,
        "compare",
        "Finetune on what rules, random and the usual baselines choose in each of several parts of the pool, at equal "
        "training data and steps, and say which is better and by how much. Finished runs are kept: the same command "
        "goes on after a kill.",
        run,
        required=("input", "recipe", "eval_set", "output_dir"),
    )
    add_inputs(verb, "seed of the sample, the random choices and, counting up, the runs")
    verb.add_argument(
        "--rule",
        nargs="+",
        default=[],
        metavar="NAME=RULE[,OPTION=VALUE…]",
        help="a rule's folder, Hub id or published name, with options of the selector such as max_similarity=0.9 "
        "(and encoder=MODEL, for those that need embeddings); the verdict is about the first",
    )
    verb.add_argument(
        "--strategy", nargs="+", default=[], metavar="NAME=WHAT",
        help="your own: highest:COLUMN, lowest:COLUMN, balanced:COLUMN, random or full",
    )  # fmt: skip
    verb.add_argument(
        "--no-usual", action="store_true", help="without balanced random, longest, perplexity, reward, IFD, diversity"
    )
    verb.add_argument("--full-pool", action="store_true", help="train once on the whole pool too")
    verb.add_argument(
        "--tokens", nargs="+", type=int, default=[], metavar="N", help="response tokens to choose; may be several"
    )
    verb.add_argument("--size", nargs="+", type=int, default=[], metavar="N", help="rows to choose; may be several")
    verb.add_argument("--parts", type=int, default=8, metavar="N", help="disjoint random parts of the pool")
    verb.add_argument("--seeds", type=int, default=1, metavar="N", help="finetunes of each strategy in each part")
    verb.add_argument(
        "--budget", choices=("steps", "recipe"), default="steps",
        help="what is equal besides tokens or rows: optimiser steps, or what the recipe fixes",
    )  # fmt: skip
    verb.add_argument(
        "--random-at", nargs="*", type=float, default=(0.5, 2, 4), metavar="TIMES",
        help="train random choices of so many times each amount too, to say how many random tokens a choice "
        "is worth; none after it trains none",
    )  # fmt: skip
    verb.add_argument(
        "--no-whole-pool", dest="whole_pool", action="store_false",
        help="without a finetune on what each strategy chooses of the whole pool",
    )  # fmt: skip
    add_finetuning(verb)
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the runs, the tables and the figure")
    add_retry_failed(verb)
    verb.add_argument(
        "--attach",
        metavar="DIR",
        help="selection by one of the rules or strategies: its card is written anew with this evidence",
    )
    verb.add_argument("--keep-models", action="store_true", help="keep the final model of each run, with a card")


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from ..data.inputs import load_pool, parse_mapping
    from ..outputs.records import Records
    from ..sweep.manifest import MANIFEST

    columns = parse_mapping(args.columns)
    Records(args.output_dir).check_unclaimed(MANIFEST)  # before a rule's embeddings are made
    recipe, eval_sets = read_finetuning(args)
    selection = None if args.attach is None else him.Selection.load(args.attach)
    scored = load_pool(args.input, **pick(args, load_pool, columns=columns))
    strategies = read_strategies(args, scored, columns)
    rules = rules_of(strategies)
    if selection is not None:
        _check_chosen(selection, strategies, args.attach)
    function = him.compare_strategies
    given = pick(args, function, recipe=recipe, eval_sets=eval_sets, columns=columns, sizes=args.size)
    comparison = function(scored, strategies, **given)
    _write(comparison, rules, Path(args.output_dir))
    if selection is not None:
        selection.attach_evidence(comparison)
        selection.save_to_disk(args.attach, overwrite=True)
        print(f"Wrote {Path(args.attach, 'README.md')}: the card of the selection, with this evidence")
    say_next("report", args.attach or args.output_dir)


def _write(comparison: "StrategyComparison", rules: "Mapping[str, Rule]", folder: Path) -> None:
    """Prints what the rules are worth and what was found, and writes both with the figure."""
    from ..estimator.summary import WIDTH
    from ..estimator.verdict import paragraph
    from ..outputs.markdown import escape

    worth = [f"{name}. {paragraph(rule)}" for name, rule in rules.items()]
    with written_whole(folder / TABLES) as partial:
        parts = [*(escape(words, None) for words in worth), f"![Difference to random]({FIGURE})"]
        parts.append(comparison.summary(show=escape))
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    comparison.plot(folder / FIGURE)
    print("\n\n".join([*(fill(words, WIDTH) for words in worth), comparison.summary()]))
    print(f"\nWrote {folder / TABLES} and {folder / FIGURE}")


def rules_of(strategies: "Mapping[str, Strategy]") -> "dict[str, Rule]":
    """The rule of each strategy that has one."""
    rules = {name: s.rule if isinstance(s, him.Selector) else s for name, s in strategies.items()}
    return {name: rule for name, rule in rules.items() if isinstance(rule, him.LossEstimator)}


def _check_chosen(selection: "Selection", strategies: "Mapping[str, Strategy]", folder: str) -> None:
    """Refuses evidence of other choices before the first finetune."""
    from ..estimator.file import rule_digest

    by = selection.chosen_by
    known = [s.chooses_by if isinstance(s, him.Selector) else s for s in strategies.values()]
    if by in [rule_digest(s) if isinstance(s, him.LossEstimator) else s for s in known]:
        return
    if selection.strategy is not None:
        raise InstructMineError(
            f"no --strategy is that of the selection in '{folder}': add --strategy NAME={by}, which chose its rows"
        )
    raise InstructMineError(
        f"no --rule is the rule of the selection in '{folder}': add --rule NAME={folder}, which holds it"
    )


def read_strategies(
    args: argparse.Namespace, scored: "Dataset", columns: Mapping[str, str] | None
) -> "dict[str, Strategy]":
    """The rules first, then the usual baselines, then the user's own."""
    from ..comparison.strategies import FULL

    embeddings = cache(partial(embed, scored=scored, columns=columns))  # several rules may have one encoder
    rules = dict(_read_rule(text, embeddings) for text in args.rule)
    usual = {} if args.no_usual else him.usual_strategies(scored)
    own = dict(_pair(text, "--strategy") for text in args.strategy)
    full = {FULL: FULL} if args.full_pool else {}
    return {**rules, **usual, **own, **full}


def _read_rule(text: str, embeddings: "Callable[[str], np.ndarray]") -> "tuple[str, Strategy]":
    """`NAME=RULE[,OPTION=VALUE…]`; the options are the selector's, and `encoder` makes its embeddings."""
    from ..data.inputs import parse_mapping

    name, rest = _pair(text, "--rule")
    place, _, more = rest.partition(",")
    options: dict[str, Any] = parse_mapping(more) or {}
    known = [*inspect.signature(him.Selector).parameters, "encoder"]
    if unknown := [key for key in options if key not in known]:
        raise InstructMineError(f"--rule {name} has no option '{unknown[0]}': {nearest(unknown[0], known)}")
    rule = load_rule(place)
    if encoder := options.pop("encoder", None):
        options["embeddings"] = embeddings(encoder)
    return name, him.Selector(rule, **options)


def _pair(text: str, option: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise InstructMineError(f"{option} {text!r} is not of the form NAME=VALUE")
    return name, value
