"""`instructmine <verb>`: parses, and runs the verb.

Exit code 0: done; 1: a failure, explained in one line; 2: wrong usage; 130: stopped by Ctrl-C.
"""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InstructMineError, nearest
from ..outputs.folder import refuse_input
from ..outputs.reading import read_yaml
from . import compare, demo, evaluate, finetune, fit, judge, mine, push, report, score, search_size, select, sweep
from .completion import PrintCompletion
from .interrupt import stoppable
from .parser import VerbParser
from .terminal import harmless_output
from .wording import in_options


# In the order of a user's way.
VERBS = (mine, score, finetune, sweep, fit, select, search_size, compare, evaluate, judge, report, push, demo)
# What a verb that is stopped leaves; others write all at their end, or nothing.
_GOES_ON = "the same command goes on where it stopped"
_LEFT = {
    "mine": f"what is finished is kept: {_GOES_ON}",
    "score": f"finished shards are kept: {_GOES_ON}",
    "finetune": "checkpoints that the recipe asked for are kept: add --resume_from_checkpoint true to go on",
    "sweep": f"finished runs are kept: {_GOES_ON}",
    "search-size": f"finished runs are kept: {_GOES_ON}",
    "compare": f"finished runs are kept: {_GOES_ON}",
    "evaluate": f"what was measured is kept: {_GOES_ON}",
    "judge": f"answers and verdicts are kept: {_GOES_ON}",
    "push": "a commit is on the Hub whole or not at all",
    "demo": f"finished parts are kept: {_GOES_ON}",
}
# Options that may be mappings in a file.
_MAPPINGS = ("indicator", "columns", "judge_options", "set")


@harmless_output()
def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    args = _parse(argv)
    with stoppable() as interrupt:
        try:
            if getattr(args, "input", None) and getattr(args, "output_dir", None):
                refuse_input(args.output_dir, args.input)
            return args.run(args) or 0
        except InstructMineError as error:
            if not interrupt.seen:  # else it is what a library made of the interrupt
                print(f"instructmine {args.verb}: {_worded(str(error), args.verb)}", file=sys.stderr)
                return 1
        except KeyboardInterrupt:
            pass
        except Exception:
            if not interrupt.seen:
                raise
    left = _LEFT.get(args.verb, "nothing was written: the same command starts again")
    print(f"\ninstructmine {args.verb}: stopped; {left}", file=sys.stderr)
    return 130


def parsers() -> tuple[argparse.ArgumentParser, dict[str, VerbParser]]:
    """The parser of the command, and that of each verb."""
    parser = argparse.ArgumentParser(
        prog="instructmine",
        description="Choose the instruction examples worth finetuning on, and measure whether that beats random.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--print-completion", action=PrintCompletion, metavar="SHELL", help="what bash, zsh or tcsh reads to complete"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb", parser_class=VerbParser)
    for verb in VERBS:
        verb.add_options(verbs)
    for sorted_one in verbs.choices.values():
        sorted_one.sort_options()
    return parser, verbs.choices


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    words = list(sys.argv[1:] if argv is None else argv)
    parser, verbs = parsers()
    if words and not words[0].startswith("-") and words[0] not in verbs:
        parser.error(f"argument verb: invalid choice: '{words[0]:.80}': {nearest(words[0], verbs)}")
    args, options = parser.parse_known_args(words)
    args.options = options  # of `finetune`, which passes them on
    verb = verbs[args.verb]
    if options and not verb.passes_on:
        verb.error(f"unrecognized arguments: {' '.join(options)}")
    if getattr(args, "config", None) is not None:
        verb.set_defaults(**_read_config(verb, args.config))
        args = parser.parse_args(words)
    for option in () if getattr(args, "status", None) else args.required:
        if getattr(args, option) in (None, []):
            verb.missing(option, args)
    return args


def _worded(message: str, name: str) -> str:
    """A message for the user of a verb, who knows its options."""
    of_verb = {module.__name__.rpartition(".")[2].replace("_", "-"): module for module in VERBS}
    return in_options(message, parsers()[1][name], getattr(of_verb[name], "OTHERWISE", {}))


def _read_config(verb: VerbParser, path: str) -> dict[str, Any]:
    known = {name: action for name, action in verb.options.items() if name not in ("help", "config")}
    try:
        values = read_yaml(Path(path), f"--config {path}")
    except InstructMineError as error:
        verb.error(str(error))
    values = {key.replace("-", "_"): value for key, value in values.items()}
    unknown = [key for key in values if key not in known]
    if unknown:
        verb.error(f"--config {path} has the unknown option '{unknown[0]}': {nearest(unknown[0], sorted(known))}")
    return {key: _as_given(verb, known[key], value, f"--config {path}: {key}") for key, value in values.items()}


def _as_given(verb: argparse.ArgumentParser, action: argparse.Action, value: Any, where: str) -> Any:
    """A value of a file as the command line would give it, for the parser to convert and check."""
    if value is None:
        return action.default
    if action.nargs == 0:
        if not isinstance(value, bool):
            verb.error(f"{where} is true or false, not {value!r:.80}")
        return value
    if action.nargs not in (None, "?"):
        listed = value if isinstance(value, list) else [value]
        return [_one_value(verb, action, item, where) for item in listed]
    if action.type is not None:
        return str(value)  # which the parser converts and checks as it does on the command line
    return _one_value(verb, action, value, where)


def _one_value(verb: argparse.ArgumentParser, action: argparse.Action, value: Any, where: str) -> Any:
    if isinstance(value, dict) and action.dest in _MAPPINGS:
        return value
    if isinstance(value, dict | list) or value is None:
        verb.error(f"{where} is {value!r:.80}, where one value is expected")
    try:
        converted = action.type(str(value)) if callable(action.type) else str(value)
    except (TypeError, ValueError):
        verb.error(f"{where} is {value!r:.80}, which is no {getattr(action.type, '__name__', 'value')}")
    if action.choices is not None and converted not in action.choices:
        verb.error(f"{where} is {value!r:.80}: {nearest(value, action.choices)}")
    return converted


def run() -> None:
    """Entry point of the `instructmine` command."""
    # Threads that spin long for work hinder each other where cores are shared, and those that sleep at once are slow
    # to wake: so many rounds take about as long as waking. To be set before torch loads; see docs/sweep.md.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # what fails is said once, in a line of ours
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # of use to a user is what it says
    sys.exit(main())
