"""What is done on the Arrow table of a `Dataset`: no row passes through Python, and no file is written anew."""

from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets
from datasets.fingerprint import Hasher

from ..errors import InstructMineError


# Of a table with a selection of rows: from so many rows of the table a selected one on, its column is read whole.
_SPARSE = 16
# Rows that are looked at at a time, or lie in memory of a column of one text.
_CHUNK = 10_000


def whole_numbers(most: float) -> type[np.signedinteger]:
    """The type of whole numbers up to this: int32 where that is enough, half the room of NumPy's own."""
    return np.int32 if most <= np.iinfo(np.int32).max else np.int64


def with_features(dataset: Dataset, features: Features) -> Dataset:
    """The same rows under other features.

    Features of the same types copy no byte. Of a column whose type changes, what differs is made anew in memory: of a
    text, where it starts. `Dataset.cast` would write all columns of a pool on disk to the cache again.
    """
    info = dataset.info.copy()
    info.features = features.copy()
    same = dataset.data.schema == features.arrow_schema
    table = dataset.data if same else dataset.data.cast(features.arrow_schema)
    fingerprint = Hasher.hash([dataset._fingerprint, features.to_dict()])  # `map` finds its cache by it
    rows = Dataset(table, info, dataset.split, dataset._indices, fingerprint)
    shown = dataset.format
    columns = None if shown["columns"] == dataset.column_names else shown["columns"]
    if shown["type"] is None and columns is None:
        return rows
    return rows.with_format(shown["type"], columns, shown["output_all_columns"], **shown["format_kwargs"])


def with_text(dataset: Dataset, name: str, text: str) -> Dataset:
    """The dataset and one column more, which holds one text in all rows and takes no room."""
    size = len(dataset)
    part = pa.array([text] * min(size, _CHUNK), pa.string())
    whole, rest = divmod(size, _CHUNK)
    column = pa.chunked_array([part] * whole + [part.slice(0, rest)] if whole else [part], pa.string())
    fingerprint = Hasher.hash([name, text, size])
    table = Dataset(pa.table({name: column}), fingerprint=fingerprint)
    return concatenate_datasets([dataset, table], axis=1)


def read_column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """One column of fixed width in the order of the rows. A selection of them is gathered at once: `datasets` makes a
    table of each row."""
    column, rows = _column(dataset, name)
    return column if rows is None else column.take(pa.array(rows))


def read_codes(dataset: Dataset, name: str) -> tuple[np.ndarray, list[Any]]:
    """A column of few different values as numbers, and the values in the order of their first row; None is one.

    Raises:
        [`InstructMineError`]: Where it holds lists or the like.
    """
    column, rows = _column(dataset, name)
    if isinstance(column.type, pa.BaseExtensionType):  # values of several types are JSON
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if pa.types.is_nested(column.type):
        raise InstructMineError(f"column '{name}' holds {column.type}, not one name a row: name another column")
    if not len(dataset):
        return np.zeros(0, np.int32), []
    encoded = column.dictionary_encode(null_encoding="encode")
    values = encoded.chunk(0).dictionary.to_pylist()  # all chunks have the same
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    del encoded
    pa.default_memory_pool().release_unused()  # Arrow would keep what is as long as the pool
    if rows is None:
        return codes, values
    codes = codes[rows]
    first = np.full(len(values), len(codes))
    for start in reversed(range(0, len(codes), _CHUNK)):  # of equal ones the last stays: the first of the rows
        part = codes[start : start + _CHUNK]
        first[part[::-1]] = np.arange(start, start + len(part))[::-1]
    present = np.argsort(first)[: int((first < len(codes)).sum())]
    numbers = np.zeros(len(values), np.int32)
    numbers[present] = np.arange(len(present))
    return numbers[codes], [values[code] for code in present]


def _column(dataset: Dataset, name: str) -> tuple[pa.ChunkedArray, np.ndarray | None]:
    """A column as it lies, and which rows of it the dataset has; None where it has them all, in order."""
    if dataset._indices is None:
        return dataset.data.table.column(name), None
    if len(dataset) * _SPARSE < len(dataset.data):
        return dataset.select_columns([name]).with_format("arrow")[:].column(name), None
    return dataset.data.table.column(name), dataset._indices.table.column(0).to_numpy()
