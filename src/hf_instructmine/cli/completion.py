"""Completion by a shell: `instructmine --print-completion bash` prints what a shell has to read."""

import argparse
from collections.abc import Mapping
from typing import Any

from ..errors import InstructMineError, not_one_of
from ..indicators import known_names
from .parser import VerbParser


# Options and inputs that may be a file or folder, though their metavar does not say so.
_PATHS = ("input", "runs", "folder", "model", "models", "encoder", "judge")


def completion_script(parser: argparse.ArgumentParser, verbs: Mapping[str, VerbParser], shell: str) -> str:
    """What a shell reads to complete verbs, options, names that we know, files and folders.

    Args:
        parser (`argparse.ArgumentParser`): Of the command. It parses no more: known names become the only ones.
        verbs (`Mapping[str, VerbParser]`): The parser of each verb.
        shell (`str`): `"bash"`, `"zsh"` or `"tcsh"`, or another one that shtab knows.

    Raises:
        [`InstructMineError`]: Where shtab is not installed, or does not know the shell.
    """
    try:
        import shtab
    except ImportError as error:
        raise InstructMineError("completion needs shtab: pip install 'hf-instructmine[completion]'") from error
    if shell not in shtab.SUPPORTED_SHELLS:
        raise InstructMineError(f"the shell must be {not_one_of(shell, shtab.SUPPORTED_SHELLS)}")
    names = _names()
    for name, action in ((name, action) for verb in verbs.values() for name, action in verb.options.items()):
        metavar = str(action.metavar)
        # In `compare` a rule is NAME=RULE.
        if name in names and action.choices is None and metavar != "NAME=RULE[,OPTION=VALUE…]":
            action.choices = names[name]
        elif metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif "FILE" in metavar or "SOURCE" in metavar or name in _PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell=shell))


def _names() -> dict[str, list[str]]:
    """Names of ours that an option takes, by the option."""
    from ..estimator.estimator import PUBLISHED
    from ..outputs.files import shipped
    from ..sweep.executors import EXECUTORS
    from ..sweep.mixtures import METHODS

    return {
        "indicator": known_names(),
        "recipe": sorted(path.stem for path in shipped("recipes").glob("*.yaml")),
        "rule": [*PUBLISHED],
        "executor": [*EXECUTORS],
        "method": [*METHODS],
    }


class PrintCompletion(argparse.Action):
    """Prints the script and ends."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None
    ) -> None:
        """Called by the parser."""
        (verbs,) = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        try:
            print(completion_script(parser, verbs, str(values)))
        except InstructMineError as error:
            parser.exit(1, f"instructmine: {error}\n")
        parser.exit()
