"""What a comparison of strategies found: outcomes, tables, verdict, and a section of a dataset card."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from ..errors import InstructMineError
from ..outputs.markdown import CardSection, count, escape, printable
from ..outputs.shown import Cells, Drawing, Drawn
from .figure import FIGURE, Panel, draw_differences, numbers, plot_differences
from .outcomes import Outcome
from .power import Noise
from .statistics import (
    Difference,
    OneSet,
    PairedDifference,
    compare_losses,
    compare_parts,
    holm,
    one_against_random,
)
from .strategies import FULL, RANDOM
from .tables import as_cells, sentence, table, unfinished
from .worth import Worth, worth


if TYPE_CHECKING:
    import pandas as pd

UNTRAINED = "untrained"
LEAST_PARTS = 3  # where others failed or are still to come; before the first finetune more may be asked for


@dataclass(repr=False)
class StrategyComparison(Drawn):
    """What [`compare_strategies`] finds; prints as tables and a verdict.

    Attributes:
        runs (`Dataset`): One row per finetune with `strategy`, `amount`, `part` (None for the whole pool), `multiple`
            (of the amount), the losses, and each example's NLL. Records of earlier versions have no parts: then the
            figures are about finetunes on the one set that each strategy chose.
        strategies (`list[str]`): Their names; the first is the one that the verdict is about.
        fitted_on (`dict[str, list[str]]`): By strategy, the evaluation sets that its rule was fitted to.
        seed (`int`): Of parts and draws.
        chosen_by (`dict[str, str]`): By strategy, the digest of its rule, or the words that say how it chooses. A
            function has none, nor have strategies of records that earlier versions wrote.
        protocol (`dict[str, Any]`): As [`~parts.Protocol`]; empty for records of earlier versions.
        eval_bytes (`dict[str, int]`): By evaluation set, the UTF-8 bytes of its responses.
        pool (`dict[str, int]`): `rows` and response `tokens` that there were to choose from.
        sweeps (`dict[str, dict]`): By strategy, how many `finetunes` its rule was fitted to, and the least and most
            response tokens (`train_tokens`) of one.
        untrained (`dict`, *optional*): By evaluation set, each example's `nll` and `tokens` before any training.
    """

    runs: Dataset
    strategies: list[str]
    fitted_on: dict[str, list[str]] = field(default_factory=dict)
    seed: int = 0
    chosen_by: dict[str, str] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    eval_bytes: dict[str, int] = field(default_factory=dict)
    pool: dict[str, int] = field(default_factory=dict)
    sweeps: dict[str, Any] = field(default_factory=dict)
    untrained: dict[str, Any] | None = None

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
        """The budgets, response tokens before rows, small before large."""
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
            baseline (`str`, defaults to `"random"`): What the others are compared with; `"untrained"` is the model
                before any training.
            among (`Sequence[str]`, *optional*): The strategies to compare, where the question is not about all: p is
                corrected for so many. To be chosen before the losses are seen.

        Raises:
            [`InstructMineError`]: Where the baseline has no finished run at this budget.
        """
        if not self._rows_of(baseline, amount) and not (baseline == UNTRAINED and self.untrained):
            raise InstructMineError(f"'{baseline}' has no finished run at {amount}: there is nothing to compare with")
        wanted = [name for name in self.strategies if among is None or name in among or name == baseline]
        found = {name: self._outcome(name, amount, eval_set, baseline) for name in wanted}
        outcomes = [outcome for outcome in found.values() if outcome is not None]
        tested = [outcome for outcome in outcomes if outcome.difference is not None]
        for outcome, p in zip(tested, holm([o.difference.p for o in tested if o.difference is not None])):
            outcome.p, outcome.comparisons = p, len(tested)
        if among is None and self.in_parts and (base := self._of_untrained(amount, eval_set, baseline)):
            outcomes.append(base)
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
                if mine is not None and mine.difference is not None:
                    lines.append(sentence(mine, baseline, self.fitted_on.get(strategy)))
                elif self.in_parts and strategy not in (baseline, FULL):
                    lines.append(unfinished(strategy, baseline, amount, eval_set))
        return lines

    def worth(self, strategy: str | None = None, amount: str | None = None, eval_set: str | None = None) -> Worth:
        """How many times as many random tokens (or rows) the strategy's choice is as good as; see [`~worth.worth`].

        Args:
            strategy (`str`, *optional*): By default the first.
            amount (`str`, *optional*): By default the first.
            eval_set (`str`, *optional*): By default the first.

        Raises:
            [`InstructMineError`]: Where random was trained at one amount alone, or fewer than three parts finished.
        """
        strategy, amount = strategy or self.strategies[0], amount or self.amounts[0]
        eval_set = eval_set or self.eval_sets[0]
        found = self._worth(strategy, amount, eval_set)
        if found is None:
            raise InstructMineError(
                f"random was trained at {amount} alone, or fewer than {LEAST_PARTS} parts are finished: compare with "
                "random_at=[0.5, 2]"
            )
        return found

    def noise(self, amount: str | None = None, eval_set: str | None = None) -> Noise:
        """What differences to random varied by here, the largest of the strategies', for [`power`].

        Raises:
            [`InstructMineError`]: Where there are no parts.
        """
        amount, eval_set = amount or self.amounts[0], eval_set or self.eval_sets[0]
        found = [o.difference for o in self.outcomes(amount, eval_set) if isinstance(o.difference, PairedDifference)]
        if not found:
            raise InstructMineError("noise is known of a comparison over parts; this one has none")
        source = f"recorded on {eval_set}, {amount}"
        return Noise(max(d.parts_sd for d in found), max(d.examples_sd for d in found), source)

    @property
    def in_parts(self) -> bool:
        """Whether each strategy chose in several parts of the pool, so that parts are the unit."""
        return "part" in self.runs.column_names

    def _outcome(self, name: str, amount: str, eval_set: str, baseline: str) -> Outcome | None:
        rows = self._rows_of(name, amount)
        if not rows:
            return None
        tokens = self._tokens(eval_set)
        losses = np.array([np.sum(self._examples[eval_set][row]) for row in rows]) / tokens.sum()
        key = (amount, eval_set, name, baseline)
        if name != baseline and key not in self._differences:
            self._differences[key] = self._compare(*key)
        outcome = Outcome(
            amount=amount,
            eval_set=eval_set,
            strategy=name,
            runs=len(losses),
            loss=float(losses.mean()),
            sd=float(losses.std(ddof=1)) if len(losses) > 1 else None,
            difference=self._differences.get(key),
            bits_per_byte=self._bits_per_byte(float(losses.mean()), eval_set),
            rows=self._mean("subset_size", rows),
            tokens=self._mean("subset_tokens", rows),
            steps=self._mean("steps", rows),
            epochs=self._mean("epochs", rows),
        )
        if self.in_parts:
            outcome.whole = self._of_whole_pool(name, amount, eval_set)
            if baseline == RANDOM and name != baseline:
                outcome.worth = self._worth(name, amount, eval_set)
        elif name != baseline == RANDOM:
            outcome.as_set = self._as_set(name, amount, eval_set)
        return outcome

    def _compare(self, amount: str, eval_set: str, name: str, baseline: str) -> Difference | PairedDifference | None:
        tokens = self._tokens(eval_set)
        if not self.in_parts:
            nll, others = (
                np.array([self._examples[eval_set][row] for row in self._rows_of(n, amount)]) for n in (name, baseline)
            )
            return compare_losses(nll, others, tokens, seed=self.seed)
        mine, theirs = (self._by_part(n, amount, eval_set) for n in (name, baseline))
        both = sorted(mine.keys() & theirs.keys())
        if len(both) < LEAST_PARTS:
            return None
        return compare_parts(np.array([mine[k] for k in both]), np.array([theirs[k] for k in both]), tokens)

    def _by_part(self, name: str, amount: str, eval_set: str, multiple: float = 1.0) -> dict[int, np.ndarray]:
        """Each example's NLL by part, the mean over its seeds; the untrained model's is the same in all."""
        if name == UNTRAINED:
            nll = np.array((self.untrained or {})[eval_set]["nll"])
            return dict.fromkeys({row["part"] for row in self._light if row["part"] is not None}, nll)
        found: dict[int, list[np.ndarray]] = {}
        for number in self._rows_of(name, amount, multiple):
            part = self._light[number]["part"]
            if part is not None:  # the full pool has none
                found.setdefault(part, []).append(np.array(self._examples[eval_set][number]))
        return {part: np.mean(nll, axis=0) for part, nll in found.items()}

    def _worth(self, name: str, amount: str, eval_set: str) -> Worth | None:
        curve = {m: self._by_part(RANDOM, amount, eval_set, m) for m in self._multiples(amount)}
        mine = self._by_part(name, amount, eval_set)
        parts = sorted(set.intersection(set(mine), *(set(nll) for nll in curve.values())))
        if len(curve) < 2 or len(parts) < LEAST_PARTS:
            return None
        at = {m: np.array([nll[k] for k in parts]) for m, nll in curve.items()}
        return worth(np.array([mine[k] for k in parts]), at, self._tokens(eval_set))

    def _multiples(self, amount: str) -> list[float]:
        rows = [row for row in self._light if (row["strategy"], row["amount"]) == (RANDOM, amount)]
        return sorted({row["multiple"] for row in rows if row["status"] == "done" and row["part"] is not None})

    def _of_whole_pool(self, name: str, amount: str, eval_set: str) -> float | None:
        rows = [
            number
            for number, row in enumerate(self._light)
            if row["status"] == "done" and row["part"] is None and (row["strategy"], row["amount"]) == (name, amount)
        ]
        losses = [np.sum(self._examples[eval_set][number]) / self._tokens(eval_set).sum() for number in rows]
        return float(np.mean(losses)) if losses else None

    def _of_untrained(self, amount: str, eval_set: str, baseline: str) -> Outcome | None:
        measured = (self.untrained or {}).get(eval_set)
        if measured is None:
            return None
        tokens, nll = self._tokens(eval_set), np.array(measured["nll"])
        others = self._by_part(baseline, amount, eval_set)
        against = np.array(list(others.values()))
        loss, parts = float(nll.sum() / tokens.sum()), len(against)
        return Outcome(
            amount=amount, eval_set=eval_set, strategy=UNTRAINED, runs=0, rows=0, tokens=0, steps=0, epochs=0.0,
            loss=loss, sd=None, bits_per_byte=self._bits_per_byte(loss, eval_set),
            difference=compare_parts(np.tile(nll, (parts, 1)), against, tokens)
            if parts >= LEAST_PARTS and baseline != UNTRAINED else None,
        )  # fmt: skip

    def _bits_per_byte(self, loss: float, eval_set: str) -> float | None:
        size = self.eval_bytes.get(eval_set)
        return loss * self._tokens(eval_set).sum() / math.log(2) / size if size else None

    def table(self, amount: str, eval_set: str, baseline: str = RANDOM, show: Callable[[Any], str] = printable) -> str:
        """The outcomes as a Markdown table, in which names are as `show` makes them."""
        return table(self.outcomes(amount, eval_set, baseline), baseline, show)

    def summary(self, baseline: str = RANDOM, show: Callable[..., str] = printable) -> str:
        """All tables, and the verdict as the last lines; names are as `show` makes them."""
        parts = []
        for amount in self.amounts:
            for eval_set in self.eval_sets:
                parts.append(f"{show(eval_set)}, {show(amount)}:\n\n{self.table(amount, eval_set, baseline, show)}")
        if self.failed:
            parts.append("\n".join(["Failed and left out:", *(f"- {show(line, None)}" for line in self.failed)]))
        if charged := self.charged:
            parts.append(show(charged, None))
        parts.append("\n".join(show(line, None) for line in self.verdict(baseline=baseline)))
        return "\n\n".join(parts)

    @property
    def charged(self) -> str:
        """What a choice costs besides the finetunes on it; empty for records of earlier versions."""
        if not self.pool:
            return ""
        parts = [f"a choice by scores reads the pool's {self.pool['tokens']:,} response tokens once for each model"]
        for name, sweep in self.sweeps.items():
            held = sweep.get("train_tokens")
            each = f" of {held[0]:,} to {held[1]:,} response tokens" if held else ""
            parts.append(f"{printable(name)} was fitted to {count(sweep['finetunes'], 'finetune')}{each}")
        return f"Charged beside it: {'; '.join(parts)}."

    def _line(self) -> str:
        names, sets = (", ".join(printable(n, 40) for n in names[:6]) for names in (self.strategies, self.eval_sets))
        return f"{count(len(self.runs), 'finetune')} of {names} on {sets}"

    def __str__(self) -> str:
        return self.summary()

    def _says(self) -> list[str]:
        return [*self.verdict(), self.charged, *self.failed]

    def _tables(self) -> list[Cells]:
        return [as_cells(self.outcomes(a, name), RANDOM) for a in self.amounts for name in self.eval_sets]

    def _drawings(self) -> dict[str, Drawing]:
        panels = self._panels(RANDOM)
        if not any(panel.outcomes for line in panels for panel in line):
            return {}
        caption = "Difference in loss of each strategy to random, with 95 % intervals"
        draw, data = partial(draw_differences, panels, RANDOM), partial(numbers, panels)
        return {"differences": Drawing(caption, draw, data, 200)}

    def plot(self, path: str | Path, baseline: str = RANDOM, *, figure: str | None = None) -> None:
        """Draws every strategy's difference to the baseline with its interval, as a PNG, SVG or PDF by suffix."""
        plot_differences(self._panels(baseline), path, baseline)

    def to_pandas(self, baseline: str = RANDOM, *, figure: str | None = None) -> "pd.DataFrame":
        """The numbers of [`~StrategyComparison.plot`] as a table: one row for each strategy, amount and set."""
        import pandas as pd

        return pd.DataFrame(numbers(self._panels(baseline)))

    def section(self, strategies: Sequence[str] = ()) -> CardSection:
        """The evidence as a section of a dataset card: what was compared, tables, figure, verdict.

        Args:
            strategies (`Sequence[str]`): Whose verdict it is; by default the first's.
        """
        model = escape(next(iter(set(self.runs["base_model"]))))
        hours = sum(seconds or 0 for seconds in self.runs["seconds"]) / 3600
        parts = [
            f"{count(len(self.runs), 'finetune')} of {model} ({hours:.1f} hours) on what each strategy chooses. "
            "Differences in loss (Σ NLL / Σ response tokens, nats) are to a random choice of the same amount. "
            + self._how(),
            f"![Difference in loss of each strategy to random]({FIGURE})",
        ]
        for amount in self.amounts:
            for eval_set in self.eval_sets:
                table = self.table(amount, eval_set, show=escape)
                parts.append(f"**{escape(eval_set)}, {escape(amount)}**\n\n{table}")
        if FULL in self.runs["amount"]:
            parts.append("The full pool is trained on whole, whatever the budget.")
        if charged := self.charged:
            parts.append(escape(charged, None))
        lines = [escape(line, None) for name in strategies or self.strategies[:1] for line in self.verdict(name)]
        parts.append("\n".join(f"- {line}" for line in lines))
        picture = io.BytesIO()
        plot_differences(self._panels(RANDOM), picture, RANDOM)
        return CardSection("Does it beat a random choice?", "\n\n".join(parts), {FIGURE: picture.getvalue()}, lines)

    def _how(self) -> str:
        if not self.in_parts:
            return (
                "The interval resamples finetunes and evaluation examples; p is the larger of a permutation test over "
                "either, and Holm's correction is over the strategies of a table."
            )
        return (
            f"Every strategy chose anew in each of {self.protocol.get('parts', 'several')} disjoint random parts of "
            "the pool, all in the same ones. Interval and p are over parts, seeds and examples (Student's t), "
            "and Holm's correction is over the strategies of a table."
        )

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
    def _differences(self) -> dict[tuple[str, ...], Difference | PairedDifference | None]:
        """Those that were asked for: tables, figure and verdict need the same ones."""
        return {}

    @cached_property
    def _light(self) -> list[dict[str, Any]]:
        heavy = [n for n in self.runs.column_names if n.startswith("example_") or n == "indices"]
        return list(self.runs.remove_columns(heavy))

    def _rows_of(self, strategy: str, amount: str, multiple: float = 1.0) -> list[int]:
        """Numbers of the finished runs, those in parts where there are parts; the full pool's are of any amount."""
        return [
            number
            for number, row in enumerate(self._light)
            if row["status"] == "done" and row["strategy"] == strategy
            and (
                row["amount"] == FULL
                or (row["amount"] == amount and row.get("multiple", 1.0) == multiple
                    and not (self.in_parts and row["part"] is None))
            )
        ]  # fmt: skip

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

    def _mean(self, column: str, rows: Sequence[int]) -> float:
        return float(np.mean([self._light[number].get(column, np.nan) for number in rows]))
