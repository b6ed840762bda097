"""`instructmine push`: sends a curated dataset, or a sweep's runs, to the Hub."""

import argparse
import sys
from pathlib import Path
from textwrap import fill
from typing import Any

import hf_instructmine as him

from ..errors import InstructMineError
from .options import add_verb, pick
from .values import warn_against


# Parameters of `push_runs` and `Selection.push_to_hub` that are not the option of that name.
OTHERWISE = {"token": "from `hf auth login` or HF_TOKEN: a command line is seen by others and stays in the history"}


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    verb = add_verb(
        verbs,
        "push",
        "Push a curated dataset's folder, or a sweep's runs, to the Hub, as one commit.",
        run,
        required=("folder", "repo_id"),
    )
    verb.add_argument("folder", nargs="?", help="folder that `instructmine select` or `sweep` wrote")
    verb.add_argument("repo_id", nargs="?", help="e.g. me/alpaca-curated")
    verb.add_argument("--private", action="store_true", help="make the repository private")


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from ..outputs.hub import push_folder
    from ..outputs.markdown import PARQUET_FILE

    if Path(args.folder, "sweep.json").is_file():
        full_id = him.push_runs(**pick(args, him.push_runs))
        print(f"Pushed the runs of {args.folder}: load_dataset({full_id!r}) opens them")
        return
    if not Path(args.folder, PARQUET_FILE).is_file():  # which a rule alone has not
        raise InstructMineError(
            f"'{args.folder}' holds no curated dataset: give a folder that `instructmine select` wrote"
        )
    print(_verdict(args.folder))
    message = "Add rows chosen by hf-instructmine"
    full_id = push_folder(**pick(args, push_folder), repo_type="dataset", commit_message=message)
    print(f"Pushed {args.folder}: load_dataset({full_id!r}) opens it")


def _verdict(folder: str) -> str:
    """What the rule is worth that chose the rows of a folder, as a paragraph; a rule that says "do not" warns too."""
    from ..estimator import file as estimator_file
    from ..estimator.summary import WIDTH
    from ..estimator.verdict import paragraph

    if not Path(folder, estimator_file.FILE_NAME).is_file():
        return "Which rule chose these rows is not known: the folder holds none."
    try:
        selection = him.Selection.load(folder)
    except InstructMineError as error:  # what an earlier version saved can be pushed as it is
        print(f"warning: {error}", file=sys.stderr)
    else:
        warn_against(selection.estimator)
        return fill(selection.verdict(), WIDTH)
    rule = him.LossEstimator.from_pretrained(folder)
    warn_against(rule)
    return fill(paragraph(rule), WIDTH)
