"""What a size search shows: the best size, those that cannot be told apart from it, and selected against random."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from ..data.columns import numeric_column
from ..data.containers import as_dataset
from ..errors import InstructMineError
from ..estimator.summary import WIDTH
from ..estimator.verdict import paragraph
from ..outputs.markdown import count, printable
from ..outputs.plots import BLUE, GREY, RED, canvas
from ..outputs.shown import Cells, Drawing, Drawn
from .curve import SizeCurve, fit_size_curve


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..estimator.rule import Rule


@dataclass(frozen=True)
class SizeComparison:
    """Selected against random rows at one size: the selected set as one more draw beside the random ones.

    Finetunes repeated on a set say nothing of another set. So the selected set counts once, whatever its seeds.

    Attributes:
        size (`int`): Rows.
        selected (`float`): Mean loss of the selected set over the seeds, nats.
        random (`float`): Mean loss of the random sets, nats.
        seeds (`tuple[int, int]`): Runs behind each; every run on random rows has a set of its own.
        difference (`float`): Selected less random, nats: below 0 where the selection is better.
        standard_error (`float`): Of the difference, of one set beside the mean of the random ones; nats. From the
            spread of random sets and of seeds at all sizes.
        told_apart (`bool`): Whether 0 is outside the interval of the difference, at the report's confidence for all
            sizes together (Bonferroni).
    """

    size: int
    selected: float
    random: float
    seeds: tuple[int, int]
    difference: float
    standard_error: float
    told_apart: bool

    @property
    def verdict(self) -> str:
        """Which of the two is lower, where they can be told apart."""
        if not self.told_apart:
            return "not told apart"
        return "selected lower" if self.difference < 0 else "random lower"


@dataclass(frozen=True, repr=False)
class SizeReport(Drawn):
    """The result of a size search; prints as text. Made by [`size_report`].

    Attributes:
        trials (`Dataset`): All of them.
        target (`str`): Column of the loss.
        curve ([`SizeCurve`]): Loss of the selected rows by size.
        incumbent (`dict`): The single trial of lowest loss that BlendSearch ran, as a row of `trials`; of the grid
            where it ran none.
        comparisons (`list[SizeComparison]`): At each size of the grid.
        equal_steps (`list[SizeComparison]`): The same with equal optimiser steps; empty where that was not run.
        full_pool (`float`, *optional*): Loss after training on the whole pool, nats.
        pure_error (`float`, *optional*): SD between seeds of one size, selected rows, pooled; nats.
        pure_error_df (`int`): Its degrees of freedom.
        place (`str`): Where the ranges lie: `"inside"`, `"smallest"`, `"largest"`, `"both ends"`, or `"anywhere"`,
            where they are all sizes tried.
        rule ([`Rule`], *optional*): That selected; what it is worth is the first paragraph of the text.
    """

    trials: Dataset
    target: str
    curve: SizeCurve
    incumbent: dict[str, Any]
    comparisons: list[SizeComparison]
    equal_steps: list[SizeComparison]
    full_pool: float | None
    pure_error: float | None
    pure_error_df: int
    rule: "Rule | None" = None

    @property
    def best_size(self) -> int:
        """The size at which the curve is lowest."""
        return self.curve.best

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The sizes that cannot be told apart from the best, as (first, last)."""
        return self.curve.ranges

    @property
    def place(self) -> str:
        """Where the ranges lie, as documented above."""
        sizes = self.curve.sizes
        at_low, at_high = self.ranges[0][0] == round(sizes[0]), self.ranges[-1][1] == round(sizes[-1])
        if at_low and at_high:
            return "anywhere" if len(self.ranges) == 1 else "both ends"
        return "smallest" if at_low else "largest" if at_high else "inside"

    def _line(self) -> str:
        sizes = ", ".join(f"{comparison.size:,}" for comparison in self.comparisons[:12])
        return f"{count(len(self.trials), 'run')} at sizes {sizes}, by {printable(self.target, 60)}"

    def __str__(self) -> str:
        failed = sum(status != "done" for status in self.trials["status"])
        tokens, seconds = (sum(v or 0 for v in self.trials[name]) for name in ("train_tokens", "seconds"))
        lines = [] if self.rule is None else [fill(paragraph(self.rule), WIDTH), ""]
        lines += [
            f"Size search: {count(len(self.trials), 'run')}, {failed} failed; {tokens:,} response tokens, "
            f"{seconds:,.0f} s",
            f"{self.target} in nats, mean over seeds; SE: of the difference, as one set against the random ones",
            "",
            *_table(self.comparisons),
        ]
        if self.full_pool is not None:
            lines.append(f"the whole pool, one run: {self.full_pool:.4f}")
        if self.equal_steps:
            lines += ["", "The same with equal optimiser steps at every size:", *_table(self.equal_steps)]
        return "\n".join([*lines, "", *self._history(), "", *self._figures(), "", self.words()])

    def _says(self) -> list[str]:
        worth = [] if self.rule is None else [paragraph(self.rule)]
        return [*worth, *self.words().split("\n"), *self._figures()]

    def _tables(self) -> list[Cells]:
        found = [
            ("Selected against random rows, nats", self.comparisons),
            ("The same with equal optimiser steps", self.equal_steps),
        ]
        header = ["verdict", "size", "selected", "random", "difference", "standard error", "seeds"]
        return [
            Cells(
                caption,
                header,
                [
                    [c.verdict, f"{c.size:,}", f"{c.selected:.4f}", f"{c.random:.4f}", f"{c.difference:+.4f}",
                     f"{c.standard_error:.4f}", f"{c.seeds[0]}, {c.seeds[1]}"]
                    for c in comparisons
                ],
            )
            for caption, comparisons in found
            if comparisons
        ]  # fmt: skip

    def _drawings(self) -> dict[str, Drawing]:
        caption = "Loss against the number of rows, with the sizes that cannot be told apart from the best"
        return {"size": Drawing(caption, partial(_draw, self), partial(_drawn, self))}

    def save_figure(self, path: str | Path) -> None:
        """As [`~SizeReport.plot`], under the name that it had first."""
        self.plot(path)

    def words(self) -> str:
        """What follows from it, in a few sentences."""
        ranges = " and ".join(f"{low:,} to {high:,}" if low < high else f"{low:,}" for low, high in self.ranges)
        told = {
            "inside": f"The best size lies inside the sizes tried: {ranges} rows cannot be told apart.",
            "smallest": f"At the smallest size tried: the optimum may lie below; {ranges} rows cannot be told apart.",
            "largest": f"At the largest size tried: the optimum may lie beyond; {ranges} rows cannot be told apart.",
            "both ends": f"{ranges} rows cannot be told apart, both ends among them: the optimum may lie beyond.",
            "anywhere": f"No size can be told apart from the best, {ranges} rows: the size does not matter much here, "
            "or it takes more runs to see that it does.",
        }[self.place]
        lines = [told]
        if self.place != "anywhere":
            lines.append(f"Of these, {self.ranges[0][0]:,} rows are the cheapest.")
        lower = [c for c in self.comparisons if c.told_apart and c.difference < 0]
        higher = [c for c in self.comparisons if c.told_apart and c.difference > 0]
        if self.comparisons:
            shown = f"at {len(lower)} of {len(self.comparisons)} sizes"
            told = f"Selected rows are shown to give a lower loss than random ones {shown}"
            told += f", a higher one at {len(higher)}" if higher else ""
            lines.append(f"{told}, as one set against the random ones.")
        return "\n".join(lines)

    def _history(self) -> list[str]:
        options = _options(self.trials)
        lines = [f"{'trial':>5} {'kind':<10} {'rows':<9}{'size':>8}  {self.target:<18}{'steps':>7}"]
        for row in self.trials:
            loss = f"{row[self.target]:.4f}" if row["status"] == "done" else f"failed: {row['reason']}"
            turned = " ".join("" if row[name] is None else f"{name}={row[name]}" for name in options)
            steps = "" if row["steps"] is None else row["steps"]
            lines.append(
                f"{row['trial']:>5} {row['kind']:<10} {row['strategy']:<9}{row['size']:>8,}  {loss:<18}{steps:>7}  "
                f"{turned}".rstrip()
            )
        return lines

    def _figures(self) -> list[str]:
        curve, found = self.curve, self.incumbent
        lines = [
            f"Best size by the curve: {curve.best:,} rows, {curve.mean.min():.4f} expected",
            f"Cannot be told apart from it at {curve.confidence:.0%}: "
            + ", ".join(f"{low:,} to {high:,}" for low, high in self.ranges)
            + f" ({curve.share:.0%} of the range of log sizes)",
            f"Best single trial: {found['size']:,} rows, {found[self.target]:.4f}; as the lowest of many noisy "
            "numbers, lower than another run of it would be",
        ]
        if self.full_pool is not None:
            more = self.full_pool - curve.mean.min()
            lines.append(f"The whole pool: {more:+.4f} against the best size by the curve (one run)")
        if self.pure_error is not None:
            lines.append(f"SD between seeds: {self.pure_error:.4f} ({self.pure_error_df} degrees of freedom)")
        return [*lines, f"SD of the noise around the curve: {curve.noise:.4f}"]


