"""Does a selection beat a random one? Finetunes on what each strategy chooses, at equal training data, compared.

Response tokens are the primary budget: with equal rows a strategy that picks long responses trains on more.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from ..data.columns import TOKENS, indicator_names, numeric_column
from ..data.containers import as_dataset
from ..data.evaluation_sets import load_eval_sets
from ..data.texts import usable_rows
from ..errors import InstructMineError
from ..estimator.estimator import LossEstimator
from ..outputs.records import Records
from ..selection.selector import Selector
from ..sweep.executors import Execution
from ..sweep.runs import load_runs
from ..sweep.session import SweepSession
from .results import StrategyComparison
from .strategies import FULL, RANDOM, Strategy, check_strategy, choose_rows


if TYPE_CHECKING:
    from ..finetuning.recipe import Recipe

REQUEST = "comparison.json"


def compare_strategies(
    scored: Any,
    strategies: Mapping[str, Strategy],
    recipe: "Recipe | Mapping[str, Any] | str | Path",
    eval_sets: Any,
    output_dir: str | Path,
    *,
    tokens: Sequence[int] = (),
    sizes: Sequence[int] = (),
    seeds: int = 5,
    random_draws: int | None = None,
    full_seeds: int = 1,
    executor: str = "inline",
    columns: Mapping[str, str] | None = None,
    accelerate_config: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    keep_models: bool = False,
    seed: int = 0,
) -> StrategyComparison:
    """Finetunes on what each strategy chooses, several times each, and compares the losses.

    Every strategy chooses from the rows that have a response and are no exact copy of an earlier one. Finished runs
    are kept as a sweep's are: killed at any instant, the same call starts the missing ones and only those, and more
    strategies, budgets or seeds can join later.

    Args:
        scored (`Dataset`, or what else [`as_dataset`] takes): The scored pool, with `output_length`.
        strategies (`Mapping[str, Strategy]`): By name; see [`~strategies.choose_rows`] for what one may be, and
            [`~strategies.usual_strategies`] for the baselines. The verdict is about the first. `"random"` is added
            where it is missing.
        recipe ([`Recipe`], mapping or path): How to finetune. With `budget: epochs` a strategy that picks short
            responses takes more optimiser steps at equal tokens; steps are in the table.
        eval_sets: As for [`run_sweep`]: the one that the rule was fitted to, and others it never saw.
        output_dir (`str` or `Path`): Keeps the records.
        tokens (`Sequence[int]`): Budgets in response tokens, to compare at.
        sizes (`Sequence[int]`): Budgets in rows.
        seeds (`int`, defaults to 5): Finetunes of each strategy, by seed of training.
        random_draws (`int`, *optional*): Finetunes of the random strategy, each on newly drawn rows. Defaults to twice
            `seeds`: every other strategy is compared with it (Dunnett 1955).
        full_seeds (`int`, defaults to 1): Finetunes of the full pool, where it is among the strategies.
        executor, columns, accelerate_config, workers, retry_failed, keep_models: As for [`run_sweep`].
        seed (`int`, defaults to 0): First seed of training, and of the random draws and the statistics.

    Returns:
        [`StrategyComparison`]

    Raises:
        [`InstructMineError`]: Before the first finetune, where a strategy cannot choose or a budget cannot be filled.
    """
    if not isinstance(strategies, Mapping):
        raise InstructMineError(
            f"compare_strategies needs strategies by name: {{'mine': rule, 'longest': 'highest:{TOKENS}'}}; got a "
            f"{type(strategies).__name__}"
        )
    if isinstance(tokens, int) or isinstance(sizes, int):
        raise InstructMineError("tokens and sizes are lists of budgets: write tokens=[8000], sizes=[128]")
    if strategies.get(RANDOM, RANDOM) != RANDOM:
        raise InstructMineError("the name 'random' belongs to the random choice, which all others are compared with")
    scored, eval_sets = as_dataset(scored, "scored", columns=columns), load_eval_sets(eval_sets)
    strategies = {**strategies, RANDOM: RANDOM}
    draws = 2 * seeds if random_draws is None else random_draws
    budgets = [*({"tokens": amount} for amount in tokens), *({"size": amount} for amount in sizes)]
    _check_request(scored, strategies, budgets, seeds, draws, full_seeds)
    mixtures = choose_all(scored, strategies, budgets, seeds, draws, full_seeds, columns, seed)
    execution = Execution(executor, accelerate_config, columns, retry_failed, workers, keep_models)
    with SweepSession(scored, recipe, eval_sets, output_dir, execution) as session:
        session.run(mixtures)
    _keep_request(Records(output_dir), strategies, seed)
    return load_comparison(output_dir)


def load_comparison(folder: str | Path) -> StrategyComparison:
    """Opens the comparison that [`compare_strategies`] left in a folder.

    Raises:
        [`InstructMineError`]: Where there is none.
    """
    records = Records(folder)
    request = records.read(records.folder / REQUEST)
    if request is None:
        raise InstructMineError(f"'{folder}' holds no comparison")
    return StrategyComparison(load_runs(folder, examples=True), **request)


def choose_all(
    scored: Dataset,
    strategies: Mapping[str, Strategy],
    budgets: Sequence[Mapping[str, int]],
    seeds: int,
    draws: int,
    full_seeds: int,
    columns: Mapping[str, str] | None,
    seed: int,
) -> Dataset:
    """The subsets of a comparison as a table for [`run_sweep`], with the mean of each indicator."""
    lengths = numeric_column(scored, TOKENS)
    usable = usable_rows(scored, columns, copies=False)
    usable = usable[np.isfinite(lengths[usable])]
    means = {name: numeric_column(scored, name) for name in indicator_names(scored)}
    rows: list[dict[str, Any]] = []

    def add(name: str, amount: str, indices: np.ndarray, draw: int | None, seeds: Sequence[int]) -> None:
        unknown = indices[~np.isfinite(lengths[indices])]
        if len(unknown):
            raise InstructMineError(
                f"the strategy '{name}' chose row {unknown[0]}, whose '{TOKENS}' is unknown: score it, or drop the row"
            )
        suffix = "" if draw is None else f"-draw{draw}"
        what = {
            "mixture_id": "-".join(filter(None, [name, amount.replace("=", "") if amount != FULL else ""])) + suffix,
            "strategy": name,
            "amount": amount,
            "draw": draw,
            "indices": indices.tolist(),
            "subset_size": len(indices),
            "subset_tokens": int(lengths[indices].sum()),
            **{column: _mean(values[indices]) for column, values in means.items()},
        }
        rows.extend({**what, "seed": number} for number in seeds)

    for budget in budgets:
        ((kind, limit),) = budget.items()
        costs = lengths if kind == "tokens" else np.ones(len(scored))
        for name, strategy in strategies.items():
            if strategy == FULL:
                continue
            if strategy != RANDOM:
                chosen = choose_rows(scored, strategy, budget, usable, costs, columns=columns)
                add(name, f"{kind}={limit}", chosen, None, range(seed, seed + seeds))
                continue
            for draw in range(draws):
                chosen = choose_rows(scored, strategy, budget, usable, costs, (seed, draw))
                add(name, f"{kind}={limit}", chosen, draw, [seed + draw])
    for name, strategy in strategies.items():
        if strategy == FULL:
            add(name, FULL, usable, None, range(seed, seed + full_seeds))
    return Dataset.from_list(rows)


def _check_request(
    scored: Dataset,
    strategies: Mapping[str, Strategy],
    budgets: Sequence[Mapping[str, int]],
    seeds: int,
    draws: int,
    full_seeds: int,
) -> None:
    if TOKENS not in scored.column_names:
        raise InstructMineError(f"a comparison needs the column '{TOKENS}': score the pool with OutputLength first")
    if not budgets:
        raise InstructMineError("give at least one budget: tokens=[…] (response tokens) or sizes=[…] (rows)")
    for budget in budgets:
        ((kind, amount),) = budget.items()
        if not isinstance(amount, int) or amount < 1:
            raise InstructMineError(f"the budget {kind}={amount!r} must be a whole number of at least 1")
    if not all(isinstance(count, int) for count in (seeds, draws, full_seeds)):
        raise InstructMineError("seeds, random_draws and full_seeds are whole numbers")
    if seeds < 2 or draws < 2 or full_seeds < 1:
        raise InstructMineError("seeds and random_draws must be at least 2: one finetune says nothing about its noise")
    for name, strategy in strategies.items():
        check_strategy(name, strategy, scored)


def _keep_request(records: Records, strategies: Mapping[str, Strategy], seed: int) -> None:
    path = records.folder / REQUEST
    before = records.read(path) or {"strategies": [], "fitted_on": {}}
    rules = {n: s.rule if isinstance(s, Selector) else s for n, s in strategies.items()}
    fitted = {
        name: [target.removeprefix("loss_") for target in rule.target.split(" + ")]
        for name, rule in rules.items()
        if isinstance(rule, LossEstimator)
    }
    records.write(
        path,
        {
            "strategies": list(dict.fromkeys([*strategies, *before["strategies"]])),
            "fitted_on": {**before["fitted_on"], **fitted},
            "seed": seed,
        },
    )


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
