"""Which columns of a table are indicators: the ones scored by this package, or named as its indicators are."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value

from ..errors import InstructMineError
from .provenance import get_provenance
from .tables import read_codes, read_column


SOURCE = "source"
# Which indicator makes which column, to tell a user what to run where a column is missing.
INDICATOR_OF_COLUMN = {
    "input_length": "InputLength",
    "output_length": "OutputLength",
    "reward": "Reward",
    "perplexity": "Perplexity",
    "nll": "Perplexity(also=['nll'])",
    "ifd": "Perplexity(also=['ifd'])",
    "end_of_turn": "Perplexity(also=['end_of_turn'])",
    "mtld": "MTLD",
    "naturalness": "UniEval",
    "coherence": "UniEval",
    "understandability": "UniEval",
}
NEIGHBOR_COLUMN = re.compile(r"(?:pool_)?knn_(\d+)")
TOKENS = "output_length"


_NUMBERS = ("float", "double", "int", "uint", "half")


def indicator_names(dataset: Dataset) -> list[str]:
    """Names the indicator columns of a scored pool, of a table of mixtures or of a table of runs.

    A numeric column is an indicator if it carries provenance, or if its name is one that the indicators write
    (`input_length`, `output_length`, `reward`, `perplexity`, `mtld`, `knn_<i>`, `naturalness`, `coherence`,
    `understandability`), or `pool_knn_<i>`, a subset's mean of the pool's own `knn_<i>`: a rule fitted on it reads the
    pool's column.

    Returns:
        `list[str]`: Column names in the dataset's own order; empty where there are none.
    """
    provenance = get_provenance(dataset)
    return [
        name
        for name, feature in dataset.features.items()
        if isinstance(feature, Value)
        and feature.dtype.startswith(_NUMBERS)
        and (name in provenance or indicator_of(name))
    ]


def names_sources(dataset: Dataset) -> bool:
    """Whether the pool has a column `source` of names."""
    return isinstance(dataset.features.get(SOURCE), Value | ClassLabel)


def read_sources(dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """The number of each row's source, in as few bytes as there are sources for, and the names of the sources.

    `"(none)"` is a row without one.
    """
    if not names_sources(dataset):
        return np.zeros(len(dataset), np.uint8), ["all"]
    feature = dataset.features[SOURCE]
    codes, values = read_codes(dataset, SOURCE)
    if isinstance(feature, ClassLabel):
        values = [None if value is None or value < 0 else feature.int2str(value) for value in values]
    names = ["(none)" if value is None else str(value) for value in values]
    return codes.astype(np.min_scalar_type(len(names))), names


def indicator_of(column: str) -> str | None:
    """Returns the indicator that makes `column`, such as `"NeighborDistance(i=6)"`, or `None` where no one does."""
    if match := NEIGHBOR_COLUMN.fullmatch(column):
        return f"NeighborDistance(i={match[1]})"
    return INDICATOR_OF_COLUMN.get(column)


def column_names(table: Any) -> list[str]:
    """The columns of a `Dataset`, a pandas `DataFrame` or a mapping of sequences."""
    if hasattr(table, "column_names"):
        return list(table.column_names)
    return list(table.keys())


def row_count(table: Any) -> int:
    """The rows of a `Dataset`, a pandas `DataFrame` or a mapping of sequences."""
    names = column_names(table)
    return len(table) if hasattr(table, "column_names") else len(table[names[0]]) if names else 0


class Column:
    """A column of numbers that is read in the parts that are asked for: those of a mapped pool stay on disk.

    A part is `float64`; a missing value (None, null, NaN) is NaN in it, and so is an infinite one. Numbers that were
    read as text ("12") are text, and booleans are no numbers. Everything that computes with a column reads it here,
    and says the same of it.

    Args:
        table (`Dataset`, `pyarrow.Table`, `pandas.DataFrame` or mapping of sequences): Has the column.
        name (`str`): The column.

    Raises:
        [`InstructMineError`]: Where the column does not hold numbers.
    """

    def __init__(self, table: Any, name: str):
        import pyarrow as pa

        values = _arrow_column(table, name)
        kind = values.type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise InstructMineError(f"column '{name}' holds {kind}, not numbers: an indicator is one number a row")
        # A pandas column or a list is one piece.
        self._values = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """The numbers of rows: of a slice of step 1, of a mask, or of row numbers."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return self._slice(start, max(stop - start, 0))
        asked = np.asarray(rows)
        return self._gather(np.flatnonzero(asked) if asked.dtype == bool else asked.astype(np.int64))

    def _slice(self, start: int, length: int) -> np.ndarray:
        numbers, filled = np.empty(length), 0
        for chunk in self._values.slice(start, length).chunks:  # apart: Arrow would copy them together first
            numbers[filled : filled + len(chunk)] = _floats(chunk)
            filled += len(chunk)
        return numbers

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        """Of row numbers, from each chunk what lies in it: Arrow would copy the column together first."""
        import pyarrow as pa

        if (outside := rows[(rows < 0) | (rows >= len(self))]).size:
            raise IndexError(f"there is no row {outside[0]}: the column has {len(self)}")
        numbers, chunks = np.empty(len(rows)), self._values.chunks
        ends = np.cumsum([len(chunk) for chunk in chunks])
        of = np.searchsorted(ends, rows, side="right")
        order = np.argsort(of, kind="stable")
        present, firsts = np.unique(of[order], return_index=True)
        for k, places in zip(present.tolist(), np.split(order, firsts[1:])):
            inside = rows[places] - (ends[k] - len(chunks[k]))
            numbers[places] = _floats(chunks[k].take(pa.array(inside)))
        return numbers


