"""How many rows to keep: a grid of sizes with several seeds each, then BlendSearch (InstructMining, section 3.4).

The paper's search has no grid, and starts at its cheapest size: what it finds is then partly where it began.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value
from tqdm.auto import tqdm

from ..data.containers import as_dataset
from ..data.evaluation_sets import load_eval_sets
from ..errors import InstructMineError, not_one_of
from ..estimator.estimator import LossEstimator
from ..finetuning.recipe import Recipe
from ..outputs.digests import digest
from ..outputs.files import write_parquet, written_whole
from ..outputs.records import Records
from ..selection.selector import Selector
from ..sweep.executors import Execution
from .blend_search import TrialOutcome, blend_search
from .jobs import Job, JobRunner
from .space import Space, feature, read_point, read_space
from .subsets import Subsets


TRIALS = "trials.parquet"
_REQUEST = "search.json"
COSTS = ("train_tokens", "seconds")


def search_size(
    scored: Any,
    selector: "Selector | LossEstimator | Callable[..., Any]",
    recipe: "Recipe | Mapping[str, Any] | str | Path",
    eval_sets: Any,
    output_dir: str | Path,
    *,
    min_size: int,
    max_size: int | None = None,
    target: str | None = None,
    num_trials: int = 20,
    max_cost: float | None = None,
    max_seconds: float | None = None,
    cost: str = "train_tokens",
    space: Mapping[str, tuple | list] | None = None,
    grid_size: int = 5,
    grid_seeds: int = 3,
    full_pool: bool = True,
    equal_steps: int | None = None,
    points_to_evaluate: Sequence[int | Mapping[str, Any]] = (),
    low_cost_start: bool = False,
    concurrency: int = 1,
    executor: str = "inline",
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    accelerate_config: str | None = None,
    workers: int | None = None,
    select_options: Mapping[str, Any] | None = None,
) -> Dataset:
    """Finetunes on the best n rows for many n, and on random ones beside them.

    First a grid of sizes, evenly in log size, each with several seeds, selected and random; then FLAML's BlendSearch,
    which is told the grid. Each trial is a run of a sweep in `output_dir`, recorded once and for all: killed at any
    instant, the same call replays what is recorded and goes on. It also goes on where `num_trials`, `max_cost` or
    `max_seconds` were raised.

    Args:
        scored (`Dataset`, or what else [`as_dataset`] takes): The pool, with the rule's indicator columns.
        selector ([`Selector`], [`LossEstimator`] or callable): Who selects. A [`Selector`] selects as it is. A rule is
            given to one, so that `space` may name its options and those of its `select`. A function
            `(scored, size, **knobs)` returns row numbers, and the same ones each time.
        recipe, eval_sets, executor, columns, accelerate_config, workers: As for [`run_sweep`].
        output_dir (`str` or `Path`): Keeps the runs and `trials.parquet`. A folder of another search is refused.
        min_size (`int`): The smallest size tried.
        max_size (`int`, *optional*): The largest; by default all that can be selected.
        target (`str`, *optional*): The loss that is searched for; by default that of the first evaluation set.
        num_trials (`int`, defaults to 20): Trials of BlendSearch.
        max_cost (`float`, *optional*): Response tokens trained on, those of the grid included, beyond which no further
            trial is started.
        max_seconds (`float`, *optional*): The same in recorded seconds of the runs.
        cost (`str`, defaults to `"train_tokens"`): What BlendSearch spares: that, or `"seconds"`.
        space (`Mapping[str, tuple | list]`, *optional*): What is searched besides the size: by name, an option of the
            recipe or of the selector, as `(low, high)`, logarithmic where `low` is above 0, or as a list.
        grid_size (`int`, defaults to 5): Sizes of the grid, at least 5.
        grid_seeds (`int`, defaults to 3): Runs at each, at least 2; random rows are drawn anew for each.
        full_pool (`bool`, defaults to `True`): Whether to finetune once on every row with a response.
        equal_steps (`int`, *optional*): Runs the grid a second time, with so many optimiser steps at every size.
        points_to_evaluate (`Sequence[int | Mapping]`, *optional*): Sizes, or configurations, to try after the grid.
        low_cost_start (`bool`, defaults to `False`): Whether BlendSearch starts at the cheapest size, as in the paper.
        concurrency (`int`, defaults to 1): Trials suggested at once; `executor="ray"` and `"local"` run them side
            by side.
        seed (`int`, defaults to 0): Of the search, the random rows and, counting up, the runs.
        select_options (`Mapping[str, Any]`, *optional*): For [`Selector.select`], such as `max_leverage`; with a rule
            also for [`Selector`], such as `embeddings`.

    Returns:
        `Dataset`: One row per trial, failed ones included: `trial`, `kind` (`"grid"`, `"full"`, `"search"` or
        `"grid-steps"`), `strategy` (`"selected"`, `"random"` or `"full"`), `size`, the options of `space`,
        `mixture_id`, `seed`, `loss_<set>` (that of the target first) and `base_loss_<set>` (nats), `train_tokens`,
        `steps`, `epochs`, `seconds`, `status`, `reason`, `recipe_hash`. See [`size_report`].

    Raises:
        [`InstructMineError`]: Before the first run, where something asked for is not possible; later, where a record
            cannot be written.

    Example:

    ```python
    trials = him.search_size(
        scored, him.Selector(rule), "smollm2-135m-cpu-last-layers", {"mine": "eval.jsonl"}, "search", min_size=500
    )
    ```
    """
    recipe, folder, steps = Recipe.load(recipe), Path(output_dir), {"budget": "steps", "max_steps": equal_steps}
    _check_numbers(
        min_size=min_size, num_trials=num_trials, max_cost=max_cost, max_seconds=max_seconds, grid_size=grid_size,
        grid_seeds=grid_seeds, equal_steps=equal_steps, concurrency=concurrency, seed=seed,
    )  # fmt: skip
    if cost not in COSTS:
        raise InstructMineError(f"cost must be {not_one_of(cost, COSTS)}")
    # Everything that can be refused is looked at before the first run.
    scored = as_dataset(scored, "scored", columns=columns)
    execution = Execution(executor, accelerate_config, columns, workers=workers)
    runner = JobRunner(scored, recipe, load_eval_sets(eval_sets), folder, execution)
    targets = [f"loss_{name}" for name in runner.eval_sets]
    if target is not None and target not in targets:
        raise InstructMineError(f"the target '{target}' is not measured: there is {', '.join(targets)}")
    subsets = Subsets(scored, selector, columns, select_options, seed)
    sizes = _grid_sizes(min_size, subsets.largest() if max_size is None else max_size, grid_size, len(subsets.usable))
    searched = read_space(space or {}, recipe, subsets, runner)
    points = [read_point(point, searched, sizes[0], sizes[-1]) for point in points_to_evaluate]
    if equal_steps is not None:
        runner.check(steps)
    # What the folder is of: another search must not go on in it.
    search = _Search(runner, subsets, searched, target or targets[0], cost, seed, sizes, grid_seeds)
    grid = search.grid()
    request = {
        "min_size": sizes[0], "max_size": sizes[-1], "target": search.target, "cost": cost, "space": searched.values,
        "grid_size": grid_size, "grid_seeds": grid_seeds, "points_to_evaluate": points, "concurrency": concurrency,
        "low_cost_start": low_cost_start, "seed": seed,
        "selection": digest([job.indices for job in grid if job.strategy == "selected"], 8),
    }  # fmt: skip
    records = Records(folder)
    records.claim(_REQUEST, request, "search")
    with records.lock("search") as mine:
        if not mine:
            raise InstructMineError(f"another process is searching in '{folder}': wait for it")
        with runner:
            search.run([*grid, *([search.full()] if full_pool else [])])
            with tqdm(total=num_trials, desc="Searching", unit="trial") as bar:
                blend_search(
                    partial(search.evaluate, bar),
                    {"size": (sizes[0], sizes[-1]), **searched.values},
                    num_trials,
                    known=search.known(),
                    points=points,
                    low_cost={"size": sizes[0]} if low_cost_start else None,
                    concurrency=concurrency,
                    enough=lambda: search.spent("train_tokens", max_cost) or search.spent("seconds", max_seconds),
                    seed=seed,
                )
            if equal_steps is not None:
                search.run(search.grid("grid-steps", steps))
        table = search.table()
        with written_whole(folder / TRIALS) as unfinished:
            write_parquet(table, unfinished)
    return table


class _Search:
    """Makes the jobs of a search and keeps their rows."""

    def __init__(
        self, runner: JobRunner, subsets: Subsets, space: Space, target: str, cost: str, seed: int, sizes: list[int],
        grid_seeds: int,
    ):  # fmt: skip
        self.runner, self.subsets, self.space = runner, subsets, space
        self.target, self.cost, self.seed, self.sizes, self.grid_seeds = target, cost, seed, sizes, grid_seeds
        self.rows: list[dict[str, Any]] = []
        self.searched = 0

    def grid(self, kind: str = "grid", overrides: Mapping[str, Any] | None = None) -> list[Job]:
        """Selected and random rows of each size, each with several seeds."""
        jobs: list[Job] = []
        for size in self.sizes:
            selected = self.subsets.selected(size)
            for draw in range(self.grid_seeds):
                for strategy, name, indices in (
                    ("selected", f"select-{size}", selected),
                    ("random", f"random-{size}-draw{draw}", self.subsets.random(size, draw)),
                ):
                    config = {"size": size, **self.space.present}
                    seed = self._seed(1 + len(jobs))
                    jobs.append(Job(kind, strategy, config, name, seed, indices, dict(overrides or {})))
        return jobs

    def full(self) -> Job:
        rows = self.subsets.all()
        return Job("full", "full", {"size": len(rows), **self.space.present}, "full", self._seed(0), rows)

    def run(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        rows = [{"trial": len(self.rows) + k, **row} for k, row in enumerate(self.runner.run(jobs))]
        self.rows += rows
        return rows

    def evaluate(self, bar: tqdm, configs: list[dict[str, Any]]) -> list[TrialOutcome]:
        """Runs trials of BlendSearch."""
        rows = self.run([self._trial(config, self.searched + k) for k, config in enumerate(configs)])
        self.searched += len(rows)
        bar.update(len(rows))
        done = [row for row in self.rows if row["strategy"] == "selected" and row["status"] == "done"]
        if done:
            best = min(done, key=lambda row: row[self.target])
            bar.set_postfix_str(f"lowest {self.target} {best[self.target]:.4f} at {best['size']} rows")
        return [self._outcome([row]) for row in rows]

    def _trial(self, config: dict[str, Any], number: int) -> Job:
        size, (options, knobs) = config["size"], self.space.split(config)
        name = f"select-{size}-{digest(knobs, 8)}" if knobs else f"select-{size}"
        indices, problem = [], None
        try:
            indices = self.subsets.selected(size, knobs)
            if options:
                self.runner.check(options)
        except InstructMineError as error:  # of this configuration, and not of the search
            problem = str(error)
        seed = self._seed(1 + 2 * len(self.sizes) * self.grid_seeds + number)
        return Job("search", "selected", config, name, seed, indices, options, problem)

    def known(self) -> list[tuple[dict[str, Any], TrialOutcome]]:
        """The sizes of the grid as points of the space, each with what its seeds gave on the average.

        There are none where an option that is searched has no value in the recipe or the selector: the grid is then
        not in the space.
        """
        if self.space.present.keys() != self.space.values.keys():
            return []
        groups = [[r for r in self.rows if r["strategy"] == "selected" and r["size"] == size] for size in self.sizes]
        outcomes = [self._outcome(rows) for rows in groups]
        return [
            ({"size": size, **self.space.present}, outcome)
            for size, outcome in zip(self.sizes, outcomes)
            if outcome.loss is not None
        ]

    def _outcome(self, rows: Sequence[Mapping[str, Any]]) -> TrialOutcome:
        done = [row for row in rows if row["status"] == "done"]
        if not done:
            return TrialOutcome(None, 1.0)
        return TrialOutcome(*(float(np.mean([row[name] for row in done])) for name in (self.target, self.cost)))

    def spent(self, name: str, most: float | None) -> bool:
        return most is not None and sum(row[name] or 0 for row in self.rows) >= most

    def _seed(self, number: int) -> int:
        return (self.seed + number) % 2**32

    def table(self) -> Dataset:
        losses = [f"loss_{name}" for name in self.runner.eval_sets]
        losses = [self.target, *(name for name in losses if name != self.target)]
        features = {"trial": Value("int64"), "kind": Value("string"), "strategy": Value("string")}
        features |= {"size": Value("int64"), **{name: feature(v) for name, v in self.space.values.items()}}
        features |= {"mixture_id": Value("string"), "seed": Value("int64")}
        features |= {name: Value("float64") for name in (*losses, *(f"base_{name}" for name in losses))}
        features |= {"train_tokens": Value("int64"), "steps": Value("int64")}
        features |= {name: Value("float64") for name in ("epochs", "seconds")}
        features |= {name: Value("string") for name in ("status", "reason", "recipe_hash")}
        texts = {name for name in self.space.values if features[name].dtype == "string"}
        columns = {name: [row.get(name) for row in self.rows] for name in features}
        for name in texts:
            columns[name] = [None if value is None else str(value) for value in columns[name]]
        return Dataset.from_dict(columns, features=Features(features))


def _check_numbers(**given: float | None) -> None:
    least = {"min_size": 1, "num_trials": 0, "grid_size": 5, "grid_seeds": 2, "equal_steps": 1, "concurrency": 1}
    for name, value in given.items():
        if value is None:
            continue
        whole = name in least or name == "seed"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise InstructMineError(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}")
        if name in least and value < least[name]:
            raise InstructMineError(f"{name} must be at least {least[name]}, not {value}")
        if name in ("max_cost", "max_seconds") and not value > 0:
            raise InstructMineError(f"{name} must be above 0, not {value}")
        if name == "seed" and not 0 <= value < 2**32:
            raise InstructMineError(f"seed must be from 0 to 2**32-1, not {value}")


def _grid_sizes(low: int, high: int, count: int, usable: int) -> list[int]:
    if isinstance(high, bool) or not isinstance(high, int):
        raise InstructMineError(f"max_size must be a whole number, not {high!r}")
    if high <= low:
        raise InstructMineError(f"max_size must be above min_size={low}, not {high}")
    if high > usable:
        raise InstructMineError(f"max_size={high} is above the {usable} rows of the pool that have a response")
    sizes = sorted({int(n) for n in np.rint(np.geomspace(low, high, count))})
    if len(sizes) < count:
        raise InstructMineError(f"from {low} to {high} there are not {count} sizes for the grid: widen the range")
    return sizes
