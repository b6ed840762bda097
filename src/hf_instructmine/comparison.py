"""Does a selection beat a random one? Finetunes on what each strategy chooses, at equal training data, compared.

Response tokens are the primary budget: with equal rows a strategy that picks long responses trains on more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from .budget import TOKENS
from .comparison_statistics import Difference, compare_losses, holm
from .errors import InstructMineError
from .estimator import LossEstimator
from .indicator_columns import indicator_columns
from .pool_texts import usable_rows
from .selection import Selector
from .strategies import FULL, RANDOM, Strategy, check_strategy, choose_rows
from .sweep import run_sweep
from .sweep_records import Records
from .sweep_table import load_runs


if TYPE_CHECKING:
    from .evaluation.loss import EvaluationSet
    from .publishing.card import CardSection
    from .recipe import Recipe

REQUEST = "comparison.json"
LEVEL = 0.05


@dataclass(frozen=True)
class Outcome:
    """How one strategy did on one evaluation set with one budget.

    Attributes:
        amount (`str`): The budget: `"tokens=8000"` or `"size=128"`.
        eval_set (`str`): The evaluation set.
        strategy (`str`): Its name.
        runs (`int`): Finetunes that it was measured on.
        rows (`float`), tokens (`float`), steps (`float`): Rows, their response tokens, and optimiser steps: means.
        loss (`float`), sd (`float`, *optional*): Mean loss (Σ NLL / Σ tokens, nats) and its spread between finetunes.
        difference ([`Difference`], *optional*): To the baseline; None for the baseline itself.
        p (`float`, *optional*): Of the difference, by Holm's correction over the strategies of this table.
    """

    amount: str
    eval_set: str
    strategy: str
    runs: int
    rows: float
    tokens: float
    steps: float
    loss: float
    sd: float | None
    difference: Difference | None = None
    p: float | None = None

    @property
    def verdict(self) -> str:
        """`"better"`, `"worse"` or `"no different"`: different needs p < 0.05 and an interval that leaves out 0."""
        if self.difference is None or self.p is None or self.p >= LEVEL:
            return "no different"
        return "better" if self.difference.high < 0 else "worse" if self.difference.low > 0 else "no different"


@dataclass
class StrategyComparison:
    """What [`compare_strategies`] finds; prints as tables and a verdict.

    Attributes:
        runs (`Dataset`): One row per finetune with `strategy`, `amount`, `draw`, the losses, and each example's NLL.
        strategies (`list[str]`): Their names; the first is the one that the verdict is about.
        fitted_on (`dict[str, list[str]]`): By strategy, the evaluation sets that its rule was fitted to.
        seed (`int`): Of bootstrap and permutations.
    """

    runs: Dataset
    strategies: list[str]
    fitted_on: dict[str, list[str]] = field(default_factory=dict)
    seed: int = 0

    @cached_property
    def eval_sets(self) -> list[str]:
        return [name.removeprefix("example_nll_") for name in self.runs.column_names if name.startswith("example_nll")]

    @cached_property
    def amounts(self) -> list[str]:
        """The budgets: response tokens before rows, small before large."""
        given = {amount for amount in self.runs["amount"] if amount != FULL}
        return sorted(given, key=lambda amount: (not amount.startswith("tokens"), int(amount.split("=")[1])))

    @cached_property
    def failed(self) -> list[str]:
        """Finetunes that failed, with the reason; they are in no figure of the table."""
        return [
            f"{row['mixture_id']} seed {row['seed']}: {row['reason']}"
            for row in self._light
            if row["status"] != "done"
        ]

    def outcomes(
        self, amount: str, eval_set: str, baseline: str = RANDOM, among: Sequence[str] | None = None
    ) -> list[Outcome]:
        """Every strategy on one evaluation set at one budget, lowest loss first.

        The full pool, which has no budget, is among them.

        Args:
            amount (`str`): One of `amounts`.
            eval_set (`str`): One of `eval_sets`.
            baseline (`str`, defaults to `"random"`): What the others are compared with.
            among (`Sequence[str]`, *optional*): The strategies to compare, where the question is not about all: p is
                corrected for so many. To be chosen before the losses are seen.

        Raises:
            [`InstructMineError`]: Where the baseline has no finished run at this budget.
        """
        tokens = self._tokens(eval_set)
        others = self._nll(baseline, amount, eval_set)
        if others is None:
            raise InstructMineError(f"'{baseline}' has no finished run at {amount}: there is nothing to compare with")
        found = []
        for name in self.strategies:
            nll = self._nll(name, amount, eval_set)
            if nll is None or not (among is None or name in among or name == baseline):
                continue
            key = (amount, eval_set, name, baseline)
            if name != baseline and key not in self._differences:
                self._differences[key] = compare_losses(nll, others, tokens, seed=self.seed)
            difference = self._differences.get(key)
            found.append((name, nll.sum(axis=1) / tokens.sum(), difference))
        tested = [difference.p for _, _, difference in found if difference is not None]
        corrected = iter(holm(tested))
        outcomes = [
            Outcome(
                amount=amount,
                eval_set=eval_set,
                strategy=name,
                runs=len(losses),
                loss=float(losses.mean()),
                sd=float(losses.std(ddof=1)) if len(losses) > 1 else None,
                difference=difference,
                p=None if difference is None else next(corrected),
                **self._training(name, amount),
            )
            for name, losses, difference in found
        ]
        return sorted(outcomes, key=lambda outcome: outcome.loss)

    def verdict(
        self, strategy: str | None = None, baseline: str = RANDOM, among: Sequence[str] | None = None
    ) -> list[str]:
        """One sentence for each budget and evaluation set: is the strategy (by default the first) better than the
        baseline? For `among` see [`~StrategyComparison.outcomes`]."""
        strategy = strategy or self.strategies[0]
        lines = []
        for amount in self.amounts:
            for eval_set in self.eval_sets:
                outcomes = self.outcomes(amount, eval_set, baseline, among)
                mine = next((o for o in outcomes if o.strategy == strategy), None)
                if mine is None or mine.difference is None:
                    continue
                lines.append(self._sentence(mine, baseline, len(outcomes) - 1))
        return lines

    def _sentence(self, mine: Outcome, baseline: str, comparisons: int) -> str:
        d = mine.difference
        fitted = self.fitted_on.get(mine.strategy)
        seen = "" if fitted is None else f" ({'fitted to' if mine.eval_set in fitted else 'never seen'})"
        found = {
            "better": f"better than {baseline} by {-d.estimate:.4f} ± {(d.high - d.low) / 2:.4f}",
            "worse": f"worse than {baseline} by {d.estimate:.4f} ± {(d.high - d.low) / 2:.4f}",
            "no different": f"no different from {baseline}: {d.estimate:+.4f}, interval {d.low:+.4f} to {d.high:+.4f}",
        }[mine.verdict]
        corrected = f" after Holm's correction for {comparisons} comparisons" if comparisons > 1 else ""
        return f"{mine.eval_set}{seen}, {mine.amount}: {mine.strategy} is {found} nats (p = {mine.p:.3g}{corrected})."

    def table(self, amount: str, eval_set: str, baseline: str = RANDOM) -> str:
        """The outcomes as a Markdown table."""
        head = [
            "strategy",
            "finetunes",
            "rows",
            "tokens",
            "steps",
            "loss",
            "sd",
            f"to {baseline}",
            "95 %",
            "p",
            "Holm",
        ]
        lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
        for o in self.outcomes(amount, eval_set, baseline):
            d = o.difference
            compared = ["", "", "", ""]
            if d is not None:
                compared = [f"{d.estimate:+.4f}", f"{d.low:+.4f} … {d.high:+.4f}", f"{d.p:.3g}", f"{o.p:.3g}"]
            sd = "" if o.sd is None else f"{o.sd:.4f}"
            cells = [o.strategy, str(o.runs), f"{o.rows:.0f}", f"{o.tokens:.0f}", f"{o.steps:.0f}", f"{o.loss:.4f}"]
            lines.append(f"| {' | '.join([*cells, sd, *compared])} |")
        return "\n".join(lines)

    def summary(self, baseline: str = RANDOM) -> str:
        """All tables, and the verdict as the last lines."""
        parts = []
        for amount in self.amounts:
            for eval_set in self.eval_sets:
                parts.append(f"{eval_set}, {amount}:\n\n{self.table(amount, eval_set, baseline)}")
        if self.failed:
            parts.append("\n".join(["Failed and left out:", *(f"- {line}" for line in self.failed)]))
        parts.append("\n".join(self.verdict(baseline=baseline)))
        return "\n\n".join(parts)

    def __str__(self) -> str:
        return self.summary()

    def plot(self, path: str | Path, baseline: str = RANDOM) -> None:
        """Draws every strategy's difference to the baseline with its interval, as a PNG for a card."""
        from .comparison_figure import plot_differences

        plot_differences(self, path, baseline)

    def section(self) -> "CardSection":
        """The evidence as a section of a dataset card."""
        from .comparison_figure import evidence_section

        return evidence_section(self)

    @cached_property
    def _differences(self) -> dict[tuple[str, ...], Difference]:
        """Those that were asked for: tables, figure and verdict need the same ones."""
        return {}

    @cached_property
    def _light(self) -> list[dict[str, Any]]:
        heavy = [n for n in self.runs.column_names if n.startswith("example_") or n == "indices"]
        return list(self.runs.remove_columns(heavy))

    def _rows_of(self, strategy: str, amount: str) -> list[int]:
        return [
            number
            for number, row in enumerate(self._light)
            if row["status"] == "done" and row["strategy"] == strategy and row["amount"] in (amount, FULL)
        ]

    def _nll(self, strategy: str, amount: str, eval_set: str) -> np.ndarray | None:
        rows = self._rows_of(strategy, amount)
        return np.array([self._examples[eval_set][row] for row in rows]) if rows else None

    @cached_property
    def _examples(self) -> dict[str, list[Any]]:
        return {name: self.runs[f"example_nll_{name}"][:] for name in self.eval_sets}

    def _tokens(self, eval_set: str) -> np.ndarray:
        return np.array(next(tokens for tokens in self.runs[f"example_tokens_{eval_set}"] if tokens), dtype=float)

    def _training(self, strategy: str, amount: str) -> dict[str, float]:
        rows = [self._light[number] for number in self._rows_of(strategy, amount)]
        names = {"rows": "subset_size", "tokens": "subset_tokens", "steps": "steps"}
        return {key: float(np.mean([row[name] for row in rows])) for key, name in names.items()}


