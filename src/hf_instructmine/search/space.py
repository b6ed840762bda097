"""What a size search turns besides the size: options of the recipe, and knobs of the selector."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from datasets import Value

from ..errors import InstructMineError
from ..finetuning.recipe import FinetuningArguments, Recipe
from .jobs import JobRunner
from .subsets import Subsets


@dataclass
class Space:
    """What a search turns besides the size: options of the recipe, and knobs of the selector."""

    values: dict[str, tuple | list] = field(default_factory=dict)
    recipe: set[str] = field(default_factory=set)
    present: dict[str, Any] = field(default_factory=dict)  # of those that have a value in their range

    def split(self, config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The recipe's part of a configuration, and the selector's."""
        turned = {name: value for name, value in config.items() if name != "size"}
        ours = {name: value for name, value in turned.items() if name in self.recipe}
        return ours, {name: value for name, value in turned.items() if name not in self.recipe}


def read_space(space: Mapping[str, tuple | list], recipe: Recipe, subsets: Subsets, runner: JobRunner) -> Space:
    """Reads what [`search_size`] takes as `space`.

    Raises:
        [`InstructMineError`]: Where a name is not known, a range is none, or the recipe is not valid at an end of it.
    """
    if not space:
        return Space()
    from trl import ModelConfig, SFTConfig

    options = {f.name for kind in (FinetuningArguments, SFTConfig, ModelConfig) for f in fields(kind)}
    knobs = subsets.knobs()
    read = Space()
    for name, values in space.items():
        of_recipe = name in Recipe(dict.fromkeys(options)).comparable  # not: seeds, folders, data
        if name == "size" or not (of_recipe or knobs is None or name in knobs):
            near = difflib.get_close_matches(name, [*options, *(knobs or ())], n=1)
            told = f"did you mean '{near[0]}'?" if near else "those of a Selector need its rule in its place"
            raise InstructMineError(f"the space names '{name}', no option of the recipe or the selector: {told}")
        read.values[name] = _read_values(name, values)
        if of_recipe:
            read.recipe.add(name)
            for value in values:
                runner.check({name: value})
        present = (recipe.settings if of_recipe else knobs or {}).get(name)
        if (value := _inside(present, read.values[name])) is not None:
            read.present[name] = value
    return read


def _read_values(name: str, values: Any) -> tuple | list:
    if isinstance(values, list) and len(values) > 1:
        return values
    numbers = isinstance(values, tuple) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
    if not numbers or len(values) != 2 or not values[0] < values[1]:
        raise InstructMineError(
            f"the space's '{name}' must be (low, high) with low below high, or a list of several, not {values!r}"
        )
    whole = all(isinstance(v, int) for v in values)
    return values if whole else tuple(float(v) for v in values)


def _inside(value: Any, values: tuple | list) -> Any:
    """The value as one of the space's, or None where it is outside."""
    if isinstance(values, list):
        return value if value in values else None
    try:
        number = type(values[0])(value)  # a recipe's 1e-4 is text to YAML
    except (TypeError, ValueError):
        return None
    return number if values[0] <= number <= values[1] else None


def read_point(point: int | Mapping[str, Any], space: Space, low: int, high: int) -> dict[str, Any]:
    """Makes a size, or a mapping that may leave out what the recipe sets, a point of the space.

    Raises:
        [`InstructMineError`]: Where it lies outside.
    """
    config = {**space.present, **(point if isinstance(point, Mapping) else {"size": point})}
    ranges = {"size": (low, high), **space.values}
    for name in sorted({*ranges, *config}):
        if name not in ranges:
            raise InstructMineError(f"points_to_evaluate: '{name}' is not searched")
        if name not in config:
            raise InstructMineError(f"points_to_evaluate: {point!r} has no '{name}', and the recipe sets none")
        if _inside(config[name], ranges[name]) is None:
            raise InstructMineError(f"points_to_evaluate: {name}={config[name]!r} is outside {ranges[name]}")
    return {name: _inside(config[name], values) for name, values in ranges.items()}


def feature(values: tuple | list) -> Value:
    """The type of a column with values of this range or list."""
    kinds = {type(value) for value in values}
    known = {frozenset({bool}): "bool", frozenset({int}): "int64", frozenset({float}): "float64"}
    return Value(known.get(frozenset(kinds), "float64" if kinds == {int, float} else "string"))
