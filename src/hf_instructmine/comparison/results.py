"""What a comparison of strategies found: outcomes, tables, verdict, and a section of a dataset card."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..errors import InstructMineError
from ..outputs.markdown import CardSection, count, escape, printable
from .figure import FIGURE, Panel, plot_differences
from .statistics import LEVEL, Difference, OneSet, Outcome, compare_losses, holm, one_against_random
from .strategies import FULL, RANDOM


@dataclass
class StrategyComparison:
    """What [`compare_strategies`] finds; prints as tables and a verdict.

    Attributes:
        runs (`Dataset`): One row per finetune with `strategy`, `amount`, `draw`, the losses, and each example's NLL.
        strategies (`list[str]`): Their names; the first is the one that the verdict is about.
        fitted_on (`dict[str, list[str]]`): By strategy, the evaluation sets that its rule was fitted to.
        seed (`int`): Of bootstrap and permutations.
        chosen_by (`dict[str, str]`): By strategy, the digest of its rule, or the words that say how it chooses. A
            function has none, nor have strategies of records that earlier versions wrote.
    """

    runs: Dataset
    strategies: list[str]
    fitted_on: dict[str, list[str]] = field(default_factory=dict)
    seed: int = 0
    chosen_by: dict[str, str] = field(default_factory=dict)

    def strategies_of(self, rule_digest: str) -> list[str] | None:
        """Names the strategies that chose by a rule.

        Args:
            rule_digest (`str`): As [`~estimator.file.rule_digest`] gives it.

        Returns:
            `list[str]`, *optional*: None where there may be one, but how a strategy chose is not recorded.
        """
        found = [name for name in self.strategies if self.chosen_by.get(name) == rule_digest]
        known = all(name in self.chosen_by or name in (RANDOM, FULL) for name in self.strategies)
        return found if found or known else None

    @cached_property
    def eval_sets(self) -> list[str]:
        """The evaluation sets that every finetune was measured on."""
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
                as_set=self._as_set(name, amount, eval_set) if name != baseline == RANDOM else None,
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
        assert d is not None  # the baseline itself gets no sentence
        fitted = self.fitted_on.get(mine.strategy)
        seen = "" if fitted is None else f" ({'fitted to' if mine.eval_set in fitted else 'never seen'})"
        found = {
            "better": f"better than {baseline} by {-d.estimate:.4f} ± {(d.high - d.low) / 2:.4f}",
            "worse": f"worse than {baseline} by {d.estimate:.4f} ± {(d.high - d.low) / 2:.4f}",
            "no different": f"not shown to differ from {baseline}: {d.estimate:+.4f}, interval {d.low:+.4f} to "
            f"{d.high:+.4f}",
        }[mine.verdict]
        corrected = f" after Holm's correction for {comparisons} comparisons" if comparisons > 1 else ""
        where, who = f"{printable(mine.eval_set)}{seen}, {printable(mine.amount)}", printable(mine.strategy)
        told = f"{where}: {who} is {found} nats (p = {mine.p:.3g}{corrected})"
        if mine.verdict == "no different":
            return f"{told}; a difference below {d.detectable:.4f} would not have been seen."
        if mine.as_set is None:
            return f"{told}."
        one, beyond = mine.as_set, "" if mine.as_set.p < LEVEL else ", which shows nothing of other choices"
        sets = f"as one set against {one.random_sets} random ones p = {one.p:.2g}{beyond}"
        return f"{told}, over finetunes on the one set that it chose; {sets}."

    def table(self, amount: str, eval_set: str, baseline: str = RANDOM, show: Callable[[Any], str] = printable) -> str:
        """The outcomes as a Markdown table, in which names are as `show` makes them."""
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
            cells = [
                show(o.strategy),
                str(o.runs),
                f"{o.rows:.0f}",
                f"{o.tokens:.0f}",
                f"{o.steps:.0f}",
                f"{o.loss:.4f}",
            ]
            lines.append(f"| {' | '.join([*cells, sd, *compared])} |")
        return "\n".join(lines)

    def summary(self, baseline: str = RANDOM) -> str:
        """All tables, and the verdict as the last lines."""
        parts = []
        for amount in self.amounts:
            for eval_set in self.eval_sets:
                parts.append(
                    f"{printable(eval_set)}, {printable(amount)}:\n\n{self.table(amount, eval_set, baseline)}"
                )
        if self.failed:
            parts.append("\n".join(["Failed and left out:", *(f"- {printable(line, None)}" for line in self.failed)]))
        parts.append("\n".join(self.verdict(baseline=baseline)))
        return "\n\n".join(parts)

    def __str__(self) -> str:
        return self.summary()

    def plot(self, path: str | Path, baseline: str = RANDOM) -> None:
        """Draws every strategy's difference to the baseline with its interval, as a PNG for a card."""
        plot_differences(self._panels(baseline), path, baseline)

    def section(self, strategies: Sequence[str] = ()) -> CardSection:
        """The evidence as a section of a dataset card: what was compared, tables, figure, verdict.

        Args:
            strategies (`Sequence[str]`): Whose verdict it is; by default the first's.
        """
        model = escape(next(iter(set(self.runs["base_model"]))))
        hours = sum(seconds or 0 for seconds in self.runs["seconds"]) / 3600
        parts = [
            f"{count(len(self.runs), 'finetune')} of {model} ({hours:.1f} hours) on what each strategy chooses. "
            "Differences in loss (Σ NLL / Σ response tokens, nats) to a random choice of the same amount; the "
            "interval resamples finetunes and evaluation examples; p is the larger of a permutation test over either, "
            "and Holm's correction is over the strategies of a table.",
            f"![Difference in loss of each strategy to random]({FIGURE})",
        ]
        for amount in self.amounts:
            for eval_set in self.eval_sets:
                table = self.table(amount, eval_set, show=escape)
                parts.append(f"**{escape(eval_set)}, {escape(amount)}**\n\n{table}")
        if FULL in self.runs["amount"]:
            parts.append("The full pool is trained on whole, whatever the budget.")
        lines = [escape(line, None) for name in strategies or self.strategies[:1] for line in self.verdict(name)]
        parts.append("\n".join(f"- {line}" for line in lines))
        picture = io.BytesIO()
        plot_differences(self._panels(RANDOM), picture, RANDOM)
        return CardSection("Does it beat a random choice?", "\n\n".join(parts), {FIGURE: picture.getvalue()}, lines)

    def _panels(self, baseline: str) -> list[list[Panel]]:
        """What the figure shows: a line of panels for each budget, one panel for each evaluation set."""
        return [
            [
                Panel(
                    f"{name}, {amount}", [o for o in self.outcomes(amount, name, baseline) if o.difference is not None]
                )
                for name in self.eval_sets
            ]
            for amount in self.amounts
        ]

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

    def _as_set(self, strategy: str, amount: str, eval_set: str) -> OneSet | None:
        tokens = self._tokens(eval_set).sum()
        means = []
        for name in (strategy, RANDOM):
            sets: dict[Any, list[float]] = {}  # the losses on each distinct set of rows
            for number in self._rows_of(name, amount):
                key = self._light[number].get("indices_hash", number)
                sets.setdefault(key, []).append(np.sum(self._examples[eval_set][number]) / tokens)
            means.append([float(np.mean(losses)) for losses in sets.values()])
        return one_against_random(*means)

    def _tokens(self, eval_set: str) -> np.ndarray:
        return np.array(next(tokens for tokens in self.runs[f"example_tokens_{eval_set}"] if tokens), dtype=float)

    def _training(self, strategy: str, amount: str) -> dict[str, float]:
        rows = [self._light[number] for number in self._rows_of(strategy, amount)]
        names = {"rows": "subset_size", "tokens": "subset_tokens", "steps": "steps"}
        return {key: float(np.mean([row[name] for row in rows])) for key, name in names.items()}
