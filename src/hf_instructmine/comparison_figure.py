"""The evidence of a comparison for a dataset card: its tables, its verdict and a figure."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from .strategies import FULL, RANDOM


if TYPE_CHECKING:
    from .comparison import Outcome, StrategyComparison
    from .publishing.card import CardSection

FIGURE = "comparison.png"
_COLORS = {"better": "#1a7f37", "worse": "#b3261e", "no different": "#5f6673"}


def plot_differences(comparison: "StrategyComparison", path: str | Path | io.BytesIO, baseline: str = RANDOM) -> None:
    """Draws each strategy's difference in loss to the baseline with its 95 % interval.

    Args:
        comparison ([`StrategyComparison`]): What is drawn: a column of panels per evaluation set, a row per budget.
        path (`str`, `Path` or file): Gets the PNG, 1400 pixels wide.
        baseline (`str`, defaults to `"random"`): The strategy at 0.
    """
    from matplotlib.figure import Figure

    shown = [
        [[o for o in comparison.outcomes(a, s, baseline) if o.difference is not None] for s in comparison.eval_sets]
        for a in comparison.amounts
    ]
    heights = [1.2 + max(map(len, line)) for line in shown]
    figure = Figure(figsize=(7, 0.6 + 0.27 * sum(heights)), dpi=200, layout="constrained")
    panels = figure.subplots(
        len(shown), len(shown[0]), squeeze=False, sharex="col", gridspec_kw={"height_ratios": heights}
    )
    for line, axes_line, amount in zip(shown, panels, comparison.amounts):
        for outcomes, axes, eval_set in zip(line, axes_line, comparison.eval_sets):
            _draw(axes, outcomes[::-1])
            axes.set_title(f"{eval_set}, {amount}", loc="left", fontsize=9)
    figure.supxlabel(f"loss less that of {baseline} (nats per token), 95 % interval", fontsize=8)
    figure.savefig(path, format="png", metadata={"Software": None})


def _draw(axes: "object", outcomes: "list[Outcome]") -> None:
    for row, outcome in enumerate(outcomes):
        d, color = outcome.difference, _COLORS[outcome.verdict]
        axes.plot([d.low, d.high], [row, row], color=color, linewidth=2)
        axes.plot(d.estimate, row, "o", color=color, markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(outcomes)), [o.strategy for o in outcomes], fontsize=8)
    axes.set_ylim(-0.6, len(outcomes) - 0.4)
    axes.tick_params(axis="x", labelsize=7)
    axes.locator_params(axis="x", nbins=4)
    axes.spines[["top", "right"]].set_visible(False)


def evidence_section(comparison: "StrategyComparison") -> "CardSection":
    """The section of a card: what was compared, tables, figure, verdict."""
    from .publishing.card import CardSection, escape

    runs = comparison.runs
    model = escape(next(iter(set(runs["base_model"]))))
    hours = sum(seconds or 0 for seconds in runs["seconds"]) / 3600
    parts = [
        f"{len(runs):,} finetunes of {model} ({hours:.1f} hours) on what each strategy chooses. Differences in loss "
        "(Σ NLL / Σ response tokens, nats) to a random choice of the same amount; the interval resamples finetunes "
        "and evaluation examples; p is the larger of a permutation test over either, and Holm's correction is over "
        "the strategies of a table.",
        f"![Difference in loss of each strategy to random]({FIGURE})",
    ]
    for amount in comparison.amounts:
        for eval_set in comparison.eval_sets:
            parts.append(f"**{eval_set}, {amount}**\n\n{comparison.table(amount, eval_set)}")
    if FULL in runs["amount"]:
        parts.append("The full pool is trained on whole, whatever the budget.")
    parts.append("\n".join(f"- {line}" for line in comparison.verdict()))
    picture = io.BytesIO()
    plot_differences(comparison, picture)
    return CardSection("Does it beat a random choice?", "\n\n".join(parts), {FIGURE: picture.getvalue()})
