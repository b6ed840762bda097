"""Figures of a dataset card: legible at the 700 pixels that the Hub gives them, and drawn without a display."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..outputs.markdown import count
from ..outputs.plots import BLUE, GREY, canvas, save
from .order import finite_blocks, quantile


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Rules with a length term give a few rows predictions far above the rest, which would squeeze all others into one bar.
SHOWN_SHARE = 99.5
WITHOUT_RULE = "No rule: what this choice is worth is not known from these values."


def plot_predicted_log_loss(
    pool: np.ndarray, selected: np.ndarray, path: str | Path, worth: str = "", decided: str = ""
) -> None:
    """Draws the distributions of predicted log loss, pool above selection, on one axis.

    Args:
        pool (`np.ndarray` of shape `(n,)`): Predictions for the pool; those that are not finite are left out.
        selected (`np.ndarray` of shape `(k,)`): Predictions for the selected rows.
        path (`str` or `Path`): Of the PNG, 1400 pixels wide; or `.svg`, `.pdf`.
        worth (`str`, *optional*): How well the rule predicts, for the title.
        decided (`str`, *optional*): What the numbers are, where no rule predicted them.
    """
    save(partial(draw_predicted_log_loss, pool, selected, worth, decided), path, dpi=200)


def count_predicted_log_loss(pool: np.ndarray, selected: np.ndarray) -> dict[str, np.ndarray]:
    """How many rows of the pool and of the selection lie in each bar of the figure, `low` to `high`.

    The last bar of the selection has those beyond it too; the pool's have a bar of their own, without an end, which
    the figure tells of in words.
    """
    low = min(block.min() for block in finite_blocks(pool) if len(block))
    high = max(quantile(pool, SHOWN_SHARE / 100), selected.max())
    edges = np.linspace(low, high, 61) if high > low else np.linspace(low - 0.5, low + 0.5, 61)
    counts = np.zeros(61, np.int64)
    for block in finite_blocks(pool):
        counts += np.append(np.histogram(block, edges)[0], (block > edges[-1]).sum())
    return {
        "low": edges, "high": np.append(edges[1:], np.inf),
        "pool": counts,
        "selection": np.append(np.histogram(np.minimum(selected, edges[-1]), edges)[0], 0),
    }  # fmt: skip


def draw_predicted_log_loss(pool: np.ndarray, selected: np.ndarray, worth: str, decided: str = "") -> "Figure":
    """The figure of [`plot_predicted_log_loss`]."""
    bars = count_predicted_log_loss(pool, selected)
    edges, beyond = bars["low"], int(bars["pool"][-1])

    figure, grid = canvas(4.2, rows=2, sharex=True)
    axes = grid[:, 0]
    for ax, values, name, color in (
        (axes[0], pool, "Pool", GREY),
        (axes[1], selected, "Selection", BLUE),
    ):
        ax.bar(edges[:-1], bars[name.lower()][:-1], np.diff(edges), align="edge", color=color)
        median, rows = quantile(values, 0.5), int(bars[name.lower()].sum())
        ax.axvline(median, color="black", linewidth=1.2, linestyle="--")
        title = f"{name}: {count(rows, 'row')}, median {median:.4g} (dashed)"
        if name == "Pool" and beyond:
            title += f"; {count(beyond, 'row lies', 'rows lie')} right of this view"
        ax.set_title(title, loc="left", fontsize=10)
        ax.set_ylabel("rows")
        ax.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    axes[1].set_xlabel(decided or "← better     predicted log loss: ln of the loss in nats per token     worse →")
    if worth:
        figure.suptitle(worth, fontsize=9, x=0.01, ha="left")
    return figure
