"""The figures of a report, as SVG that a page holds in itself."""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from ..outputs.markdown import printable
from ..outputs.plots import BLUE, GREY, canvas, save


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Points of a figure: more would hide each other, and make the page heavy.
MOST_OTHERS, MOST_SELECTED = 500, 250
MOST_INDICATORS = 6
_SHOWN = (0.5, 99.5)  # per cent: a few values far away would squeeze all others together
# What no XML may hold, of which a viewer would show nothing; and what turns the direction of writing.
_NOT_SHOWN = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Picture:
    """A figure of a page.

    Attributes:
        source (`str`): Its data URL.
        alt (`str`): What it shows, for who does not see it.
        caption (`str`): What is to be known to read it.
    """

    source: str
    alt: str
    caption: str


def picture(draw: Callable[[Path], None], alt: str, caption: str) -> Picture:
    """A figure from what writes one.

    Args:
        draw (`Callable[[Path], None]`): Writes the figure to a path that ends in `.svg`.
        alt (`str`): See [`Picture`].
        caption (`str`): See [`Picture`].
    """
    from matplotlib import rc_context

    # Text stays text, which the browser draws, and the page's colour is behind it.
    with TemporaryDirectory() as folder, rc_context({"svg.fonttype": "none", "savefig.transparent": True}):
        path = Path(folder, "figure.svg")
        draw(path)
        svg = _NOT_SHOWN.sub("�", path.read_text("utf-8"))
    svg = svg.replace(
        '<style type="text/css">', '<style type="text/css">text{white-space:pre}', 1
    )  # blanks keep apart
    packed = base64.b64encode(svg.encode()).decode("ascii")
    return Picture(f"data:image/svg+xml;base64,{packed}", alt, caption)


def draw_against_indicators(
    log_loss: np.ndarray,
    indicators: Mapping[str, np.ndarray],
    logged: set[str],
    selected: np.ndarray | None,
    path: Path,
) -> None:
    """Draws the predicted log loss against each indicator.

    Args:
        log_loss (`np.ndarray` of shape `(n,)`): Predicted.
        indicators (`Mapping[str, np.ndarray]`): By name, each of shape `(n,)`; one to [`MOST_INDICATORS`].
        logged (`set[str]`): Those that enter the rule by their logarithm.
        selected (`np.ndarray` of shape `(n,)`, *optional*): Which rows were selected.
        path (`Path`): Of the figure.
    """
    save(partial(_against_indicators, log_loss, indicators, logged, selected), path)


def _against_indicators(
    log_loss: np.ndarray, indicators: Mapping[str, np.ndarray], logged: set[str], selected: np.ndarray | None
) -> "Figure":
    columns = min(len(indicators), 2)
    lines = -(-len(indicators) // columns)
    figure, grid = canvas(0.5 + 2.7 * lines, lines, columns, sharey=True)
    shown = _drawn(log_loss, selected)
    for k, axes in enumerate(grid.ravel()):
        if k >= len(indicators):
            axes.axis("off")
            continue
        name, values = list(indicators.items())[k]
        log = _is_logarithmic(values, name in logged)
        for label, rows, marker, color in shown:
            axes.plot(values[rows], log_loss[rows], marker, color=color, markersize=3.2, alpha=0.7, label=label)
        _limit(axes, values, log_loss)
        if log:
            _scale_by_logarithm(axes)
        axes.set_xlabel(f"{printable(name, 40)}{' (log scale)' if log else ''}")
        if k % columns == 0:
            axes.set_ylabel("predicted log loss (nats)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _is_logarithmic(values: np.ndarray, enters: bool) -> bool:
    """Whether an indicator is drawn by its logarithm: where that is what enters the rule, or a few values are so large
    that all others would stand on one line."""
    known = values[np.isfinite(values)]
    low, middle, high = np.percentile(known, [0, 50, _SHOWN[1]])
    return bool(low > 0 and (enters or high > 20 * middle))


def _scale_by_logarithm(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_xlim()
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # the usual one writes mathematics
    axes.xaxis.set_minor_locator(NullLocator())


def _drawn(log_loss: np.ndarray, selected: np.ndarray | None) -> list[tuple[str, np.ndarray, str, str]]:
    """A draw of the rows that are drawn: label, row numbers, marker, colour."""
    generator, known = np.random.default_rng(0), np.isfinite(log_loss)

    def some(rows: np.ndarray, most: int) -> np.ndarray:
        return rows if len(rows) <= most else generator.choice(rows, most, replace=False)

    if selected is None:
        rows = some(np.flatnonzero(known), MOST_OTHERS)
        return [(f"{len(rows):,} rows", rows, "o", BLUE)]
    others = some(np.flatnonzero(known & ~selected), MOST_OTHERS)
    kept = some(np.flatnonzero(known & selected), MOST_SELECTED)
    # Shapes too, for who cannot tell the colours apart.
    return [
        (f"{len(others):,} not selected", others, "o", GREY),
        (f"{len(kept):,} selected", kept, "^", BLUE),
    ]


def _limit(axes: "Axes", values: np.ndarray, log_loss: np.ndarray) -> None:
    """Limits a panel to where nearly all of the rows are."""
    for set_limits, numbers in ((axes.set_xlim, values), (axes.set_ylim, log_loss)):
        low, high = np.percentile(numbers[np.isfinite(numbers)], _SHOWN)
        if high > low:
            margin = 0.04 * (high - low)
            set_limits(low if low - margin <= 0 < low else low - margin, high + margin)
