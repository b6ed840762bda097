"""What a function says of its parameters, in the words of a command line: `overwrite=True` is `--overwrite` there."""

import argparse
import re
from collections.abc import Mapping

from .parser import VerbParser


# What stands in quotes is the user's: no word of it is changed. An apostrophe within a word opens none.
_QUOTED = r"(?<![\w=`])'[^']*'"
_VALUE = r"'[^']*'|\[[^\]]*\]|\{[^}]*\}|\w+\([^)]*\)(?:\.\w+\([^)]*\))?|[\w+-]+(?:\.\w+)*|…"


def in_options(message: str, verb: VerbParser, otherwise: Mapping[str, str]) -> str:
    """A message that names parameters of a function, with the options that stand for them.

    Args:
        message (`str`): Written for Python.
        verb ([`VerbParser`]): Whose options they are.
        otherwise (`Mapping[str, str]`): Parameters of another name than their option, which the text begins with:
            "from --eval-set". A flag of another name means the parameter's `False`.
    """
    named = {action.dest: action for action in verb.options.values() if action.option_strings}
    by_option = verb._option_string_actions
    for parameter, text in otherwise.items():
        found = re.match(r"from (--[\w-]+)", text)
        if found and found[1] in by_option:
            named.setdefault(parameter, by_option[found[1]])
    if not named:
        return message
    names = "|".join(sorted(map(re.escape, named), key=len, reverse=True))
    pattern = re.compile(
        rf"{_QUOTED}|`(?P<ticked>{names})`|(?<![\w./-])(?:(?P<given>{names})=(?P<value>{_VALUE})|"
        rf"(?P<listed>(?:{names})(?:, (?:{names}))+)\b(?![\w=./'-])|(?P<bare>{names})\b(?![\w=./'-]))"
    )

    def option(found: re.Match[str]) -> str:
        if name := found["ticked"]:
            return f"`{named[name].option_strings[0]}`"
        if name := found["given"]:
            return _given(named[name], found["value"], name)
        if found["listed"]:
            return ", ".join(named[name].option_strings[0] for name in found["listed"].split(", "))
        # Without an underscore it may be any word.
        return named[name].option_strings[0] if (name := found["bare"]) and "_" in name else found[0]

    return pattern.sub(option, message)


def _given(action: argparse.Action, value: str, parameter: str) -> str:
    """How an option is written that gives a parameter this value."""
    option = action.option_strings[0]
    if action.nargs == 0:
        of_that_name = action.dest == parameter and not isinstance(action, argparse._StoreFalseAction)
        return option if value == str(of_that_name) else f"no {option}"
    metavar = action.metavar if isinstance(action.metavar, str) else None
    if value in ("…", "[…]", "[...]", "{…}", "None") or value.endswith(")"):
        return f"{option} {metavar or '…'}"
    if value.startswith("{"):
        pairs = re.findall(r"'([^']*)': ('[^']*'|[^,}]+)", value)
        joint = "," if action.nargs is None else " "
        return f"{option} {joint.join(f'{key}={_bare(given)}' for key, given in pairs)}"
    if value.startswith("["):
        return f"{option} {' '.join(_bare(item) for item in value[1:-1].split(', '))}"
    return f"{option} {_bare(value)}"


def _bare(value: str) -> str:
    return value.strip().strip("'")
