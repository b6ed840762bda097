"""The texts of a pool, to tell duplicates and rows without a response by."""

import json
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
from datasets import Dataset, List, Value
from tqdm.auto import tqdm

from ..errors import InstructMineError
from ..outputs.digests import fast_digest, row_digest
from .columns import SOURCE
from .conversation import Conversation, check_text_columns, read_conversations
from .fields import read_columns


# Rows whose texts are fetched at a time.
_CHUNK = 4096


class TextKeys:
    """A digest of what each row trains on by row number, or None where there is no response.

    That is the prompt, the whole message of the response with its reasoning and calls, and the tools. Texts are read
    where they are asked for, and once.

    Args:
        dataset (`Dataset`): The pool.
        columns (`Mapping[str, Any]`, *optional*): Which column is which, where the layout is not detected.
    """

    def __init__(self, dataset: Dataset, columns: Mapping[str, Any] | None):
        self._names = read_columns(dataset.column_names, columns)
        self._texts = dataset.with_format(None).select_columns(self._names)
        self._columns = columns
        # A column of single messages is refused by the first row of a batch: there each row is read for itself.
        self._alike = all(isinstance(self._texts.features[name], Value | List) for name in self._names)
        self._known: dict[int, bytes | None] = {}
        self._batch: dict = {}
        self._places: dict[int, int] = {}

    def load(self, rows: np.ndarray) -> None:
        """Fetches the texts of many rows at once, and reads them."""
        missing = [row for row in rows.tolist() if row not in self._known]
        self._batch = self._texts[missing] if missing else {}
        self._places = {row: place for place, row in enumerate(missing)}
        if len(missing) < 2 or not self._alike:
            return
        try:
            read = read_conversations(self._batch, self._columns)
        except Exception:  # of a row that may not be asked for: it is read again, alone, when it is
            return
        self._known.update(zip(missing, map(_key, read)))

    def __getitem__(self, row: int) -> bytes | None:
        if row not in self._known:
            if row not in self._places:
                self.load(np.array([row]))
            # One at a time, so that an error names the row's number in the pool.
            place = slice(self._places[row], self._places[row] + 1)
            batch = {name: self._batch[name][place] for name in self._names}
            (read,) = read_conversations(batch, self._columns, first_row=row)
            self._known[row] = _key(read)
        return self._known[row]


def _key(read: Conversation) -> bytes | None:
    if read.problem is not None:
        return None
    return row_digest(json.dumps([*read.identity, *read.masked], sort_keys=True, default=str))


def usable_rows(dataset: Dataset, columns: Mapping[str, Any] | None = None, copies: bool = True) -> np.ndarray:
    """Numbers of the rows that have a response, ascending.

    Args:
        dataset (`Dataset`): The pool.
        columns (`Mapping[str, Any]`, *optional*): Which column is which, where the layout is not detected.
        copies (`bool`, defaults to `True`): Whether to keep exact copies of an earlier row, by [`TextKeys`].

    Raises:
        [`InstructMineError`]: Where the layout is not known, or no row has a response.
    """
    check_text_columns(dataset, columns)
    keys, seen, usable = TextKeys(dataset, columns), set(), []
    with tqdm(total=len(dataset), desc="Reading the pool", unit="row", delay=3) as bar:
        for start in range(0, len(dataset), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(dataset)))
            keys.load(rows)
            for row in rows.tolist():
                key = keys[row]
                if key is not None and (copies or key not in seen):
                    usable.append(row)
                    seen.add(key)
            bar.update(len(rows))
    if not usable:
        raise InstructMineError("no row of the pool has a response: there is nothing to train on")
    return np.array(usable, dtype=np.int64)


def has_text(dataset: Dataset, columns: Mapping[str, Any] | None) -> bool:
    """Whether there are texts to compare, which have to be in a known layout; a table of numbers has none.

    Raises:
        [`InstructMineError`]: Where there are texts in no known layout.
    """
    numbers = (
        name == SOURCE or (isinstance(feature, Value) and feature.dtype not in ("string", "large_string"))
        for name, feature in dataset.features.items()
    )
    if columns is None and all(numbers):
        return False
    try:
        check_text_columns(dataset, columns)
    except InstructMineError as error:
        raise InstructMineError(f"{error}; or do not compare texts, with drop_duplicates=False") from error
    return True


def pool_digest(pool: Dataset) -> str:
    """A digest of a pool's column names and values, in order; the same however the pool was loaded."""
    rows = (json.dumps(pool[start : start + 1000], default=str) for start in range(0, len(pool), 1000))
    return fast_digest(chain([json.dumps(pool.column_names)], rows))


def _text_columns(pool: Dataset, columns: Mapping[str, Any] | None) -> Dataset:
    return pool.select_columns(read_columns(pool.column_names, columns))
