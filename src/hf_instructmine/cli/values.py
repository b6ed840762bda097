"""What is written on the command line as text, and what it stands for: indicators, rules, recipes, embeddings."""

import argparse
import sys
from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from ..errors import InstructMineError
from ..finetuning.recipe import Recipe
from ..indicators import INDICATORS


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from ..data.evaluation_sets import EvaluationSet
    from ..estimator.estimator import LossEstimator
    from ..estimator.rule import Rule


def build_indicator(text: str | dict, columns: dict[str, str] | None) -> Any:
    """Builds an indicator from `NAME[,KEY=VALUE…]`, or from a YAML mapping `{NAME: {KEY: VALUE}}`.

    Raises:
        [`InstructMineError`]: Where the name or an argument is not known.
    """
    from ..data.inputs import parse_mapping

    if isinstance(text, str):
        name, _, arguments = text.partition(",")
        kwargs = parse_mapping(arguments)
    elif isinstance(text, dict) and len(text) == 1:
        ((name, kwargs),) = text.items()
    else:
        raise InstructMineError(f"{text!r:.60} is no indicator: write NAME,KEY=VALUE,… or {{NAME: {{KEY: VALUE}}}}")
    if name not in INDICATORS:
        raise InstructMineError(f"there is no indicator '{name}': known are {', '.join(INDICATORS)}")
    try:
        return getattr(him, name)(**(kwargs or {}), **({} if columns is None else {"columns": columns}))
    except TypeError as error:
        raise InstructMineError(f"{name}: {str(error).split('() ')[-1]}; see its documentation") from error


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
    """The recipe and the evaluation sets. A mistake in them is better found before the pool is read.

    Raises:
        [`InstructMineError`]: Where one of them cannot be read, or the recipe is not valid.
    """
    from ..data.evaluation_sets import load_eval_sets

    recipe, eval_sets = Recipe.load(args.recipe), load_eval_sets(args.eval_set)
    recipe.arguments()
    return recipe, eval_sets


def embed(encoder: str, scored: "Dataset", columns: Mapping[str, str] | None) -> "np.ndarray":
    """The unit vectors of the rows of a pool, by a sentence encoder's Hub id or folder."""
    return him.NeighborDistance(encoder, columns=columns).embed(scored)
