"""The rows of a report as data for its table: in columns, compressed, written a block at a time.

Each element is base64 of gzip. `rows` is JSON: what the columns are. `numbers` is, little-endian and for n rows:
their numbers and their sources as uint32, the decisions as uint8 padded to a multiple of 4 bytes, and each column as
float32. `texts-k` is, for each row of block k, how many bytes its prompt and its response have, as uint32; then both
as UTF-8.
"""

import base64
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.columns import TOKENS, names_sources, numeric_column, read_sources
from ..data.conversation import Conversation, read_conversations
from ..data.fields import read_columns
from ..estimator.rule import Rule
from ..outputs.markdown import count, printable
from ..selection.decisions import SELECTED
from .fates import Judged


MOST_ROWS = 100_000  # a page of more would not open in a few seconds
BLOCK = 1000  # rows whose texts are unpacked together
# Characters of one text: the first of these with which the page is not larger than so many bytes, else the last.
_LENGTHS, _MOST_BYTES = (2000, 1500, 1000, 700, 500, 350, 250, 180, 120, 80, 50), 22_000_000
_SAMPLE = 1000  # rows by which that is found out
_MOST_SOURCES = 5000
_MOST_COLUMNS = 24
# Control characters, lone surrogates, and what turns the direction of all that follows.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


@dataclass
class RowData:
    """What was written of the rows, and what was counted on the way.

    Attributes:
        shown (`np.ndarray`): Numbers of the rows that the table has.
        columns (`list[dict]`): What each column of numbers is.
        most (`int`, *optional*): Characters at which a text was cut; None where none was.
        usable (`np.ndarray`, *optional*): Which rows have a response; None without texts.
        tokens (`np.ndarray`, *optional*): Response tokens of each row.
        blocks (`int`): How many blocks of texts there are.
        notes (`list[str]`): What the table lacks, a line each.
    """

    shown: np.ndarray
    columns: list[dict[str, str]] = field(default_factory=list)
    most: int | None = None
    usable: np.ndarray | None = None
    tokens: np.ndarray | None = None
    blocks: int = 0
    notes: list[str] = field(default_factory=list)


def write_rows(
    judged: Judged, rule: Rule | None, columns: Mapping[str, Any] | None, full_texts: bool, path: Path
) -> RowData:
    """Writes the elements that hold the rows, and counts what can be counted of them.

    Args:
        judged ([`Judged`]): The rows.
        rule ([`Rule`], *optional*): Whose terms are shown.
        columns (`Mapping[str, Any]`, *optional*): Which column is which, where the layout is not detected.
        full_texts (`bool`): Whether texts are whole.
        path (`Path`): Gets HTML.

    Returns:
        [`RowData`]
    """
    total = len(judged.rows)
    data = RowData(_shown(judged))
    if len(data.shown) < total:
        data.notes.append(
            f"The table has {len(data.shown):,} of the {total:,} rows: those that were selected, and others drawn at "
            "random (seed 0)."
        )
    if TOKENS in judged.rows.column_names:
        data.tokens = numeric_column(judged.rows, TOKENS)
    values = dict(_columns(judged, rule, data))
    codes, names, more = _sources(judged.rows, data.shown)
    if judged.has_text and not full_texts:
        data.most = _length(judged.rows, columns, data.shown, 4 * (len(values) + 3) * len(data.shown))
    with path.open("w", encoding="ascii") as file:
        file.write(_element("numbers", _packed(data.shown, codes, judged.codes[data.shown], list(values.values()))))
        if judged.has_text:
            for texts in _texts(judged.rows, columns, data):
                file.write(_element(f"texts-{data.blocks}", texts))
                data.blocks += 1
        header = {
            "rows": len(data.shown), "block": BLOCK, "blocks": data.blocks, "columns": data.columns,
            "decisions": judged.names, "selected": SELECTED, "sources": names, "more": more, "most": data.most,
        }  # fmt: skip
        file.write(_element("rows", json.dumps(header).encode()))
    return data


def shown_text(text: str, most: int | None) -> str:
    """A text of the data, cut at `most` characters, in which nothing that cannot be seen acts on what is around it."""
    cut = text if most is None or len(text) <= most else f"{text[:most]}…"
    return _UNSEEN.sub("�", cut.replace("\r\n", "\n"))


def _shown(judged: Judged) -> np.ndarray:
    """All rows, or the selected ones and a random draw of the others."""
    total = len(judged.rows)
    if total <= MOST_ROWS:
        return np.arange(total)
    generator = np.random.default_rng(0)
    kept = np.flatnonzero(judged.selected) if judged.selected is not None else np.empty(0, dtype=np.int64)
    kept = kept if len(kept) <= MOST_ROWS else generator.choice(kept, MOST_ROWS, replace=False)
    others = generator.choice(np.setdiff1d(np.arange(total), kept), MOST_ROWS - len(kept), replace=False)
    return np.sort(np.concatenate([kept, others]))


