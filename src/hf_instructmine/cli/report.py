"""`instructmine report`: one HTML page that shows what a folder holds."""

import argparse
from typing import Any

import hf_instructmine as him

from .options import add_verb, pick


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    verb = add_verb(
        verbs,
        "report",
        "Write one HTML page, which needs no network: the verdict, the rule, the figures, and a table of rows that "
        "says of each why it was kept or not.",
        run,
        required=("folder",),
    )
    verb.add_argument("folder", nargs="?", help="folder that a verb wrote, or one that holds such folders")
    verb.add_argument("--output-file", metavar="FILE", help="the page (report.html in the folder, if not given)")
    verb.add_argument("--pool", metavar="DIR", help="folder of the scored pool, where it is elsewhere")
    verb.add_argument(
        "--columns", metavar="PART=COLUMN,…", help="which column is which, e.g. prompt=question,response=best_answer"
    )
    verb.add_argument("--full-texts", action="store_true", help="do not cut prompts and responses")
    verb.add_argument("--overwrite", action="store_true", help="replace a file that is no report of this project")


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from ..data.inputs import parse_mapping

    path = him.report(**pick(args, him.report, columns=parse_mapping(args.columns)))
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser; it needs no network")
