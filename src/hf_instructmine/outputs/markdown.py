"""Text for cards and terminals: what comes from data is made inert, tables, and sections of a card."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


PARQUET_FILE = "data/train-00000-of-00001.parquet"
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
MAX_TEXT = 200
_JOINERS = "\u200c\u200d"


class Evidence(Protocol):
    """A comparison of strategies that can be told in a section of a card."""

    def strategies_of(self, rule_digest: str) -> list[str] | None:
        """Names the strategies that chose by the rule of this digest; None where the rules are not recorded."""
        ...

    def section(self, strategies: Sequence[str] = ()) -> "CardSection":
        """Returns the section, whose title says what it is about and whose verdict is on these strategies."""
        ...


@dataclass
class CardSection:
    """A further section of a card, before "How to reproduce".

    Attributes:
        title (`str`): Its heading, as text.
        markdown (`str`): Its body, as Markdown: whatever comes from data has been through [`escape`].
        figures (`dict[str, bytes]`): The PNG files that the Markdown refers to, by file name.
        verdict (`list[str]`): What it comes to, as lines of Markdown that stand at the top of the card.
    """

    title: str
    markdown: str
    figures: dict[str, bytes] = field(default_factory=dict)
    verdict: list[str] = field(default_factory=list)


def escape(text: Any, most: int | None = MAX_TEXT) -> str:
    """Makes one line of inert Markdown of anything, cut at `most` characters.

    Letters, digits and ordinary punctuation of any script are kept; what Markdown, HTML, LaTeX, links, mentions or
    templates are made of is escaped, so that it is shown as it is. See [`printable`] for the rest.
    """
    text = printable(text, most)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Entities, where the Hub acts on what a backslash makes: \( begins a formula, a\@b.c is an address all the same.
    text = text.replace("\\", "&#92;").replace("@", "&#64;")
    text = re.sub(r"([`*_{}\[\]|~$%]|(?<!&)#)", r"\\\1", text)
    # Bare addresses become links without any markup: https://…, www.…
    return re.sub(r"(?=://)|(?<=www)(?=\.)", r"\\", text, flags=re.IGNORECASE)


def printable(text: Any, most: int | None = MAX_TEXT) -> str:
    """Makes one line of anything, cut at `most` characters, with "�" for control and invisible formatting characters.

    The two that join are kept: emoji and Persian are written with them.

    Whole paragraphs of ours, of which each name was cut before, have no `most`.
    """
    text = " ".join(str(text).split())
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    return _visible(text)


def fenced(text: str) -> str:
    """A code block that no run of backticks in the text can close, with "�" for what [`printable`] replaces."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return "\n".join([f"{fence}text", *map(_visible, text.split("\n")), fence])


def printable_lines(text: str) -> str:
    """Lines for a terminal, with "�" for what [`printable`] replaces; line ends and tabs are kept."""
    return "".join(c if c in "\n\t" else _visible(c) for c in text)


def _visible(line: str) -> str:
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn")
    return "".join("�" if unicodedata.category(c) in hidden and c not in _JOINERS else c for c in line)


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with what is counted, such as "1 row" or "2,000 rows".

    Args:
        number (`int`): How many there are.
        one (`str`): What one is called, with its verb where there is one: "row has".
        many (`str`, *optional*): What several, and none, are called; `one` with an s without it.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def size_category(rows: int) -> str:
    """The Hub's `size_categories` value for a number of rows."""
    return next((name for power, name in enumerate(SIZES, start=3) if rows < 10**power), "n>1B")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A table in Markdown.

    Args:
        header (`Sequence[str]`): Names of the columns, as Markdown.
        rows (`Iterable[Sequence[str]]`): Cells, as Markdown: whatever comes from data has been through [`escape`].
        text_columns (`int`, defaults to 1): How many columns are text; those after them are numbers, to the right.
    """
    numbers = len(header) - text_columns
    lines = [header, ["---"] * text_columns + ["---:"] * numbers, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
