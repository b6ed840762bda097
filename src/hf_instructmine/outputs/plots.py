"""Figures: drawn without a display, legible at 700 pixels, in one palette, with text that stays text."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

# Blue is what was selected, predicted or fitted; red what it is held against; grey what both come from.
BLUE, RED, GREY, GREEN = "#1f5fa8", "#b3342d", "#8a8a8a", "#1a7f37"
_STYLE: "dict[RcKeyType, int]" = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Names from data are text: neither mathematics nor TeX is to be read into them.
    "text.parse_math": False,
    "text.usetex": False,
}


def canvas(height: float, rows: int = 1, columns: int = 1, **options: Any) -> "tuple[Figure, np.ndarray]":
    """A figure of 7 inches by `height`, and its axes by row and column; `options` are those of `Figure.subplots`."""
    # Not pyplot, which would open a window where it can, and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(plot: "Callable[[], Figure]", path: str | Path | io.BytesIO, dpi: int = 100) -> None:
    """Draws a figure and writes it as a PNG that does not say what drew it.

    Args:
        plot (`Callable[[], Figure]`): Makes the figure, on a [`canvas`].
        path (`str`, `Path` or file): A file's folder is made where absent.
        dpi (`int`, defaults to 100): Pixels an inch of the 7 that it is wide.
    """
    from matplotlib import rc_context

    if not isinstance(path, io.BytesIO):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with rc_context(_STYLE):  # what a text is taken for is settled when it is made
        plot().savefig(path, format="png", dpi=dpi, metadata={"Software": None})
