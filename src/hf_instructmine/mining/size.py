"""How many rows to keep, where that is searched for on the path."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset

import hf_instructmine as him

from ..errors import InstructMineError
from ..outputs.markdown import CardSection, count, escape
from .plan import GRID_SEEDS, GRID_SIZES, TRIALS


if TYPE_CHECKING:
    from ..data.evaluation_sets import EvaluationSet
    from ..estimator.rule import Rule
    from ..finetuning.recipe import Recipe
    from .plan import Plan

AUTO = "auto"
_LEAST, _MOST = 20, 2  # the whole range: a twentieth to a half of the usable rows


def read_sizes(
    size: int | str | None, searched: Sequence[int] | None, usable: int, parts: int
) -> tuple[int, tuple[int, int] | None]:
    """The number of rows, or the most of those that are searched; and the range of the search, if there is one.

    Raises:
        [`InstructMineError`]: Where neither or both are given, or one is no number of rows.
    """
    if searched is not None:
        if size not in (None, AUTO):
            raise InstructMineError("size and search_size are two ways to say how many rows: give one of them")
        try:
            least, most = (int(bound) for bound in searched)
        except (TypeError, ValueError):
            raise InstructMineError("search_size is the least and the most rows, such as 100 and 800") from None
        return most, (least, most)
    if size == AUTO:
        least, most = max(usable // _LEAST, 2 * parts), usable // _MOST
        return most, (least, most)
    if isinstance(size, bool) or not isinstance(size, int):
        raise InstructMineError(f"size={size!r} is no number of rows: give one, or 'auto' to search for it")
    return size, None


def find_size(
    plan: "Plan",
    scored: Dataset,
    rule: "Rule",
    recipe: "Recipe",
    eval_sets: "Mapping[str, EvaluationSet]",
    folder: Path,
    training: Mapping[str, Any],
    seed: int,
) -> tuple[int, list[CardSection]]:
    """The size of the plan; where it is searched for, the best one, and what the card says of it."""
    if plan.sizes is None:
        return plan.size, []
    least, most = plan.sizes
    trials = him.search_size(
        scored, rule, recipe, eval_sets, folder, min_size=least, max_size=most, num_trials=TRIALS,
        grid_size=GRID_SIZES, grid_seeds=GRID_SEEDS, full_pool=False, seed=seed,
        executor=training["executor"], columns=training["columns"],
    )  # fmt: skip
    report: Any = him.size_report(trials, rule=rule)
    told = (
        f"The size was searched for with {count(len(trials), 'finetune')}, from {least:,} to {count(most, 'row')}. "
        f"{escape(report.words(), None)}"
    )
    return report.best_size, [CardSection("How many rows", told)]
