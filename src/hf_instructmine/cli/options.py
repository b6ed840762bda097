"""What the verbs have in common: how one is made, options that several have, and how they reach a function."""

import argparse
import inspect
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .parser import VerbParser


# What names rows on the command line.
SOURCE = (
    "file (JSON, JSON lines, CSV, TSV or Parquet, compressed or not), or a Hub dataset id or folder, with :SPLIT or "
    ":CONFIG:SPLIT after it where it has several"
)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where it tells something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is None or action.default is False or action.default == []
        return action.help if says_nothing else super()._get_help_string(action)


def add_verb(
    verbs: Any, name: str, help: str, run: Callable[[argparse.Namespace], int | None], required: Sequence[str] = ()
) -> VerbParser:
    """Adds a verb to what `add_subparsers` returned.

    Args:
        verbs: What `add_subparsers` returned.
        name (`str`): The word on the command line.
        help (`str`): What the verb does.
        run (`Callable`): Runs the verb; it may return the exit code.
        required (`Sequence[str]`): Options that have to be given, on the command line or in the file of `--config`.

    Returns:
        [`VerbParser`]: For the options of the verb.
    """
    verb: VerbParser = verbs.add_parser(name, help=help, description=help, formatter_class=_HelpFormatter)
    verb.set_defaults(run=run, required=required)
    verb.add_argument("--config", metavar="FILE", help="YAML file with any of these options; the command line wins")
    return verb


def pick(args: argparse.Namespace, function: Callable[..., Any], **read: Any) -> dict[str, Any]:
    """The options that have the name of a parameter of `function`; what was `read` from an option goes before it."""
    return {name: vars(args)[name] for name in inspect.signature(function).parameters if name in args} | read


def say_next(*command: object, instead: Sequence[object] = ()) -> None:
    """Prints what to do next: a command of ours by its words, quoted for a shell, and another one `instead`.

    What only the user knows is a word in capitals.
    """
    print(f"Next: {shlex.join(map(str, ('instructmine', *command)))}")
    if instead:
        print(f"  or: {shlex.join(map(str, ('instructmine', *instead)))}")


def beside(folder: object, name: str) -> Path:
    """A folder of that name beside another one."""
    return Path(str(folder)).with_name(name)


def add_inputs(verb: argparse.ArgumentParser, seed: str = "seed of the sample") -> None:
    """Adds where the rows are and how they are read."""
    verb.add_argument("input", nargs="*", help=f"the rows; each a {SOURCE}")
    verb.add_argument("--split", help="split of inputs that name none (train, or the only one, if not given)")
    verb.add_argument("--sample", type=int, metavar="N", help="take N rows at random")
    verb.add_argument("--seed", type=int, default=0, help=seed)
    verb.add_argument(
        "--columns", metavar="PART=COLUMN,…", help="which column is which, e.g. prompt=question,response=best_answer"
    )


def add_rule(verb: argparse.ArgumentParser) -> None:
    """Adds the rule that selects, and how far it is trusted."""
    verb.add_argument("--rule", metavar="RULE", help="instructmining-v1, instructmining-v2, a rule's folder or Hub id")
    verb.add_argument("--max-leverage", type=float, metavar="X", help="stay where the rule was tested")
    verb.add_argument("--allow-mismatch", action="store_true", help="accept indicators made otherwise than the rule's")


def add_finetuning(verb: argparse.ArgumentParser) -> None:
    """Adds how finetunes are made, by what, and what they are measured on."""
    add_recipe(verb)
    verb.add_argument(
        "--eval-set",
        nargs="+",
        metavar="NAME=SOURCE",
        help=f"gives a column loss_NAME; several may be given; each a {SOURCE}",
    )
    verb.add_argument(
        "--executor", default="inline", help="inline, local (one run on each GPU), accelerate (a process each), or ray"
    )
    verb.add_argument("--workers", type=int, metavar="N", help="processes of --executor local (one for each GPU)")
    add_accelerate_config(verb)


def add_recipe(verb: argparse.ArgumentParser, help: str = "how to finetune: a recipe's name, or a YAML file") -> None:
    """Adds how finetunes are made."""
    verb.add_argument("--recipe", metavar="RECIPE", help=help)
    verb.add_argument(
        "--set", nargs="+", metavar="KEY=VALUE", help="options that win over the recipe's, e.g. learning_rate=1e-4"
    )


def add_accelerate_config(verb: argparse.ArgumentParser) -> None:
    """Adds the file of options for `accelerate launch`."""
    verb.add_argument("--accelerate-config", metavar="FILE", help="YAML for `accelerate launch --config_file`")


def add_retry_failed(verb: argparse.ArgumentParser) -> None:
    """Adds whether failed runs are run again."""
    verb.add_argument("--retry-failed", action="store_true", help="run those again that were recorded as failed")
