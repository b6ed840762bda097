"""`instructmine compare`: rules against random and the usual baselines, on finetunes of one's own."""

import argparse
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from ..errors import InstructMineError
from ..outputs.files import written_whole
from .options import add_finetuning, add_inputs, add_retry_failed, add_verb, pick
from .values import embed, load_rule, read_finetuning


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from ..comparison.strategies import Strategy

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
        "Finetune on what rules, random and the usual baselines choose, at equal training data, and say which is "
        "better and by how much. Finished runs are kept: the same command goes on after a kill.",
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
        help="your own: highest:COLUMN, lowest:COLUMN, random or full",
    )  # fmt: skip
    verb.add_argument("--no-usual", action="store_true", help="without longest, perplexity, reward, IFD, diversity")
    verb.add_argument("--full-pool", action="store_true", help="train once on the whole pool too")
    verb.add_argument(
        "--tokens", nargs="+", type=int, default=[], metavar="N", help="response tokens to choose; may be several"
    )
    verb.add_argument("--size", nargs="+", type=int, default=[], metavar="N", help="rows to choose; may be several")
    verb.add_argument("--seeds", type=int, default=5, metavar="N", help="finetunes of each strategy")
    verb.add_argument("--random-draws", type=int, metavar="N", help="random choices (twice --seeds if not given)")
    verb.add_argument("--full-seeds", type=int, default=1, metavar="N", help="finetunes of the whole pool")
    add_finetuning(verb)
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the runs, the tables and the figure")
    add_retry_failed(verb)
    verb.add_argument("--keep-models", action="store_true", help="keep the final model of each run, with a card")


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from ..data.inputs import load_pool, parse_mapping
    from ..outputs.records import Records
    from ..sweep.manifest import MANIFEST

    columns = parse_mapping(args.columns)
    Records(args.output_dir).check_unclaimed(MANIFEST)  # before a rule's embeddings are made
    recipe, eval_sets = read_finetuning(args)
    scored = load_pool(args.input, **pick(args, load_pool, columns=columns))
    strategies = read_strategies(args, scored, columns)
    function = him.compare_strategies
    given = pick(args, function, recipe=recipe, eval_sets=eval_sets, columns=columns, sizes=args.size)
    comparison = function(scored, strategies, **given)
    summary = comparison.summary()
    folder = Path(args.output_dir)
    with written_whole(folder / TABLES) as partial:
        partial.write_text(f"![Difference to random]({FIGURE})\n\n{summary}\n", encoding="utf-8")
    comparison.plot(folder / FIGURE)
    print(f"{summary}\n\nWrote {folder / TABLES} and {folder / FIGURE}")


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
    rule = load_rule(place)
    if encoder := options.pop("encoder", None):
        options["embeddings"] = embeddings(encoder)
    try:
        return name, him.Selector(rule, **options)
    except TypeError as error:
        raise InstructMineError(f"--rule {name}: {str(error).split('() ')[-1]}") from error


def _pair(text: str, option: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise InstructMineError(f"{option} {text!r} is not of the form NAME=VALUE")
    return name, value
