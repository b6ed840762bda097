"""The figure of a comparison: each strategy's difference in loss to a baseline."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .statistics import Outcome


if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE = "comparison.png"
_COLORS = {"better": "#1a7f37", "worse": "#b3261e", "no different": "#5f6673"}


@dataclass
class Panel:
    """One panel: its title, and the outcomes in it, lowest loss first."""

    title: str
    outcomes: list[Outcome]


def plot_differences(panels: Sequence[Sequence[Panel]], path: str | Path | io.BytesIO, baseline: str) -> None:
    """Draws each strategy's difference in loss to the baseline with its 95 % interval.

    Args:
        panels (`Sequence[Sequence[Panel]]`): A line of panels per budget, a column per evaluation set.
        path (`str`, `Path` or file): Gets the PNG, 1400 pixels wide.
        baseline (`str`): The strategy at 0.
    """
    from matplotlib.figure import Figure

    heights = [1.2 + max(len(panel.outcomes) for panel in line) for line in panels]
    figure = Figure(figsize=(7, 0.6 + 0.27 * sum(heights)), dpi=200, layout="constrained")
    grid = figure.subplots(
        len(panels), len(panels[0]), squeeze=False, sharex="col", gridspec_kw={"height_ratios": heights}
    )
    for line, axes_line in zip(panels, grid):
        for panel, axes in zip(line, axes_line):
            _draw(axes, panel.outcomes[::-1])
            axes.set_title(panel.title, loc="left", fontsize=9)
    figure.supxlabel(f"loss less that of {baseline} (nats per token), 95 % interval", fontsize=8)
    figure.savefig(path, format="png", metadata={"Software": None})


def _draw(axes: "Axes", outcomes: Sequence[Outcome]) -> None:
    for row, outcome in enumerate(outcomes):
        d, color = outcome.difference, _COLORS[outcome.verdict]
        assert d is not None  # the baseline is the line at 0
        axes.plot([d.low, d.high], [row, row], color=color, linewidth=2)
        axes.plot(d.estimate, row, "o", color=color, markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(outcomes)), [o.strategy for o in outcomes], fontsize=8)
    axes.set_ylim(-0.6, len(outcomes) - 0.4)
    axes.tick_params(axis="x", labelsize=7)
    axes.locator_params(axis="x", nbins=4)
    axes.spines[["top", "right"]].set_visible(False)
