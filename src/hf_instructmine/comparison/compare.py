"""Does a selection beat a random one? Finetunes on what each strategy chooses, at equal training data, compared.

Response tokens are the primary budget: with equal rows a strategy that picks long responses trains on more.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from tqdm.auto import tqdm

from ..data.columns import TOKENS
from ..data.containers import as_dataset
from ..data.evaluation_sets import load_eval_sets
from ..errors import InstructMineError, not_one_of
from ..outputs.markdown import count, printable
from ..sweep.executors import Execution
from ..sweep.manifest import open_records
from ..sweep.outlook import count_steps
from ..sweep.runs import load_runs
from ..sweep.session import SweepSession
from .parts import Choices, Protocol, Steps
from .power import check_examples, check_parts, power
from .request import KINDS, REQUEST, Request
from .results import UNTRAINED, StrategyComparison
from .strategies import RANDOM, Strategy, check_strategy


if TYPE_CHECKING:
    from ..finetuning.recipe import Recipe

BUDGETS = ("steps", "recipe")


def compare_strategies(
    scored: Any,
    strategies: Mapping[str, Strategy],
    recipe: "Recipe | Mapping[str, Any] | str | Path",
    eval_sets: Any,
    output_dir: str | Path,
    *,
    tokens: Sequence[int] = (),
    sizes: Sequence[int] = (),
    parts: int = 8,
    seeds: int = 1,
    budget: str = "steps",
    random_at: Sequence[float] = (0.5, 2, 4),
    whole_pool: bool = True,
    executor: str = "inline",
    columns: Mapping[str, str] | None = None,
    accelerate_config: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    keep_models: bool = False,
    seed: int = 0,
) -> StrategyComparison:
    """Finetunes on what each strategy chooses in each of several parts of the pool, and compares the losses.

    The usable rows (those that have a response and are no exact copy of an earlier one) are cut at random into
    disjoint parts. Every strategy chooses anew in each part, and differences are paired within parts: the verdict is
    about the strategy, and not about one set that it chose. Finished runs are kept as a sweep's are: killed at any
    instant, the same call starts the missing ones and only those, and more strategies, budgets or seeds can join.

    Args:
        scored (`Dataset`, or what else [`as_dataset`] takes): The scored pool, with `output_length`.
        strategies (`Mapping[str, Strategy]`): By name; see [`~strategies.choose_rows`] for what one may be, and
            [`~strategies.usual_strategies`] for the baselines. The verdict is about the first. `"random"` is added
            where it is missing.
        recipe ([`Recipe`], mapping or path): How to finetune.
        eval_sets: As for [`run_sweep`]: the one that the rule was fitted to, and others it never saw.
        output_dir (`str` or `Path`): Keeps the records.
        tokens (`Sequence[int]`): Budgets in response tokens, to compare at.
        sizes (`Sequence[int]`): Budgets in rows.
        parts (`int`, defaults to 8): Disjoint parts, each of which has to fill the budgets.
        seeds (`int`, defaults to 1): Finetunes of each strategy in each part. More parts tell more than more seeds.
        budget (`str`, defaults to `"steps"`): `"steps"` trains every strategy for the same number of optimiser steps:
            those of the recipe where it fixes them, else those that its epochs make of a random choice. `"recipe"`
            trains each as the recipe says: with epochs, strategies of few long rows take fewer steps.
        random_at (`Sequence[float]`, defaults to `(0.5, 2, 4)`): Multiples of each budget at which a random choice is
            trained too, with as many times the steps: they tell how many random tokens a choice is worth. Multiples
            that a part cannot fill are left out; `()` trains none.
        whole_pool (`bool`, defaults to `True`): Whether what each strategy chooses of the whole pool is trained once
            too, as its user will.
        executor, columns, accelerate_config, workers, retry_failed, keep_models: As for [`run_sweep`].
        seed (`int`, defaults to 0): Of the parts, the random choices and, counting up, the finetunes.

    Returns:
        [`StrategyComparison`]

    Raises:
        [`InstructMineError`]: Before the first finetune, where a strategy cannot choose, a part cannot fill a budget,
            parts or evaluation examples are too few for a verdict, or the folder holds another comparison.

    Example:

    ```python
    comparison = him.compare_strategies(
        scored,
        {"mine": rule, **him.usual_strategies(scored)},
        "smollm2-135m-cpu-last-layers",
        {"mine": "eval.jsonl"},
        "comparison",
        tokens=[100_000],
    )
    ```
    """
    protocol = Protocol(parts, seeds, budget, _multiples(random_at), whole_pool, seed)
    strategies = _with_random(strategies)
    budgets = _budgets(tokens, sizes)
    _check_numbers(protocol)
    check_parts(parts, len(strategies) - 1)
    scored, eval_sets = as_dataset(scored, "scored", columns=columns), load_eval_sets(eval_sets)
    _check_pool(scored, strategies)
    for name, examples in eval_sets.items():
        check_examples(len(examples.rows), name)
    execution = Execution(executor, accelerate_config, columns, retry_failed, workers, keep_models)
    request = Request(open_records(output_dir, KINDS))
    request.check(protocol)
    choices = Choices(scored, protocol, columns)
    chosen = choices.choose(strategies, budgets)
    with SweepSession(scored, recipe, eval_sets, output_dir, execution) as session:
        mixtures = choices.finetunes(chosen, _steps(session, protocol))
        tqdm.write(_outlook(session, mixtures, protocol, len(strategies) - 1), file=sys.stderr)
        # Noted down first: what was finished before a kill can be looked at.
        session.run(mixtures, partial(request.keep, strategies, protocol, eval_sets, choices))
    return load_comparison(output_dir)


def load_comparison(folder: str | Path) -> StrategyComparison:
    """Opens the comparison that [`compare_strategies`] left in a folder, or what it has finished so far.

    Args:
        folder (`str` or `Path`): The `output_dir` of the comparison.

    Raises:
        [`InstructMineError`]: Where there is none.

    Example:

    ```python
    print(him.load_comparison("comparison"))
    ```
    """
    records = open_records(folder, KINDS)
    request = records.read(records.folder / REQUEST)
    if request is None:
        raise InstructMineError(f"'{folder}' holds no comparison")
    request = {name: value for name, value in request.items() if name in KINDS[REQUEST].__annotations__}
    untrained = (records.read(records.folder / "base.json") or {}).get("examples")
    return StrategyComparison(load_runs(folder, examples=True), untrained=untrained, **request)


def _with_random(strategies: Mapping[str, Strategy]) -> dict[str, Strategy]:
    if not isinstance(strategies, Mapping):
        raise InstructMineError(
            f"compare_strategies needs strategies by name: {{'mine': rule, 'longest': 'highest:{TOKENS}'}}; got a "
            f"{type(strategies).__name__}"
        )
    if strategies.get(RANDOM, RANDOM) != RANDOM:
        raise InstructMineError("the name 'random' belongs to the random choice, which all others are compared with")
    if UNTRAINED in strategies:
        raise InstructMineError(f"the name '{UNTRAINED}' belongs to the untrained model, which is in every table")
    return {**strategies, RANDOM: RANDOM}


def _budgets(tokens: Sequence[int], sizes: Sequence[int]) -> list[dict[str, int]]:
    if isinstance(tokens, int) or isinstance(sizes, int):
        raise InstructMineError("tokens and sizes are lists of budgets: write tokens=[8000], sizes=[128]")
    budgets = [*({"tokens": amount} for amount in tokens), *({"size": amount} for amount in sizes)]
    if not budgets:
        raise InstructMineError("give at least one budget: tokens=[…] (response tokens) or sizes=[…] (rows)")
    for budget in budgets:
        ((kind, amount),) = budget.items()
        if not isinstance(amount, int) or isinstance(amount, bool) or amount < 1:
            raise InstructMineError(f"the budget {kind}={amount!r} must be a whole number of at least 1")
    return budgets


def _multiples(random_at: Sequence[float]) -> tuple[float, ...]:
    if not isinstance(random_at, Sequence) or not all(isinstance(m, int | float) and m > 0 for m in random_at):
        raise InstructMineError("random_at is a list of multiples of the budget, above 0: write random_at=[0.5, 2, 4]")
    return tuple(sorted({float(m) for m in random_at}))


def _check_numbers(protocol: Protocol) -> None:
    for name, least in (("parts", 1), ("seeds", 1), ("seed", 0)):
        value = getattr(protocol, name)
        if not isinstance(value, int) or value < least:
            raise InstructMineError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if protocol.budget not in BUDGETS:
        raise InstructMineError(f"budget must be {not_one_of(protocol.budget, BUDGETS)}")


def _check_pool(scored: Dataset, strategies: Mapping[str, Strategy]) -> None:
    if not len(scored):
        raise InstructMineError("the dataset is empty: there is no row to choose")
    if TOKENS not in scored.column_names:
        raise InstructMineError(f"a comparison needs the column '{TOKENS}': score the pool with OutputLength first")
    for name, strategy in strategies.items():
        check_strategy(name, strategy, scored)


def _steps(session: SweepSession, protocol: Protocol) -> Steps:
    """The optimiser steps of all strategies at an amount."""
    arguments = session.arguments
    if protocol.budget == "recipe" or arguments.own.budget == "tokens":
        return lambda rows: None
    return lambda rows: count_steps(arguments, round(rows), session.processes or 1)


def _outlook(session: SweepSession, mixtures: Dataset, protocol: Protocol, comparisons: int) -> str:
    """What the comparison will take, and what it can see, in one line."""
    examples = {name: len(held.rows) for name, held in session.eval_sets.items()}
    fewest = min(examples, key=lambda name: examples[name])
    seen = power(protocol.parts, examples[fewest], comparisons)
    steps = sorted({n for n, m in zip(mixtures["max_steps"], mixtures["multiple"]) if n is not None and m == 1})
    each = f" of {' or '.join(map(str, steps))} optimiser steps" if steps else ""
    return f"{count(len(mixtures), 'finetune')}{each}; {printable(fewest)}: {seen}"
