"""`instructmine finetune`: starts the processes of one finetune."""

import argparse
from typing import Any

from ..finetuning.launching import launch
from .options import add_accelerate_config, pick
from .parser import VerbParser


# Parameters of `launch` that are not the option of that name.
OTHERWISE = {"recipe": "from --config", "options": "whatever else is on the command line"}


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    about = "Finetune once by a recipe, on one process or several, and measure the loss on evaluation sets."
    more = "All other options are the recipe's: `--train rows.jsonl --eval_sets NAME=FILE`, or TRL's, as "
    verb: VerbParser = verbs.add_parser(
        "finetune", help=about, description=f"{about} {more}`--learning_rate 1e-4`. They win over the recipe."
    )
    verb.passes_on = True
    verb.set_defaults(run=run, required=())
    verb.add_argument("--config", dest="recipe", metavar="RECIPE", required=True, help="YAML file, as in recipes/")
    verb.add_argument("--num-processes", type=int, metavar="N", help="how many train together; fewer are an error")
    add_accelerate_config(verb)


def run(args: argparse.Namespace) -> int:
    """Runs the verb and returns the exit code of the processes."""
    return launch(**pick(args, launch))
