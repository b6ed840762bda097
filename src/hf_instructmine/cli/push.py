"""`instructmine push`: sends a curated dataset, a rule, or a sweep's runs, to the Hub."""

import argparse
import sys
from pathlib import Path
from textwrap import fill
from typing import Any

import hf_instructmine as him

from ..errors import InstructMineError
from ..outputs.hub_card import own_parts
from ..outputs.markdown import printable
from ..outputs.publishing import CARD, Pushed, publish
from ..outputs.shards import MAX_SHARD_SIZE, shards_in
from .options import add_verb, pick
from .values import warn_against


# Parameters of the functions behind the verb that are not the option of that name.
OTHERWISE = {"token": "from `hf auth login` or HF_TOKEN: a command line is seen by others and stays in the history"}
MOST_NAMES = 5


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    verb = add_verb(
        verbs,
        "push",
        "Push a curated dataset, a rule, or a sweep's runs, to the Hub, as one commit.",
        run,
        required=("folder", "repo_id"),
    )
    verb.add_argument("folder", nargs="?", help="folder that `instructmine select`, `fit` or `sweep` wrote")
    verb.add_argument("repo_id", nargs="?", help="e.g. me/alpaca-curated")
    verb.add_argument("--private", action="store_true", help="make the repository private")
    verb.add_argument("--revision", metavar="BRANCH", help="branch to commit to, which has to exist")
    verb.add_argument("--create-pr", action="store_true", help="open a pull request in place of a commit")
    verb.add_argument("--commit-message", metavar="TEXT", help="first line of the commit")
    verb.add_argument(
        "--max-shard-size", default=MAX_SHARD_SIZE, metavar="SIZE", help="of a Parquet file, in memory, such as 2GB"
    )
    verb.add_argument(
        "--overwrite", action="store_true", help="replace a card in the repository that ours cannot be merged into"
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from ..estimator import file as estimator_file
    from ..selection.saved import RECORD_FILE

    folder = Path(args.folder)
    if not folder.is_dir():
        raise InstructMineError(f"there is no folder '{args.folder}': give one that instructmine wrote")
    if (folder / "sweep.json").is_file():
        _told(args, him.push_runs(**pick(args, him.push_runs)), f"the runs of {args.folder}", "load_dataset({!r})")
    elif shards_in(folder):
        push = _selection if (folder / RECORD_FILE).is_file() else _earlier_selection
        _told(args, push(args), args.folder, "load_dataset({!r})")
    elif (folder / estimator_file.FILE_NAME).is_file():
        _told(args, _rule(args), f"the rule in {args.folder}", "LossEstimator.from_pretrained({!r})")
    else:
        raise InstructMineError(
            f"'{args.folder}' holds no curated dataset, rule or sweep: give a folder that `instructmine select`, "
            "`fit` or `sweep` wrote"
        )


def _selection(args: argparse.Namespace) -> Pushed:
    selection = him.Selection.load(args.folder)
    if selection.estimator is not None:  # else a strategy chose, and the verdict says so
        warn_against(selection.estimator)
    _say(selection.verdict())
    return selection.push_to_hub(**pick(args, selection.push_to_hub))


def _earlier_selection(args: argparse.Namespace) -> Pushed:
    """What an earlier version saved, which kept too little to reopen it: its own card, mended for the repository."""
    from ..estimator import file as estimator_file
    from ..estimator.verdict import paragraph
    from ..selection.earlier import push_earlier

    print(f"warning: '{args.folder}' was saved by an earlier version: its card says what that knew", file=sys.stderr)
    if (Path(args.folder) / estimator_file.FILE_NAME).is_file():
        rule = him.LossEstimator.from_pretrained(args.folder)
        warn_against(rule)
        _say(paragraph(rule))
    else:
        _say("Which rule chose these rows is not known: the folder holds none.")
    return push_earlier(args.folder, **pick(args, publish))


def _rule(args: argparse.Namespace) -> Pushed:
    rule = him.LossEstimator.from_pretrained(args.folder)
    warn_against(rule)
    return rule.push_to_hub(**pick(args, rule.push_to_hub))


def _say(paragraph: str) -> None:
    from ..estimator.summary import WIDTH

    print(fill(paragraph, WIDTH))


def _say_left(folder: str, pushed: Pushed) -> None:
    """Names what of a folder was not pushed."""
    root = Path(folder)
    sent = {*pushed.files, *(path.relative_to(root).as_posix() for path in shards_in(root))}
    known = {name.partition("/")[0] for name in sent}
    # Of folders that are not ours the name is enough.
    names = {entry.name for entry in root.iterdir()} - known
    names |= {
        path.relative_to(root).as_posix() for name in known for path in (root / name).rglob("*") if path.is_file()
    }
    left = sorted(names - sent)
    if left:
        some = ", ".join(printable(name) for name in left[:MOST_NAMES])
        more = f" and {len(left) - MOST_NAMES:,} more" if len(left) > MOST_NAMES else ""
        print(f"Left here, as not written by hf-instructmine: {some}{more}")


def _warn_of_own_parts(folder: str, pushed: Pushed) -> None:
    """Says what somebody wrote into a folder's card, which is made anew for the repository."""
    card = Path(folder, CARD)
    own = own_parts(card.read_text("utf-8", "replace"), pushed.card) if card.is_file() else []
    if own:
        some = ", ".join(printable(name) for name in own[:MOST_NAMES])
        print(
            f"warning: the card was made anew, without what {card} has besides ({some}): write it into the card on "
            "the Hub, below our part, where it stays",
            file=sys.stderr,
        )


def _told(args: argparse.Namespace, pushed: Pushed, what: str, opens: str) -> None:
    """Says what came of it, and what of the folder was left."""
    if not what.startswith("the runs"):  # of which the table alone is pushed
        _say_left(args.folder, pushed)
        _warn_of_own_parts(args.folder, pushed)
    opened = f"{opens.format(str(pushed))} opens {'them' if what.startswith('the runs') else 'it'}"
    if not pushed.changed:
        print(f"'{pushed}' holds all of {what} already: no commit was made; {opened}")
    elif pushed.pull_request:
        print(f"Opened {pushed.pull_request} with {what}")
    else:
        print(f"Pushed {what}: {opened}")
