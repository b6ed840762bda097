"""`instructmine compare`: rules against random and the usual baselines, on finetunes of one's own."""

import argparse
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..comparison.compare import compare_strategies
from ..comparison.strategies import FULL, Strategy, usual_strategies
from ..data.evaluation_sets import load_eval_sets
from ..data.inputs import load_pool, parse_mapping
from ..errors import InstructMineError
from ..finetuning.recipe import Recipe
from ..selection.selector import Selector
from .values import load_rule


TABLES, FIGURE = "comparison.md", "comparison.png"


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    columns = parse_mapping(args.columns)
    recipe, eval_sets = Recipe.load(args.recipe), load_eval_sets(args.eval_set)
    recipe.arguments()  # a mistake in it is better found before the pool is read
    scored = load_pool(args.input, args.split, args.sample, args.seed)
    comparison = compare_strategies(
        scored, read_strategies(args, scored, columns), recipe, eval_sets, args.output_dir,
        tokens=args.tokens or (), sizes=args.size or (), seeds=args.seeds, random_draws=args.random_draws,
        executor=args.executor, columns=columns, accelerate_config=args.accelerate_config,
        retry_failed=args.retry_failed, seed=args.seed,
    )  # fmt: skip
    summary = comparison.summary()
    folder = Path(args.output_dir)
    (folder / TABLES).write_text(f"![Difference to random]({FIGURE})\n\n{summary}\n", encoding="utf-8")
    comparison.plot(folder / FIGURE)
    print(f"{summary}\n\nWrote {folder / TABLES} and {folder / FIGURE}")


def read_strategies(
    args: argparse.Namespace, scored: Dataset, columns: Mapping[str, str] | None
) -> dict[str, Strategy]:
    """The rules first, then the usual baselines, then the user's own."""
    embed = cache(partial(_embed, scored, columns))  # several rules may have one encoder
    rules = dict(_read_rule(text, embed) for text in args.rule or ())
    usual = {} if args.no_usual else usual_strategies(scored)
    own = dict(_pair(text, "--strategy") for text in args.strategy or ())
    strategies: dict[str, Strategy] = {**rules, **usual, **own}
    return {**strategies, FULL: FULL} if args.full_pool else strategies


def _embed(scored: Dataset, columns: Mapping[str, str] | None, encoder: str) -> np.ndarray:
    from ..indicators.neighbor_distance import NeighborDistance

    return NeighborDistance(model=encoder, columns=columns).embed(scored)


def _read_rule(text: str, embed: Callable[[str], np.ndarray]) -> tuple[str, Strategy]:
    """`NAME=RULE[,OPTION=VALUE…]`; the options are the selector's, and `encoder` makes its embeddings."""
    name, rest = _pair(text, "--rule")
    place, _, more = rest.partition(",")
    options: dict[str, Any] = parse_mapping(more) or {}
    rule = load_rule(place)
    if encoder := options.pop("encoder", None):
        options["embeddings"] = embed(encoder)
    try:
        return name, Selector(rule, **options)
    except TypeError as error:
        raise InstructMineError(f"--rule {name}: {str(error).split('() ')[-1]}") from error


def _pair(text: str, option: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise InstructMineError(f"{option} {text!r} is not of the form NAME=VALUE")
    return name, value
