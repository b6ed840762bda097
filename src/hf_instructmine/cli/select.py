"""`instructmine select`: reads the pool and the rule, selects, and writes the curated dataset."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from ..errors import InstructMineError
from ..outputs.folder import check_output_folder
from .options import SOURCE, add_inputs, add_rule, add_verb, pick, say_next
from .values import embed, load_rule


if TYPE_CHECKING:
    from ..estimator.estimator import LossEstimator

# Parameters of `Selector`, `select` and `save_to_disk` that are not the option of that name.
OTHERWISE = {
    "rule": "from --rule or --strategy",
    "dataset": "from input",
    "embeddings": "from --encoder",
    "quotas": "from --quota",
    "eval_sets": "from --eval-set",
    "drop_duplicates": "from --keep-duplicates",
    "folder": "from --output-dir",
    "inputs": "from input",
}


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    verb = add_verb(
        verbs,
        "select",
        "Keep the rows of a scored pool that a rule predicts the lowest loss for, or those of a strategy without a "
        "rule, and write them with a dataset card.",
        run,
        required=("input", "output_dir"),
    )
    add_inputs(verb, "seed of the sample, and of a strategy that draws")
    add_rule(verb)
    add_strategy(verb)
    verb.add_argument("--size", type=int, metavar="N", help="keep N rows")
    verb.add_argument("--fraction", type=float, metavar="F", help="keep this share of the pool, 0 to 1")
    verb.add_argument("--tokens", type=int, metavar="N", help="keep rows up to N response tokens")
    verb.add_argument("--max-log-loss", type=float, metavar="X", help="keep rows predicted at most X")
    verb.add_argument("--keep-duplicates", action="store_true", help="do not skip exact copies of a selected row")
    verb.add_argument("--max-similarity", type=float, metavar="X", help="no two rows of a cosine above X")
    verb.add_argument(
        "--near-duplicates", type=float, metavar="X", help="no two rows of a Jaccard similarity of X (word triples)"
    )
    verb.add_argument("--set-level", action="store_true", help="measure knn_<i> to the rows chosen, not to the pool")
    verb.add_argument("--encoder", metavar="MODEL", help="sentence encoder, for --max-similarity and --set-level")
    verb.add_argument("--quota", nargs="+", metavar="SOURCE=MIN:MAX", help="shares of a source, e.g. web=0.1:0.5")
    verb.add_argument("--max-response-tokens", type=int, metavar="N", help="no response longer than N tokens")
    verb.add_argument("--length-bins", type=int, metavar="N", help="responses of N classes of length as in the pool")
    verb.add_argument(
        "--eval-set",
        nargs="+",
        metavar="NAME=SOURCE",
        help=f"leave out rows with a prompt of this set; each a {SOURCE}",
    )
    add_described(verb)
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the curated dataset, its card and the rule")
    verb.add_argument("--overwrite", action="store_true", help="replace another selection in that folder")


def add_described(verb: argparse.ArgumentParser) -> None:
    """Adds what the rows cannot say of themselves, for the card."""
    verb.add_argument(
        "--license", metavar="ID", help="licence of the whole, as on the Hub (the inputs' cards', if one)"
    )
    verb.add_argument(
        "--language", nargs="+", metavar="CODE", help="languages, such as en (those of the inputs' cards)"
    )
    verb.add_argument("--source-license", nargs="+", metavar="SOURCE=ID", help="licence of a source")
    verb.add_argument("--pretty-name", metavar="NAME", help="what the data set is called in its card")


def add_strategy(verb: argparse.ArgumentParser) -> None:
    """Adds how to choose without a rule."""
    verb.add_argument(
        "--strategy", metavar="WHAT",
        help="without a rule: longest, random, highest:COLUMN, lowest:COLUMN, highest:COLUMN<LIMIT, balanced:COLUMN, "
        "lowest-perplexity, highest-perplexity, highest-reward, highest-ifd, knn-diversity or balanced-random",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from ..data.evaluation_sets import open_eval_sets
    from ..data.inputs import load_pool, parse_mapping
    from ..selection.near_copies import check_near_duplicates
    from ..selection.origin import check_stated
    from ..selection.sections import not_measured

    # What can be wrong is read before the pool is.
    columns = parse_mapping(args.columns)
    compares = args.set_level or args.max_similarity is not None
    if compares and args.encoder is None:
        option = "--set-level" if args.set_level else "--max-similarity"
        raise InstructMineError(f"{option} compares embeddings: name a sentence encoder with --encoder")
    rule, quotas = read_chooser(args), parse_quotas(args.quota)
    eval_sets = open_eval_sets(args.eval_set) if args.eval_set else None
    check_stated(args.license, args.language, args.source_license)
    if args.near_duplicates is not None:
        check_near_duplicates(args.near_duplicates)
    check_output_folder(args.output_dir, args.overwrite)
    scored = load_pool(args.input, **pick(args, load_pool, columns=columns))

    embeddings = embed(args.encoder, scored, columns) if compares else None
    given = pick(args, him.Selector, rule=rule, quotas=quotas, eval_sets=eval_sets, embeddings=embeddings)
    selector = him.Selector(**given)
    given = pick(args, selector.select, columns=columns, drop_duplicates=not args.keep_duplicates)
    selection = selector.select(scored, **given)
    selection.describe(**pick(args, selection.describe, inputs=args.input))
    selection.save_to_disk(args.output_dir, **pick(args, selection.save_to_disk))
    print(selection)
    if selection.license is None:
        print("The licence of these rows is not known: the card says so; --license states one")
    if selection.strategy is not None:
        print("\n".join(not_measured(selection, " ".join(args.input), args.output_dir)))
    print(f"\nWrote {args.output_dir}: load_dataset({str(args.output_dir)!r}) opens it; README.md is its dataset card")
    say_next("report", args.output_dir)


# Options of `select` that only a rule can be asked for.
_OF_RULES = ("max_log_loss", "max_leverage", "allow_mismatch", "set_level")


def read_chooser(args: argparse.Namespace) -> "LossEstimator | str":
    """The rule, or the strategy, which is looked at before the pool is read.

    Raises:
        [`InstructMineError`]: Where there are both, or a strategy is asked for what only a rule has.
    """
    from ..selection.preference import Preference

    if args.strategy is None and args.rule is None:
        told = "rule is missing (here or in --config): give --rule RULE, or --strategy WHAT, such as longest or random"
        print(f"instructmine select: error: {told}", file=sys.stderr)
        sys.exit(2)  # wrong usage, as of other options that are missing
    if args.strategy is None:
        return load_rule(args.rule)
    if args.rule is not None:
        raise InstructMineError("--rule and --strategy are two ways to choose: give one of them")
    for name in _OF_RULES:
        if vars(args).get(name):
            option = f"--{name.replace('_', '-')}"
            raise InstructMineError(f"{option} is about a rule, and --strategy {args.strategy} is none: leave it out")
    Preference.parse(args.strategy)
    return args.strategy


def parse_quotas(texts: Sequence[str] | None) -> dict[str, tuple[float | None, float | None]] | None:
    """Reads `SOURCE=LEAST:MOST`, shares from 0 to 1; either may be empty.

    Raises:
        [`InstructMineError`]: Where one is not of that form, or a source is named twice.
    """
    quotas: dict[str, tuple[float | None, float | None]] = {}
    for text in texts or ():
        source, _, bounds = text.rpartition("=")
        try:
            least, most = (float(bound) if bound.strip() else None for bound in bounds.split(":"))
        except ValueError:
            source = ""
        if not source:
            raise InstructMineError(f"the quota '{text}' is not of the form SOURCE=LEAST:MOST, such as web=0.1:0.5")
        if source in quotas:
            raise InstructMineError(f"the source '{source}' has two quotas")
        quotas[source] = (least, most)
    return quotas or None
