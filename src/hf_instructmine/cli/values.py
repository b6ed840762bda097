"""What is written on the command line as text, and what it stands for: indicators, rules, recipes, embeddings."""

import argparse
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from ..errors import InstructMineError, nearest
from ..finetuning.recipe import Recipe
from ..indicators import find_indicator, known_names


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from ..data.evaluation_sets import EvaluationSet
    from ..estimator.estimator import LossEstimator
    from ..estimator.rule import Rule


_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def build_indicators(texts: Sequence[str | dict], columns: dict[str, str] | None) -> list[Any]:
    """Builds the indicators of a command. Columns of one model are one indicator, which runs the model once.

    Raises:
        [`InstructMineError`]: Where the name or an argument of one is not known.
    """
    joint: list[tuple[str, dict[str, Any]]] = []
    for name, arguments in map(_read_indicator, texts):
        asked: dict[str, Any] = {key: arguments[key] for key in ("also", "dimensions") if key in arguments}
        rest = {key: value for key, value in arguments.items() if key not in asked}
        for other, known in joint:
            same = other == name and {key: value for key, value in known.items() if key not in asked} == rest
            if asked and same and ("also" in asked or "dimensions" in known):
                known |= _join(name, asked, known)
                break
        else:
            joint.append((name, arguments))
    return [_build(name, arguments, columns) for name, arguments in joint]


def build_indicator(text: str | dict, columns: dict[str, str] | None) -> Any:
    """Builds an indicator from `NAME[,KEY=VALUE…]`, or from a YAML mapping `{NAME: {KEY: VALUE}}`.

    A name is an indicator's or a column's, in any case. A column of several that an indicator makes is asked for.

    Raises:
        [`InstructMineError`]: Where the name or an argument is not known.
    """
    return _build(*_read_indicator(text), columns)


def _read_indicator(text: str | dict) -> tuple[str, dict[str, Any]]:
    """The public name and the arguments of an indicator."""
    from ..data.inputs import parse_mapping

    if isinstance(text, str):
        name, _, arguments = text.partition(",")
        kwargs = parse_mapping(arguments)
    elif isinstance(text, dict) and len(text) == 1:
        ((name, kwargs),) = text.items()
    else:
        raise InstructMineError(f"{text!r:.60} is no indicator: write NAME,KEY=VALUE,… or {{NAME: {{KEY: VALUE}}}}")
    found = find_indicator(str(name))
    if found is None:
        raise InstructMineError(f"there is no indicator '{name}': {nearest(name, known_names())}")
    return found[0], _join(found[0], found[1], kwargs or {})


def _build(name: str, arguments: Mapping[str, Any], columns: dict[str, str] | None) -> Any:
    kwargs = {**arguments, **({} if columns is None else {"columns": columns})}
    indicator = getattr(him, name)
    known = inspect.signature(indicator).parameters
    if unknown := [key for key in kwargs if key not in known]:
        raise InstructMineError(f"{name} has no argument '{unknown[0]}': {nearest(unknown[0], known)}")
    needed = [key for key, parameter in known.items() if parameter.default is parameter.empty and key not in kwargs]
    if needed:
        raise InstructMineError(f"{name} needs {needed[0]}: write {name},{needed[0]}=…")
    return indicator(**kwargs)


def _join(name: str, asked: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a column asks for, with those that are written."""
    joint = dict(given)
    for key, value in asked.items():
        if isinstance(value, list):
            more = joint.get(key, [])
            given_first = [more] if isinstance(more, str) else list(more)
            joint[key] = [*given_first, *(one for one in value if one not in given_first)]
        elif joint.setdefault(key, value) != value:
            raise InstructMineError(f"{name},{key}={joint[key]} contradicts itself: the column is of {key}={value}")
    return joint


def load_rule(name: str) -> "LossEstimator":
    """A published rule by its name, else a rule by its folder or Hub id; one that says "do not" is told at once."""
    published = name.startswith("instructmining-")
    rule = him.LossEstimator.from_published(name) if published else him.LossEstimator.from_pretrained(name)
    warn_against(rule)
    return rule


def warn_against(rule: "Rule") -> None:
    """Says on stderr what a rule says of itself, where that is not to select by it."""
    from ..estimator.summary import WIDTH
    from ..estimator.verdict import advises_against, paragraph

    if advises_against(rule):
        print(fill(f"warning: {paragraph(rule)}", WIDTH), file=sys.stderr)


def read_finetuning(args: argparse.Namespace) -> "tuple[Recipe, dict[str, EvaluationSet]]":
    """The recipe and the evaluation sets. A mistake in them, or in the executor, is told before the pool is read.

    Raises:
        [`InstructMineError`]: Where one of them cannot be read, or the recipe is not valid.
    """
    from ..data.evaluation_sets import load_eval_sets
    from ..sweep.executors import Execution

    Execution(args.executor, args.accelerate_config, workers=args.workers)  # refuses what it does not know
    recipe, eval_sets = read_recipe(args), load_eval_sets(args.eval_set)
    recipe.arguments()
    return recipe, eval_sets


def read_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe of --recipe, with what --set says in place of its own."""
    recipe = Recipe.load(args.recipe)
    return Recipe({**recipe.settings, **read_settings(args.set)}) if args.set else recipe


def read_settings(texts: Sequence[str | dict]) -> dict[str, Any]:
    """Reads `KEY=VALUE`, values as YAML; or mappings, from a file.

    Raises:
        [`InstructMineError`]: Where one is not of that form, or a key has two values.
    """
    from ..data.inputs import parse_mapping

    settings: dict[str, Any] = {}
    for text in texts:
        if isinstance(text, str) and (text[0:1] == "=" or "=" not in text):
            raise InstructMineError(f"--set {text!r:.80} is not of the form KEY=VALUE, such as learning_rate=1e-4")
        for key, value in (parse_mapping(text) or {}).items():
            if key in settings:
                raise InstructMineError(f"--set gives '{key}' twice")
            # YAML takes 1e-4 for a text.
            settings[key] = float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
    return settings


def embed(encoder: str, scored: "Dataset", columns: Mapping[str, str] | None) -> "np.ndarray":
    """The unit vectors of the rows of a pool, by a sentence encoder's Hub id or folder."""
    return him.NeighborDistance(encoder, columns=columns).embed(scored)
