"""The figure of a comparison: each strategy's difference in loss to a baseline."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..outputs.markdown import printable
from ..outputs.plots import GREEN, GREY, RED, canvas, save
from .outcomes import Outcome


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE = "comparison.png"
_COLORS = {"better": GREEN, "worse": RED, "no different": GREY}
_MEANINGS = {
    "better": "better",
    "worse": "worse",
    "no different": "not shown to differ (p ≥ 0.05 or the interval holds 0)",
}
_NAME, _TITLE = 28, 60  # characters there is room for


@dataclass
class Panel:
    """One panel: its title, and the outcomes in it, lowest loss first."""

    title: str
    outcomes: list[Outcome]


def numbers(panels: Sequence[Sequence[Panel]]) -> dict[str, list[Any]]:
    """What the figure shows, by column: a line for each outcome, with the difference and its 95 % interval in nats."""
    found = [outcome for line in panels for panel in line for outcome in panel.outcomes]
    differences = [outcome.difference for outcome in found if outcome.difference is not None]
    return {
        **{name: [getattr(outcome, name) for outcome in found] for name in ("amount", "eval_set", "strategy", "loss")},
        "difference": [d.estimate for d in differences], "low": [d.low for d in differences],
        "high": [d.high for d in differences], "p_by_holm": [outcome.p for outcome in found],
        "verdict": [outcome.verdict for outcome in found],
    }  # fmt: skip


def plot_differences(panels: Sequence[Sequence[Panel]], path: str | Path | io.BytesIO, baseline: str) -> None:
    """Draws each strategy's difference in loss to the baseline with its 95 % interval.

    Args:
        panels (`Sequence[Sequence[Panel]]`): A line of panels per budget, a column per evaluation set.
        path (`str`, `Path` or file): `.png` (1400 pixels wide), `.svg` or `.pdf`.
        baseline (`str`): The strategy at 0.
    """
    save(partial(draw_differences, panels, baseline), path, dpi=200)


def draw_differences(panels: Sequence[Sequence[Panel]], baseline: str) -> "Figure":
    """The figure of [`plot_differences`]."""
    from matplotlib.lines import Line2D

    heights = [1.2 + max(len(panel.outcomes) for panel in line) for line in panels]
    height = 0.9 + 0.27 * sum(heights)
    figure, grid = canvas(height, len(panels), len(panels[0]), sharex="col", height_ratios=heights)
    for line, axes_line in zip(panels, grid):
        for panel, axes in zip(line, axes_line):
            _draw(axes, panel.outcomes[::-1])
            axes.set_title(printable(panel.title, _TITLE // len(line)), loc="left", fontsize=9)
    name = printable(baseline, _NAME)
    figure.supxlabel(
        f"← better than {name}     loss less that of {name}, nats per token, 95 % interval     worse →", fontsize=8
    )
    colors = [Line2D([], [], color=_COLORS[verdict], marker="o", markersize=5, linewidth=2) for verdict in _COLORS]
    figure.legend(
        colors,
        [_MEANINGS[verdict] for verdict in _COLORS],
        loc="outside upper left",
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    return figure


def _draw(axes: "Axes", outcomes: Sequence[Outcome]) -> None:
    for row, outcome in enumerate(outcomes):
        d, color = outcome.difference, _COLORS[outcome.verdict]
        assert d is not None  # the baseline is the line at 0
        axes.plot([d.low, d.high], [row, row], color=color, linewidth=2)
        axes.plot(d.estimate, row, "o", color=color, markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(outcomes)), [printable(o.strategy, _NAME) for o in outcomes], fontsize=8)
    axes.set_ylim(-0.6, len(outcomes) - 0.4)
    axes.tick_params(axis="x", labelsize=7)
    axes.locator_params(axis="x", nbins=4)
