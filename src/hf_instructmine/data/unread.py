"""Columns that carry text or meaning and are not read, so that nobody has to find out from what a model learnt."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .conversation import read_conversations
from .fields import KNOWN_COLUMNS, REASONING, listed, read_columns
from .messages import is_empty


if TYPE_CHECKING:
    from datasets import Dataset

_CHUNK = 1000


def unread_columns(dataset: "Dataset", columns: Mapping[str, Any] | None = None) -> list[str]:
    """Names the columns of a known meaning that no row's conversation is read from.

    A column that is empty in every row is not named. Nor is one that only says again what is read: UltraChat's
    `prompt` is the first of its `messages`, Alpaca's `text` is the row under a template. Nor is what no training
    format knows (`id`, `source`, indicators).

    Args:
        dataset (`Dataset`): A pool in a known layout.
        columns (`Mapping[str, Any]`, *optional*): Which column plays which part, where that is not detected.

    Returns:
        `list[str]`: In the pool's own order.

    Raises:
        [`InstructMineError`]: Where the layout is not known.
    """
    read = read_columns(dataset.column_names, columns)
    candidates = [name for name in dataset.column_names if name in KNOWN_COLUMNS and name not in read]
    if not candidates:
        return []
    found: set[str] = set()
    rows = dataset.with_format(None).select_columns([*read, *candidates])
    for start in range(0, len(rows), _CHUNK):
        left = [name for name in candidates if name not in found]
        if not left:
            break
        batch = rows[start : start + _CHUNK]
        conversations = read_conversations({name: batch[name] for name in read}, columns, start)
        texts = ["\n\n".join([row.prompt_text, row.written]) for row in conversations]
        found |= {name for name in left if any(not _is_said(name, v, text) for v, text in zip(batch[name], texts))}
    return [name for name in candidates if name in found]


def describe_unread(names: Sequence[str]) -> str:
    """One line on columns that are not read, with the mend."""
    thought = next((name for name in names if name in REASONING), None)
    mend = (
        f"read the reasoning with columns={{'reasoning': '{thought}'}}"
        if thought
        else "name those to read with columns={…}"
    )
    return f"not read, though they may carry text or meaning: {listed(names)}; {mend}, or drop them"


def _is_said(name: str, value: Any, text: str) -> bool:
    if is_empty(value):
        return True
    if name == "text" and isinstance(value, str):
        return all(part in value for part in text.split("\n\n"))
    return all(part in text for part in _strings(value))


def _strings(value: Any) -> Iterator[str]:
    """The texts of a value; what is no text is one that stands nowhere."""
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, Mapping) and ("content" in value or "value" in value):
        content = value.get("content") if value.get("content") is not None else value.get("value")
        yield from _strings(content or "")
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    else:
        yield "\0"