def _columns(judged: Judged, rule: Rule | None, data: RowData) -> Iterator[tuple[str, np.ndarray]]:
    """The columns of numbers, each noted in `data.columns`."""

    def noted(name: str, kind: str, values: np.ndarray) -> tuple[str, np.ndarray]:
        data.columns.append({"name": printable(name, 60), "kind": kind})
        return f"{kind} {name}", values[data.shown]

    if judged.log_loss is not None:
        yield noted("predicted log loss", "prediction", judged.log_loss)
    for name, values in judged.contributions.items():
        yield noted(name, "contribution", values)
    room = _MOST_COLUMNS - len(data.columns)
    indicators = judged.indicators(rule)
    if len(indicators) > room:
        data.notes.append(f"The table has {room} of the {count(len(indicators), 'indicator')}.")
    for name in indicators[: max(room, 0)]:
        yield noted(name, "indicator", numeric_column(judged.rows, name))


def _sources(rows: Dataset, shown: np.ndarray) -> tuple[np.ndarray, list[str], int]:
    """The source of each shown row, the names of the most frequent ones, and how many more there are."""
    if not names_sources(rows):
        return np.zeros(len(shown), dtype=np.uint32), [], 0
    codes, names = read_sources(rows)
    codes = codes[shown]
    sizes = np.bincount(codes, minlength=len(names))
    order = np.argsort(-sizes, kind="stable")[:_MOST_SOURCES]
    place = np.full(len(names), len(order), dtype=np.uint32)  # that of all others
    place[order] = np.arange(len(order))
    return place[codes], [printable(names[k]) for k in order], len(names) - len(order)


def _packed(shown: np.ndarray, sources: np.ndarray, codes: np.ndarray, values: Sequence[np.ndarray]) -> bytes:
    decisions = codes.astype(np.uint8).tobytes()
    with np.errstate(over="ignore"):
        numbers = b"".join(column.astype("<f4").tobytes() for column in values)
    padding = bytes(-len(decisions) % 4)
    return shown.astype("<u4").tobytes() + sources.astype("<u4").tobytes() + decisions + padding + numbers


def _texts(rows: Dataset, columns: Mapping[str, Any] | None, data: RowData) -> Iterator[bytes]:
    """Blocks of texts of the shown rows; which rows are usable is noted on the way."""
    names = read_columns(rows.column_names, columns)
    texts = rows.with_format(None).select_columns(names)
    data.usable = np.zeros(len(rows), dtype=bool)
    wanted = np.zeros(len(rows), dtype=bool)
    wanted[data.shown] = True
    block: list[bytes] = []
    with tqdm(total=len(rows), desc="Reading the rows", unit="row", delay=3) as bar:
        for start in range(0, len(rows), BLOCK):
            read = read_conversations(texts[start : start + BLOCK], columns, first_row=start)
            for row, conversation in enumerate(read, start=start):
                data.usable[row] = conversation.problem is None
                if wanted[row]:
                    block += [shown_text(text, data.most).encode() for text in _told(conversation)]
                    if len(block) == 2 * BLOCK:
                        yield _block(block)
                        block = []
            bar.update(len(read))
    if block:
        yield _block(block)


def _length(rows: Dataset, columns: Mapping[str, Any] | None, shown: np.ndarray, numbers: int) -> int:
    """The characters at which texts are cut, so that they fit into the page beside so many bytes of numbers."""
    some = shown[np.linspace(0, len(shown) - 1, min(_SAMPLE, len(shown))).astype(int)]
    names = read_columns(rows.column_names, columns)
    read = read_conversations(rows.with_format(None).select_columns(names)[some.tolist()], columns)
    for most in _LENGTHS:
        texts = [shown_text(text, most).encode() for row in read for text in _told(row)]
        if (len(_packed64(_block(texts))) * len(shown) / len(some)) + numbers * 4 / 3 <= _MOST_BYTES:
            break
    return most


def _told(conversation: Conversation) -> tuple[str, str]:
    """Prompt and response, each as one text.

    Who speaks is said where the prompt has several messages, and why a row cannot be read in place of its response.
    """
    prompt, response = conversation.prompt_text, conversation.written
    if len(conversation.prompt) > 1:
        spoken = (f"{message.get('role')}: {message.get('content') or ''}" for message in conversation.prompt)
        prompt = "\n\n".join(spoken)
    return prompt, response or (f"({conversation.problem})" if conversation.problem else "")


def _block(texts: Sequence[bytes]) -> bytes:
    return np.array([len(text) for text in texts], dtype="<u4").tobytes() + b"".join(texts)


def _element(name: str, content: bytes) -> str:
    return f'<script type="application/octet-stream" id="{name}">{_packed64(content)}</script>\n'


def _packed64(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")