def _floats(values: Any) -> np.ndarray:
    import pyarrow as pa

    # Not `safe`, which refuses whole numbers that a float64 has to round.
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.where(np.isinf(numbers), np.nan, numbers)  # nothing can be ranked by it, and no mean survives it


Numbers = np.ndarray | Column  # either gives the rows that it is asked for


def numeric_column(table: Any, name: str) -> np.ndarray:
    """Reads one whole column, shape (n,), as [`Column`] reads a part.

    Raises:
        [`InstructMineError`]: Where the column does not hold numbers.
    """
    return Column(table, name)[:]


def _arrow_column(table: Any, name: str) -> Any:
    import pyarrow as pa

    if isinstance(table, Dataset):
        return read_column(table, name)
    if isinstance(table, pa.Table):
        return table.column(name)
    column = table[name]
    try:
        return pa.array(np.asarray(column) if hasattr(column, "dtype") else list(column))
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.nulls(1, pa.string())


def column_in_pool(name: str, present: Collection[str]) -> str:
    """The column of a table that holds what a rule calls `name`; `present` are the table's columns.

    A table of runs may have two columns of one neighbour: `knn_6` was measured inside each subset, `pool_knn_6` is the
    mean of what its rows have in the pool. A scored pool has only the second, and calls it `knn_6`.
    """
    return name.removeprefix("pool_") if name not in present else name


def check_made_alike(
    expected: Mapping[str, dict[str, Any]], columns: Sequence[str], table: Any, partial: bool
) -> list[str]:
    """Refuses columns that were made by another configuration than a rule expects.

    Args:
        expected (`Mapping[str, dict]`): The rule's provenance.
        columns (`Sequence[str]`): The columns it reads.
        table (`Dataset` or another table): What is to be predicted.
        partial (`bool`): Compare only what the rule states. A published rule states less than an indicator records.

    Returns:
        The columns whose making is recorded in the rule but not in the table.
    """
    from .provenance import check_provenance, get_provenance

    recorded = get_provenance(table) if hasattr(table, "features") else {}
    expected = {name: expected[name] for name in columns if name in expected}
    found = {name: recorded[source] for name in expected if (source := column_in_pool(name, recorded)) in recorded}
    if partial:
        found = {name: {key: made.get(key) for key in expected[name]} for name, made in found.items()}
    return check_provenance(expected, found, list(expected))


def indicator_columns(table: Any, columns: Sequence[str]) -> dict[str, Column]:
    """The columns that a rule needs.

    Raises:
        [`InstructMineError`]: Where columns are missing; the message names them and the indicators that make them.
    """
    present = set(column_names(table))
    sources = {name: column_in_pool(name, present) for name in columns}
    missing = [name for name, source in sources.items() if source not in present]
    if missing:
        makers = list(dict.fromkeys(filter(None, map(indicator_of, missing))))
        mend = f"; score the data with {', '.join(makers)} first" if makers else ""
        raise InstructMineError(f"the data has no column {', '.join(map(repr, missing))}, which the rule needs{mend}")
    return {name: Column(table, source) for name, source in sources.items()}