def compare_strategies(
    scored: Dataset,
    strategies: Mapping[str, Strategy],
    recipe: "Recipe | Mapping[str, Any] | str | Path",
    eval_sets: Mapping[str, "Dataset | EvaluationSet"],
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
    retry_failed: bool = False,
    seed: int = 0,
) -> StrategyComparison:
    """Finetunes on what each strategy chooses, several times each, and compares the losses.

    Every strategy chooses from the rows that have a response and are no exact copy of an earlier one. Finished runs
    are kept as a sweep's are: killed at any instant, the same call starts the missing ones and only those, and more
    strategies, budgets or seeds can join later.

    Args:
        scored (`Dataset`): The scored pool, with `output_length`.
        strategies (`Mapping[str, Strategy]`): By name; see [`~strategies.choose_rows`] for what one may be, and
            [`~strategies.usual_strategies`] for the baselines. The verdict is about the first. `"random"` is added
            where it is missing.
        recipe ([`Recipe`], mapping or path): How to finetune. With `budget: epochs` a strategy that picks short
            responses takes more optimiser steps at equal tokens; steps are in the table.
        eval_sets (`Mapping[str, Dataset]`): By name: the one that the rule was fitted to, and others it never saw.
        output_dir (`str` or `Path`): Keeps the records.
        tokens (`Sequence[int]`): Budgets in response tokens, to compare at.
        sizes (`Sequence[int]`): Budgets in rows.
        seeds (`int`, defaults to 5): Finetunes of each strategy, by seed of training.
        random_draws (`int`, *optional*): Finetunes of the random strategy, each on newly drawn rows. Defaults to twice
            `seeds`: every other strategy is compared with it (Dunnett 1955).
        full_seeds (`int`, defaults to 1): Finetunes of the full pool, where it is among the strategies.
        executor, columns, accelerate_config, retry_failed: As for [`run_sweep`].
        seed (`int`, defaults to 0): First seed of training, and of the random draws and the statistics.

    Returns:
        [`StrategyComparison`]

    Raises:
        [`InstructMineError`]: Before the first finetune, where a strategy cannot choose or a budget cannot be filled.
    """
    if not isinstance(scored, Dataset) or not isinstance(strategies, Mapping):
        raise InstructMineError(
            "compare_strategies needs a Dataset and strategies by name: {'mine': rule, 'longest': "
            f"'highest:{TOKENS}'}}; got a {type(scored).__name__} and a {type(strategies).__name__}"
        )
    if isinstance(tokens, int) or isinstance(sizes, int):
        raise InstructMineError("tokens and sizes are lists of budgets: write tokens=[8000], sizes=[128]")
    if strategies.get(RANDOM, RANDOM) != RANDOM:
        raise InstructMineError("the name 'random' belongs to the random choice, which all others are compared with")
    strategies = {**strategies, RANDOM: RANDOM}
    draws = 2 * seeds if random_draws is None else random_draws
    budgets = [*({"tokens": amount} for amount in tokens), *({"size": amount} for amount in sizes)]
    _check_request(scored, strategies, budgets, seeds, draws, full_seeds)
    mixtures = choose_all(scored, strategies, budgets, seeds, draws, full_seeds, columns, seed)
    records = Records(output_dir)
    run_sweep(
        scored, mixtures, recipe, eval_sets, output_dir, executor,
        columns=columns, accelerate_config=accelerate_config, retry_failed=retry_failed,
    )  # fmt: skip
    _keep_request(records, strategies, seed)
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
    lengths = _numbers(scored, TOKENS)
    usable = usable_rows(scored, columns, copies=False)
    usable = usable[np.isfinite(lengths[usable])]
    means = {name: _numbers(scored, name) for name in indicator_columns(scored)}
    rows = []

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


def _numbers(scored: Dataset, column: str) -> np.ndarray:
    return np.asarray(scored.with_format("numpy")[column][:], dtype=np.float64)


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
