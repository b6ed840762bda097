"""One HTML file that holds all that it shows: text, styles, figures, rows and the script that pages through them."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from ..outputs.files import written_whole
from .rows import shown_text
from .sections import Section


GENERATOR = "hf-instructmine"
# Where the rows go. No data holds it: `<` is escaped wherever a template puts text.
_ROWS = "<!--rows-->\n"
_COPIED = 1 << 20  # bytes at a time


@dataclass(frozen=True)
class RowsOnPage:
    """The table of rows.

    Attributes:
        told (`list[str]`): Paragraphs above it.
        path (`Path`): Holds the elements with the data.
    """

    told: list[str]
    path: Path


def is_ours(path: Path) -> bool:
    """Whether a file is a page that [`write_page`] wrote."""
    with path.open("rb") as file:
        return f'<meta name="generator" content="{GENERATOR} '.encode() in file.read(1000)


def write_page(
    title: str, sections: Sequence[Section], rows: RowsOnPage | None, notes: Sequence[str], path: Path
) -> None:
    """Writes the page, whole or not at all.

    Args:
        title (`str`): Its heading.
        sections (`Sequence[Section]`): In their order.
        rows ([`RowsOnPage`], *optional*): What the table of rows shows; its data is copied, not held.
        notes (`Sequence[str]`): What is absent.
        path (`Path`): Of the file.

    Raises:
        [`InstructMineError`]: Where it cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from .. import __version__

    here = Path(__file__).parent
    style, script = ((here / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: shown_text(value, None) if type(value) is str else value,
    )
    text = environment.get_template("page.html").render(
        title=title,
        sections=sections,
        table=rows,
        notes=notes,
        style=Markup(style),
        script=Markup(script),
        policy=policy(style, script),
        generator=f"{GENERATOR} {__version__}",
        date=date.today().isoformat(),
    )
    before, found, after = text.partition(_ROWS)
    with written_whole(path) as partial, partial.open("wb") as file:
        file.write(before.encode())
        if found and rows is not None:
            with rows.path.open("rb") as data:
                while piece := data.read(_COPIED):
                    file.write(piece)
        file.write(after.encode())


def policy(style: str, script: str) -> str:
    """What the page may do: run this script, apply this style, show figures that it holds; nothing else."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (style, script))
    of_style, of_script = hashes
    return (
        f"default-src 'none'; style-src 'sha256-{of_style}'; script-src 'sha256-{of_script}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