def size_report(
    trials: Any, target: str | None = None, confidence: float = 0.95, rule: "Rule | None" = None
) -> SizeReport:
    """Reads a size search: the best size and those that cannot be told apart from it; see [`fit_size_curve`].

    The curve is fitted to all runs on selected rows with the options of the grid.

    Args:
        trials (`Dataset`, or what else [`as_dataset`] takes): From [`search_size`], or its `trials.parquet`.
        target (`str`, *optional*): Column of the loss; by default the first, that was searched for.
        confidence (`float`, defaults to 0.95): Of the ranges and the intervals.
        rule ([`Rule`], *optional*): That selected, for the report to say what it is worth.

    Returns:
        [`SizeReport`]

    Raises:
        [`InstructMineError`]: Where columns are missing, or fewer than 5 sizes have a finished run.

    Example:

    ```python
    print(him.size_report("search/trials.parquet", rule=rule))
    ```
    """
    trials = as_dataset(trials, "trials")
    losses = [name for name in trials.column_names if name.startswith("loss_")]
    missing = [name for name in ("kind", "strategy", "size", "status") if name not in trials.column_names]
    if missing or not losses:
        raise InstructMineError(f"these are no trials of search_size: '{[*missing, 'loss_…'][0]}' is missing")
    target = target or losses[0]
    if target not in losses:
        raise InstructMineError(f"the target '{target}' is not among the trials' {', '.join(losses)}")
    for name in (target, "size"):
        numeric_column(trials, name)  # refuses what holds no numbers
    done = [row for row in trials if row["status"] == "done"]
    selected = [row for row in done if row["strategy"] == "selected" and row["kind"] in ("grid", "search")]
    options = _options(trials)
    base = {tuple(row[name] for name in options) for row in selected if row["kind"] == "grid"}
    alike = [row for row in selected if tuple(row[name] for name in options) in base]
    curve = fit_size_curve([row["size"] for row in alike], [row[target] for row in alike], confidence)
    searched = [row for row in selected if row["kind"] == "search"]
    full = [row[target] for row in done if row["kind"] == "full"]
    spread, freedom = _pure_error(_groups(done, "grid", "selected", target))
    return SizeReport(
        trials=trials,
        target=target,
        curve=curve,
        incumbent=min(searched or selected, key=lambda row: row[target]),
        comparisons=against_random(done, "grid", target, confidence),
        equal_steps=against_random(done, "grid-steps", target, confidence),
        full_pool=full[0] if full else None,
        pure_error=spread,
        pure_error_df=freedom,
        rule=rule,
    )


