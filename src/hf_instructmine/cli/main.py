"""`instructmine <verb>`: parses, and runs the verb.

Exit code 0: done; 1: a failure, explained in one line; 2: wrong usage.
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
from ..errors import InstructMineError, one_line
from ..outputs.folder import refuse_input
from . import compare, demo, evaluate, finetune, fit, judge, push, report, score, search_size, select, sweep
from .terminal import harmless_output


# In the order of a user's way.
VERBS = (score, finetune, sweep, fit, select, search_size, compare, evaluate, judge, report, push, demo)


@harmless_output()
def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    args = _parse(argv)
    try:
        if getattr(args, "input", None) and getattr(args, "output_dir", None):
            refuse_input(args.output_dir, args.input)
        return args.run(args) or 0
    except InstructMineError as error:
        print(f"instructmine {args.verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninstructmine {args.verb}: stopped; the same command goes on where it stopped", file=sys.stderr)
        return 130


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the command, and that of each verb."""
    parser = argparse.ArgumentParser(
        prog="instructmine",
        description="Choose the instruction examples worth finetuning on, and measure whether that beats random.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for verb in VERBS:
        verb.add_options(verbs)
    return parser, verbs.choices


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser, verbs = parsers()
    args, options = parser.parse_known_args(argv)
    args.options = options
    if args.options and args.verb != "finetune":  # which passes them on
        parser.error(f"unrecognized arguments: {' '.join(args.options)}")
    if getattr(args, "config", None) is not None:
        verb = verbs[args.verb]
        verb.set_defaults(**_read_config(verb, args.config))
        args = parser.parse_args(argv)
    for option in () if getattr(args, "status", None) else args.required:
        if getattr(args, option) in (None, []):
            verbs[args.verb].error(f"{option.replace('_', '-')} is missing (here or in --config)")
    return args


def _read_config(verb: argparse.ArgumentParser, path: str) -> dict[str, Any]:
    import yaml

    known = {a.dest: a for a in verb._actions if a.dest not in ("help", "config")}
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        verb.error(f"cannot read --config {path}: {one_line(error)}")
    if not isinstance(values, dict):
        verb.error(f"--config {path} must hold 'option: value' lines")
    values = {key.replace("-", "_"): value for key, value in values.items()}
    unknown = [key for key in values if key not in known]
    if unknown:
        verb.error(f"--config {path} has the unknown option '{unknown[0]}'; known are {', '.join(sorted(known))}")
    for key, value in values.items():
        action = known[key]
        if action.nargs in ("*", "+"):
            values[key] = value if isinstance(value, list) else [value]
        elif action.nargs == 0 and not isinstance(value, bool):
            verb.error(f"--config {path}: {key} is true or false, not {value!r}")
        elif action.type is not None and value is not None:
            values[key] = str(value)  # which the parser converts and checks as it does on the command line
    return values


def run() -> None:
    """Entry point of the `instructmine` command."""
    # Threads that spin long for work hinder each other where cores are shared, and those that sleep at once are slow
    # to wake: so many rounds take about as long as waking. To be set before torch loads; see docs/sweep.md.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # what fails is said once, in a line of ours
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # of use to a user is what it says
    sys.exit(main())
