"""Figures: drawn without a display, legible at 700 pixels, in one palette, with text that stays text."""

import io
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import category
from warnings import catch_warnings, filterwarnings, simplefilter

from ..errors import InstructMineError


if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

# Blue is what was selected, predicted or fitted; red what it is held against; grey what both come from.
BLUE, RED, GREY, GREEN = "#1f5fa8", "#b3342d", "#8a8a8a", "#1a7f37"
_STYLE: "dict[RcKeyType, Any]" = {
    "font.size": 10,
    "font.family": ["DejaVu Sans"],  # which comes with matplotlib
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Names from data are text: neither mathematics nor TeX is to be read into them.
    "text.parse_math": False,
    "text.usetex": False,
    "svg.hashsalt": "hf-instructmine",  # the same figure is the same file
}
# What a file of each form would say of what drew it, and when.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Creator": None, "Date": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}
_MISSING = r"Glyph (\d+) .*missing from"  # as matplotlib warns


def canvas(height: float, rows: int = 1, columns: int = 1, **options: Any) -> "tuple[Figure, np.ndarray]":
    """A figure of 7 inches by `height`, and its axes by row and column; `options` are those of `Figure.subplots`."""
    # Not pyplot, which would open a window where it can, and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(plot: "Callable[[], Figure]", path: str | Path | io.BytesIO, dpi: int = 100) -> None:
    """Draws a figure and writes it as its suffix says, without what drew it.

    Names are drawn with whatever installed font has their script; where none has, the figure shows a box and says why.

    Args:
        plot (`Callable[[], Figure]`): Makes the figure, on a [`canvas`].
        path (`str`, `Path` or file): `.png`, `.svg` or `.pdf`; PNG without a suffix. A file's folder is made where
            absent.
        dpi (`int`, defaults to 100): Pixels an inch of the 7 that it is wide.

    Raises:
        [`InstructMineError`]: For another suffix, before anything is drawn.
    """
    from matplotlib import rc_context

    form = "png" if isinstance(path, io.BytesIO) else Path(path).suffix.lower().lstrip(".") or "png"
    if form not in _METADATA:
        raise InstructMineError(f"'{path}' is no name of a figure: end it in .png, .svg or .pdf")
    if not isinstance(path, io.BytesIO):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with rc_context(_STYLE), catch_warnings():  # what a text is taken for is settled when it is made
        # A warning for each character that the first font has not; what they come to is said in the figure.
        filterwarnings("ignore", _MISSING)
        figure = plot()
        if missing := _missing(figure):
            figure = _with_fonts(plot, missing)
        figure.savefig(path, format=form, dpi=dpi, metadata=_METADATA[form])


def _missing(figure: "Figure") -> set[str]:
    """The characters of a figure's texts that the fonts in use do not have."""
    with catch_warnings(record=True) as told:
        simplefilter("always")
        figure.canvas.draw()
    found = (re.match(_MISSING, str(warning.message)) for warning in told)
    return {chr(int(match[1])) for match in found if match}


def _with_fonts(plot: "Callable[[], Figure]", missing: Iterable[str]) -> "Figure":
    """The figure drawn again with installed fonts that have the missing characters, and a line where none has."""
    from matplotlib import rc_context

    fonts = {character: _font_of(character) for character in sorted(missing)}
    family = [*_STYLE["font.family"], *dict.fromkeys(filter(None, fonts.values()))]
    with rc_context({"font.family": family}):
        figure = plot()
        if any(font is None and category(character)[0] not in "CM" for character, font in fonts.items()):
            figure.supylabel("a box: no font of this machine has the character", fontsize=6)
        return figure


@cache
def _drawn_by(name: str) -> frozenset[str]:
    """The characters of an installed font."""
    from matplotlib import font_manager, ft2font

    path = next(font.fname for font in font_manager.fontManager.ttflist if font.name == name)
    return frozenset(map(chr, ft2font.FT2Font(path).get_charmap()))


@cache
def _font_of(character: str) -> str | None:
    """The first installed font, in the order of their names, that has a character; None where none has."""
    return next((name for name in _fonts() if character in _drawn_by(name)), None)


@cache
def _fonts() -> tuple[str, ...]:
    """The installed fonts that can be drawn: those of pictures and of a last resort cannot."""
    from matplotlib import font_manager

    manager = font_manager.fontManager  # which knows the fonts that were there when matplotlib was first used
    for path in set(font_manager.findSystemFonts()) - {font.fname for font in manager.ttflist}:
        with suppress(OSError, RuntimeError):  # no font that can be drawn
            manager.addfont(path)
    names: Iterable[str] = {font.name for font in manager.ttflist}
    kept = [name for name in names if not any(word in name for word in ("Emoji", "Last Resort", "LastResort"))]
    # Sans before others, beside which they would look out of place.
    return tuple(sorted(kept, key=lambda name: ("Sans" not in name, name)))
