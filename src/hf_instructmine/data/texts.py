"""The texts of a pool, to tell duplicates and rows without a response by."""

import json
from collections.abc import Mapping, Sequence
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
from .tables import whole_numbers


# Rows whose texts are fetched at a time.
_CHUNK = 4096
_NOT_READ, _NO_RESPONSE, _FIRST = range(3)  # from the last on, the place of a digest
_BYTES = 16  # of a digest


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
        self._states = np.zeros(len(dataset), np.uint32)
        self._digests = bytearray()  # of the rows that were read: a budget ends long before a pool does
        self._batch: dict = {}
        self._places: dict[int, int] = {}

    def load(self, rows: np.ndarray) -> None:
        """Fetches the texts of many rows at once, and reads them."""
        missing = rows[self._states[rows] == _NOT_READ].tolist()
        self._batch = self._texts[missing] if missing else {}
        self._places = {row: place for place, row in enumerate(missing)}
        if len(missing) < 2 or not self._alike:
            return
        try:
            read = read_conversations(self._batch, self._columns)
        except Exception:  # of a row that may not be asked for: it is read again, alone, when it is
            return
        self._keep(missing, read)

    def __getitem__(self, row: int) -> bytes | None:
        if self._states[row] == _NOT_READ:
            if row not in self._places:
                self.load(np.array([row]))
            # One at a time, so that an error names the row's number in the pool.
            at = self._places[row]
            batch = {name: self._batch[name][at : at + 1] for name in self._names}
            (read,) = read_conversations(batch, self._columns, first_row=row)
            self._keep([row], [read])
        place = (int(self._states[row]) - _FIRST) * _BYTES
        return bytes(self._digests[place : place + _BYTES]) if place >= 0 else None

    def _keep(self, rows: Sequence[int], read: Sequence[Conversation]) -> None:
        first = _FIRST + len(self._digests) // _BYTES
        self._states[rows] = [
            _NO_RESPONSE if row.problem is not None else place for place, row in enumerate(read, first)
        ]
        self._digests += _digests(read).tobytes()


def _digests(read: Sequence[Conversation]) -> np.ndarray:
    """A digest of each row as bytes, `(rows, 16)`; zeros where there is no response."""
    told = (
        row_digest(json.dumps([*row.identity, *row.masked], sort_keys=True, default=str))
        if row.problem is None
        else bytes(_BYTES)
        for row in read
    )
    return np.frombuffer(b"".join(told), np.uint8).reshape(-1, _BYTES)


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
    texts, usable = _text_columns(dataset.with_format(None), columns), np.zeros(len(dataset), bool)
    digests = np.zeros((0 if copies else len(dataset), _BYTES), np.uint8)
    with tqdm(total=len(dataset), desc="Reading the pool", unit="row", delay=3) as bar:
        for start in range(0, len(dataset), _CHUNK):
            read = read_conversations(texts[start : start + _CHUNK], columns, first_row=start)
            usable[start : start + len(read)] = [row.problem is None for row in read]
            if not copies:
                digests[start : start + len(read)] = _digests(read)
            bar.update(len(read))
    if not usable.any():
        raise InstructMineError("no row of the pool has a response: there is nothing to train on")
    # Rows without a response have one digest, which no other row has.
    return np.flatnonzero(usable if copies else usable & (first_alike(digests) == np.arange(len(digests))))


def first_alike(digests: np.ndarray) -> np.ndarray:
    """The number of the first row with the same digest, for each row.

    Args:
        digests (`np.ndarray` of shape `(n, 16)`, uint8): As [`row_digest`] gives them.

    Returns:
        `np.ndarray` of shape `(n,)`: int32 where that is enough.
    """
    halves, beginnings = digests.view(np.uint64), digests[:, 0] >> 4
    first = np.empty(len(digests), whole_numbers(len(digests)))
    for beginning in range(16):  # apart, since a sort takes several times the room of what it sorts
        rows = np.flatnonzero(beginnings == beginning)
        rows = rows[np.lexsort(halves[rows].T)]  # equal ones stay in their order
        ordered = halves[rows]
        differs = np.ones(len(rows), bool)
        differs[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        first[rows] = rows[differs][np.cumsum(differs) - 1]
    return first


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
