"""How results show themselves: a line in a console, a summary when printed, tables and a figure in a notebook."""

import base64
import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InstructMineError
from .markdown import count, printable, printable_lines
from .plots import save


if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MOST_CHARACTERS = 200  # of a line in a console
MOST_ROWS = 40  # of a table in a notebook
# No colours of its own but behind the figure, so that light and dark themes stay readable.
_STYLE = (
    "<style>.instructmine p{max-width:100ch}.instructmine table{color:inherit}.instructmine td,.instructmine th"
    "{padding:.15em .6em;text-align:right;vertical-align:top}.instructmine .text{text-align:left!important}"
    ".instructmine img{background:#fff;height:auto;margin-top:1em;max-width:100%}"
    ".instructmine div,.instructmine pre{overflow-x:auto}</style>"
)


@dataclass(frozen=True)
class Cells:
    """A table in a notebook; all of it is text, and whatever is markup is shown as it is.

    Attributes:
        caption (`str`): What it is, above it.
        header (`Sequence[str]`): Names of the columns.
        rows (`Sequence[Sequence[str]]`): Cells.
        text_columns (`int`, defaults to 1): How many columns are text; those after them are numbers, to the right.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1

    def html(self) -> str:
        """The table, cut at [`MOST_ROWS`] rows."""
        lines = [self._line("th", self.header), *(self._line("td", row) for row in self.rows[:MOST_ROWS])]
        more = len(self.rows) - MOST_ROWS
        below = [_paragraph(f"{count(more, 'more row')}: they are in the text below.")] if more > 0 else []
        return "\n".join([_paragraph(self.caption), "<div><table>", *lines, "</table></div>", *below])

    def _line(self, kind: str, cells: Sequence[str]) -> str:
        marks = [' class="text"' if k < self.text_columns else "" for k in range(len(cells))]
        return f"<tr>{''.join(f'<{kind}{mark}>{_text(cell)}</{kind}>' for mark, cell in zip(marks, cells))}</tr>"


@dataclass(frozen=True)
class Drawing:
    """A figure, and the numbers in it.

    Attributes:
        caption (`str`): What it shows.
        draw (`Callable[[], Figure]`): Makes the figure, on a [`~plots.canvas`].
        data (`Callable[[], Mapping[str, Sequence]]`): Its numbers, by column.
        dpi (`int`, defaults to 100): Pixels an inch of the 7 that it is wide.
    """

    caption: str
    draw: "Callable[[], Figure]"
    data: Callable[[], Mapping[str, Any]]
    dpi: int = 100


class Shown:
    """What shows itself; a class gives `__str__`, and `_line()` where its first line does not say what it is."""

    def _line(self) -> str:
        """What it is, in a few words."""
        return str(self).split("\n", 1)[0]

    def _says(self) -> Iterable[str]:
        """What a reader should know first, as sentences of plain text; for a notebook."""
        return ()

    def _tables(self) -> Iterable[Cells]:
        """Its numbers; for a notebook."""
        return ()

    def _figure_html(self) -> str:
        return ""

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"<{name}: {printable(self._line(), MOST_CHARACTERS - len(name) - 4)}>"

    def _repr_html_(self) -> str:
        """For notebooks: what it is, what is to be known, tables, a figure, and the summary as it is printed.

        Nothing in it is fetched from anywhere, and no text from data is markup.
        """
        parts = [f"<p><b>{_text(type(self).__name__)}</b>: {_text(printable(self._line(), 2 * MOST_CHARACTERS))}</p>"]
        parts += [_paragraph(sentence) for sentence in self._says()]
        parts += [table.html() for table in self._tables()]
        parts.append(self._figure_html())
        if (told := str(self)) not in (self._line(), repr(self)):
            told = html.escape(printable_lines(told))
            opened = " open" if len(parts) == 2 else ""  # where there is nothing else
            parts.append(f"<details{opened}><summary>As text</summary><pre>{told}</pre></details>")
        return "\n".join([f'<div class="instructmine">{_STYLE}', *filter(None, parts), "</div>"])


class Drawn(Shown):
    """What shows itself with figures; a class gives `_drawings()`."""

    def _drawings(self) -> dict[str, Drawing]:
        """Its figures by name, the one for a notebook first; empty where there is nothing to draw."""
        raise NotImplementedError

    @property
    def figures(self) -> dict[str, str]:
        """What there is to [`plot`]: the name of each figure, and what it shows."""
        return {name: drawing.caption for name, drawing in self._drawings().items()}

    def plot(self, path: str | Path, *, figure: str | None = None) -> None:
        """Draws a figure.

        Args:
            path (`str` or `Path`): Of the file: `.png`, `.svg` or `.pdf`. Its folder is made where absent.
            figure (`str`, *optional*): One of `figures`; by default the first.

        Raises:
            [`InstructMineError`]: For another suffix or another figure, and where there is nothing to draw.
        """
        drawing = self._drawing(figure)
        save(drawing.draw, path, drawing.dpi)

    def to_pandas(self, *, figure: str | None = None) -> "pd.DataFrame":
        """The numbers of a figure as a table.

        Args:
            figure (`str`, *optional*): One of `figures`; by default the first.

        Returns:
            `pandas.DataFrame`: One row for each point, bar or line of the figure.

        Raises:
            [`InstructMineError`]: For another figure, and where there is nothing to draw.
        """
        import pandas as pd

        return pd.DataFrame(dict(self._drawing(figure).data()))

    def _drawing(self, figure: str | None) -> Drawing:
        drawings = self._drawings()
        if not drawings:
            raise InstructMineError(f"{self!r} has no figure")
        if figure is not None and figure not in drawings:
            raise InstructMineError(f"there is no figure '{figure}': there is {', '.join(drawings)}")
        return drawings[figure or next(iter(drawings))]

    def _figure_html(self) -> str:
        drawings = self._drawings()
        if not drawings:
            return ""
        drawing, picture = next(iter(drawings.values())), io.BytesIO()
        save(drawing.draw, picture, dpi=100)
        source = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode('ascii')}"
        others = ", ".join(list(drawings)[1:])
        more = f" Other figures, by plot(path, figure=…): {others}." if others else ""
        return f'<img alt="{_text(drawing.caption)}" src="{source}">\n{_paragraph(f"{drawing.caption}.{more}")}'


def _paragraph(text: str) -> str:
    return f"<p>{_text(printable(text, None))}</p>" if text else ""


def _text(text: str) -> str:
    return html.escape(printable(text, None))
