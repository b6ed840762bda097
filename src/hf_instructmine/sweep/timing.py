"""What a finetune takes on this machine, by two short ones: before a sweep, and without leaving anything behind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset

from ..errors import InstructMineError
from ..finetuning.recipe import Recipe
from ..outputs.markdown import count
from .outlook import count_steps
from .session import run_sweep


if TYPE_CHECKING:
    from ..data.evaluation_sets import EvaluationSet

TIMED_STEPS = 4


@dataclass(frozen=True)
class Timing:
    """Seconds of two finetunes of four steps, made in one process.

    Attributes:
        step (`float`): Of an optimiser step.
        evaluating (`float`): Of the losses of one finetune.
        once (`float`): Of what a sweep does once: loads the model and, with `cached_trunk`, runs it over the rows.
    """

    step: float
    evaluating: float
    once: float


def time_finetunes(
    pool: Dataset,
    rows: Sequence[int],
    recipe: Recipe,
    eval_sets: "Mapping[str, EvaluationSet]",
    columns: Mapping[str, str] | None = None,
) -> Timing:
    """Trains twice for four steps on some rows of a pool.

    Args:
        pool (`Dataset`): Holds the rows.
        rows (`Sequence[int]`): Those of one subset, of the sweep's size.
        recipe ([`Recipe`]): How to finetune.
        eval_sets (`Mapping[str, EvaluationSet]`): What the losses are measured on.
        columns (`Mapping[str, str]`, *optional*): Which column of the pool is which.

    Raises:
        [`InstructMineError`]: Where a finetune fails, with its reason.
    """
    run = {"indices": np.sort(rows).tolist(), "max_steps": TIMED_STEPS}
    mixtures = Dataset.from_list([{"mixture_id": f"timed-{k}", "seed": k, **run} for k in range(2)])
    with TemporaryDirectory() as folder:
        started = perf_counter()
        runs = run_sweep(pool, mixtures, recipe, eval_sets, Path(folder, "timed"), columns=columns)
        whole = perf_counter() - started
    failed = [reason for status, reason in zip(runs["status"], runs["reason"]) if status != "done"]
    if failed:
        raise InstructMineError(f"a finetune fails with this recipe: {failed[0]}")
    # The second, which loads nothing any more.
    step = runs["seconds_training"][1] / TIMED_STEPS
    return Timing(step, runs["seconds_evaluating"][1], max(whole - sum(runs["seconds"]), 0))


def foresee(
    pool: Dataset,
    mixtures: Dataset,
    recipe: Recipe,
    eval_sets: "Mapping[str, EvaluationSet]",
    columns: Mapping[str, str] | None = None,
) -> str:
    """Says how many finetunes a sweep makes, of how many steps, and how long they take here one after another.

    Args:
        pool (`Dataset`): Holds the mixtures' rows.
        mixtures (`Dataset`): From [`design_mixtures`].
        recipe, eval_sets, columns: As for [`time_finetunes`].

    Raises:
        [`InstructMineError`]: Where a finetune fails, with its reason.
    """
    arguments = recipe.arguments()
    sizes = [len(rows) for rows in mixtures["indices"]]
    steps = [count_steps(arguments, size, 1) for size in sizes]
    known = [number for number in steps if number is not None]
    told = f"{count(len(sizes), 'finetune')} on {_range(sizes)} rows each"
    if len(known) < len(steps):
        return f"{told}; their steps, and so their time, are not known: the recipe fixes a number of tokens"
    timing = time_finetunes(pool, mixtures["indices"][0], recipe, eval_sets, columns)
    distinct = len({row for rows in mixtures["indices"] for row in rows})
    once = timing.once * (distinct / sizes[0] if arguments.own.cached_trunk else 1)
    seconds = once + timing.step * sum(known) + timing.evaluating * len(sizes)
    return (
        f"{told}, of {_range(known)} steps each; {duration(seconds)} one after another on this machine, by two timed "
        f"finetunes of {TIMED_STEPS} steps"
    )


def duration(seconds: float) -> str:
    """About how long, in a unit that reads well."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