def _options(trials: Dataset) -> list[str]:
    """The columns of what was searched besides the size."""
    names = trials.column_names
    if "mixture_id" not in names:
        return []
    return names[names.index("size") + 1 : names.index("mixture_id")]


def _groups(rows: list[dict[str, Any]], kind: str, strategy: str, target: str) -> dict[int, np.ndarray]:
    """Losses by size."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["kind"] == kind and row["strategy"] == strategy:
            found.setdefault(row["size"], []).append(row[target])
    return {size: np.array(found[size]) for size in sorted(found)}


def _pure_error(groups: dict[int, np.ndarray]) -> tuple[float | None, int]:
    """SD around the mean of each size, pooled, and its degrees of freedom."""
    freedom = sum(len(losses) - 1 for losses in groups.values())
    squares = sum(((losses - losses.mean()) ** 2).sum() for losses in groups.values())
    return (float(np.sqrt(squares / freedom)), freedom) if freedom else (None, 0)


def against_random(rows: list[dict[str, Any]], kind: str, target: str, confidence: float) -> list[SizeComparison]:
    """Compares the selected set with the random ones of each size, Bonferroni over the sizes.

    Returns:
        `list[SizeComparison]`: Empty where selected or random runs have no spread to know their noise by.
    """
    from scipy.stats import t

    selected, random = (_groups(rows, kind, strategy, target) for strategy in ("selected", "random"))
    both = [size for size in selected if size in random]
    seeds = _pure_error(selected)[0]
    if seeds is None or _pure_error(random)[0] is None:
        return []
    pool = max((row["size"] for row in rows if row["kind"] == "full"), default=np.inf)
    spread, freedom = _spread_of_sets(random, seeds, pool)
    bound = t.ppf(1 - (1 - confidence) / 2 / len(both), freedom) if both else 0.0
    found = []
    for size in both:
        n, m = len(selected[size]), len(random[size])
        error = float(np.sqrt(spread[size] * (1 + 1 / m)))
        means = float(selected[size].mean()), float(random[size].mean())
        difference = means[0] - means[1]
        found.append(SizeComparison(size, *means, (n, m), difference, error, bool(abs(difference) > bound * error)))
    return found


def _spread_of_sets(random: dict[int, np.ndarray], seeds: float, pool: float) -> tuple[dict[int, float], float]:
    """Variance of the loss between random sets of each size, and degrees of freedom.

    It is that of seeds, which the selected rows show, and that of rows. The latter falls as 1 / size - 1 / pool: of a
    mean of rows drawn without replacement. Random sets of one draw hold each other, so their spreads are correlated by
    the ratio of their sizes, and count as fewer degrees of freedom (Satterthwaite 1946).
    """
    sizes = np.array(list(random), dtype=float)
    freedom = np.array([len(losses) - 1 for losses in random.values()])
    variances = np.array([losses.var(ddof=1) if len(losses) > 1 else 0.0 for losses in random.values()])
    falls = 1 / sizes - 1 / pool
    weights = freedom * sizes
    of_rows = max(0.0, float((weights * (variances - seeds**2)).sum() / max((weights * falls).sum(), 1e-12)))
    shared = np.minimum.outer(sizes, sizes) / np.maximum.outer(sizes, sizes) * np.minimum.outer(freedom, freedom)
    spread = seeds**2 + of_rows * np.maximum(falls, 0)
    return dict(zip(random, spread.tolist())), float(freedom.sum() ** 2 / shared.sum())


def _table(comparisons: list[SizeComparison]) -> list[str]:
    lines = [f"{'size':>8}  {'selected':>9} {'random':>9} {'difference':>11} {'SE':>8}  seeds"]
    for c in comparisons:
        lines.append(
            f"{c.size:>8,}  {c.selected:>9.4f} {c.random:>9.4f} {c.difference:>+11.4f} {c.standard_error:>8.4f}  "
            f"{c.seeds[0]}, {c.seeds[1]}  {c.verdict}"
        )
    return lines


def _drawn(report: SizeReport) -> dict[str, list[Any]]:
    """What the figure shows, a line for each point of it: the curve with its band, the means over the seeds with their
    intervals, the trials of the search, and the whole pool, which has no size."""
    curve = report.curve
    done = [row for row in report.trials if row["status"] == "done"]
    lines = [("curve", *numbers) for numbers in zip(curve.sizes, curve.mean, curve.low, curve.high)]
    for strategy in ("selected", "random"):
        groups = _groups(done, "grid", strategy, report.target)
        lines += [(f"{strategy} rows", *numbers) for numbers in zip(groups, *_means(groups, curve.confidence))]
    lines += [
        ("trial of the search", row["size"], row[report.target], np.nan, np.nan)
        for row in done
        if row["kind"] == "search"
    ]
    if report.full_pool is not None:
        lines.append(("the whole pool", np.nan, report.full_pool, np.nan, np.nan))
    columns = dict(zip(("what", "rows", "loss", "low", "high"), map(list, zip(*lines))))
    alike = [any(low <= size <= high for low, high in report.ranges) for size in columns["rows"]]
    return {**columns, "not_told_apart_from_the_best": alike}


def _draw(report: SizeReport) -> "Figure":
    from matplotlib.ticker import NullLocator

    curve = report.curve
    done = [row for row in report.trials if row["status"] == "done"]
    figure, ((axes,),) = canvas(4.6)
    for k, (low, high) in enumerate(report.ranges):
        label = "cannot be told apart from the best" if k == 0 else None
        axes.axvspan(low, high, color=BLUE, alpha=0.12, linewidth=0, label=label)
    axes.fill_between(curve.sizes, curve.low, curve.high, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(curve.sizes, curve.mean, color=BLUE, linewidth=1.5, label=f"fitted curve, {curve.confidence:.0%} band")
    for strategy, color, shift in (("selected", BLUE, 1.0), ("random", RED, 1.02)):
        _seeds(axes, _groups(done, "grid", strategy, report.target), strategy, color, shift, curve.confidence)
    searched = [row for row in done if row["kind"] == "search"]
    if searched:
        x, y = [row["size"] for row in searched], [row[report.target] for row in searched]
        axes.plot(x, y, "o", color="white", markeredgecolor=BLUE, markersize=4, label="trials of the search")
    if report.full_pool is not None:
        axes.axhline(report.full_pool, color=GREY, linestyle="--", linewidth=1, label="the whole pool")
    axes.set_xscale("log")
    sizes = sorted({c.size for c in report.comparisons} or {int(curve.sizes[0]), int(curve.sizes[-1])})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("rows trained on (log scale)")
    axes.set_ylabel(f"{report.target} (nats)")
    axes.set_title(f"best {report.best_size:,} rows by the curve, {len(report.trials)} runs")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _means(groups: dict[int, np.ndarray], confidence: float) -> tuple[list[float], list[float], list[float]]:
    """Means over the seeds with the ends of their interval, from the spread pooled over the sizes; NaN where it is not
    known."""
    from scipy.stats import t

    spread, freedom = _pure_error(groups)
    factor = np.nan if spread is None else t.ppf((1 + confidence) / 2, freedom) * spread
    means = [float(losses.mean()) for losses in groups.values()]
    reach = [factor / np.sqrt(len(losses)) for losses in groups.values()]
    return means, [m - r for m, r in zip(means, reach)], [m + r for m, r in zip(means, reach)]


def _seeds(axes: Any, groups: dict[int, np.ndarray], label: str, color: str, shift: float, confidence: float) -> None:
    """Means over the seeds with their interval."""
    if not groups:
        return
    means, low, high = _means(groups, confidence)
    reach = None if np.isnan(low[0]) else [np.subtract(means, low), np.subtract(high, means)]
    # Moved a little apart, so that one does not hide the other.
    axes.errorbar(
        [size * shift for size in groups], means, yerr=reach, fmt="o", color=color, markersize=5, capsize=3,
        linewidth=1.2, label=f"{label} rows: mean of the seeds",
    )  # fmt: skip
