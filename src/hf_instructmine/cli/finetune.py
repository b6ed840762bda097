"""`instructmine finetune`: starts the processes of one finetune."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..finetuning.launching import launch
from .options import add_accelerate_config, beside, pick, say_next
from .parser import VerbParser
from .values import read_settings


# Parameters of `launch` that are not the option of that name.
OTHERWISE = {"recipe": "from --config", "options": "from --set, and whatever else is on the command line"}


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    about = "Finetune once by a recipe, on one process or several, and measure the loss on evaluation sets."
    more = "All other options are the recipe's: `--train rows.jsonl --eval_sets NAME=FILE`, or TRL's, as "
    verb: VerbParser = verbs.add_parser(
        "finetune", help=about, description=f"{about} {more}`--learning_rate 1e-4`. They win over the recipe."
    )
    verb.passes_on = True
    verb.set_defaults(run=run, required=())
    verb.add_argument(
        "--config", dest="recipe", metavar="RECIPE", required=True, help="a recipe's name, or a YAML file"
    )
    verb.add_argument(
        "--set", nargs="+", metavar="KEY=VALUE", help="the same as --KEY VALUE, as for the verbs that sweep"
    )
    verb.add_argument("--num-processes", type=int, metavar="N", help="how many train together; fewer are an error")
    add_accelerate_config(verb)


def run(args: argparse.Namespace) -> int:
    """Runs the verb and returns the exit code of the processes."""
    code = launch(**pick(args, launch, options=[*_as_options(read_settings(args.set or ())), *args.options]))
    where = _option(args.options, "--output_dir")
    if code == 0 and where is not None:
        print(f"Wrote {where}: from_pretrained opens it")
        say_next("evaluate", f"tuned={where}", "--eval-set", "NAME=SOURCE", "--output-dir", beside(where, "evaluated"))
    return code


def _as_options(settings: Mapping[str, Any]) -> list[str]:
    """Settings as words of a command line, which TRL reads."""
    words = []
    for key, value in settings.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{key}", *(json.dumps(v) if isinstance(v, dict | bool) or v is None else str(v) for v in values)]
    return words


def _option(words: Sequence[str], name: str) -> str | None:
    """The value of an option among words that another program reads."""
    for word, following in zip(words, [*words[1:], None]):
        key, equals, value = word.partition("=")
        if key.replace("-", "_") == name.replace("-", "_"):
            return value if equals else following
    return None
