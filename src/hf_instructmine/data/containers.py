"""Rows in whatever holds them, as a `Dataset`: one way in for every function that takes a pool or examples."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Json,
    Value,
    concatenate_datasets,
)
from datasets.iterable_dataset import ArrowExamplesIterable

from ..errors import InstructMineError, one_line
from .inputs import choose_split, load_pool


_TAKEN = (
    "a Dataset, one split of a DatasetDict, an IterableDataset, a pandas or polars DataFrame, a list of rows (dicts), "
    "a dict of columns, or the name of a file, folder or Hub dataset"
)
_ELSEWHERE = "make room, or name a folder on another disk with the environment variable TMPDIR"
# Rows of a stream that are held in memory at a time.
_CHUNK = 10_000


def as_dataset(value: Any, name: str, split: str | None = None, columns: Mapping[str, str] | None = None) -> Dataset:
    """Takes rows in whatever holds them. The rows are the same, whatever that is.

    Args:
        value: A `Dataset` in any format; a `DatasetDict` of one split, or of several with `split`; an
            `IterableDataset`, which is read to its end into a temporary folder (`$TMPDIR`) that is gone with the
            process; a pandas or polars `DataFrame`; a `pyarrow.Table`; a list of rows, each a dict; a dict of columns;
            the name of a file, folder or Hub dataset, or several, as for [`load_pool`].
        name (`str`): What the caller calls it, for messages of error.
        split (`str`, *optional*): Which split, of what has several.
        columns (`Mapping[str, str]`, *optional*): Which column is which, for files whose cells have no type.

    Returns:
        `Dataset`: Without a format. One that is passed in comes back as it is, and is not copied.

    Raises:
        [`InstructMineError`]: Names the argument, what it is, and what it may be; or the row that is wrong.
    """
    if isinstance(value, Dataset):
        return _unformatted(value, name)
    if _is_split(value):
        if split is None and len(value) > 1:
            first = "train" if "train" in value else next(iter(value))
            what = f"{name} is a {type(value).__name__} of {', '.join(value)}"
            raise InstructMineError(f"{what}: pass one of them, such as {name}['{first}']")
        return as_dataset(choose_split(value, split, name), name)
    if isinstance(value, str | Path) or (_is_list(value) and value and all(isinstance(v, str | Path) for v in value)):
        return load_pool(value, split, columns=columns)
    try:
        return _read_stream(value, name) if isinstance(value, IterableDataset) else _of_table(value, name)
    except InstructMineError:
        raise
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InstructMineError(f"{name} cannot be read as a table: {one_line(error, first=True)}") from error


def as_table(value: Any, name: str) -> Any:
    """Something whose columns are read by name: a pandas `DataFrame`, a `pyarrow.Table` or a mapping of columns as it
    is, anything else as [`as_dataset`] takes it."""
    by_name = isinstance(value, pd.DataFrame | pa.Table) or (isinstance(value, Mapping) and not _is_split(value))
    return value if by_name else as_dataset(value, name)


def as_batch(batch: Any) -> dict[str, list]:
    """The columns of a batch as lists, in whatever format `Dataset.map(batched=True)` passes it.

    Raises:
        [`InstructMineError`]: Where it is a single row, whose letters would count as rows. In the formats of pandas
            and Arrow a row is a table of one, and cannot be told from a batch.
    """
    if isinstance(batch, pd.DataFrame):
        batch = pa.Table.from_pandas(batch, preserve_index=False)
    if isinstance(batch, pa.Table):
        batch = batch.to_pydict()
    lists = {name: values if isinstance(values, list) else _as_python(values) for name, values in batch.items()}
    single = next((name for name, values in lists.items() if not isinstance(values, list)), None)
    if single is not None:
        raise InstructMineError(
            f"the column '{single}' holds one row, not a batch of rows: pass batched=True, as in "
            "pool.map(indicator, batched=True)"
        )
    return lists


def _as_python(value: Any) -> Any:
    """Arrays and tensors as lists and numbers, at every depth."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return [_as_python(v) for v in value] if isinstance(value, list | tuple) else value


def _unformatted(dataset: Dataset, name: str) -> Dataset:
    if dataset.format["type"] == "custom":
        raise InstructMineError(
            f"{name} has a transform, which would not be read: apply it with {name}.map(…), or take it off with "
            f"{name}.with_format(None)"
        )
    # A dataset without a format stays the same object, with its fingerprint, by which `map` finds its cache.
    formatted = dataset.format["type"] is not None or dataset.format["columns"] != dataset.column_names
    return dataset.with_format(None) if formatted else dataset


def _is_split(value: Any) -> bool:
    """Whether these are splits by name."""
    return isinstance(value, DatasetDict | IterableDatasetDict) or (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(part, Dataset | IterableDataset) for part in value.values())
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _of_table(value: Any, name: str) -> Dataset:
    polars = sys.modules.get("polars")  # it is there where someone has made a frame of it
    if isinstance(value, pa.Table):
        return Dataset(value)
    if isinstance(value, pd.DataFrame):
        return _of_pandas(value, name)
    if polars is not None and isinstance(value, polars.DataFrame):
        return Dataset.from_polars(value)
    if isinstance(value, Mapping):
        return _of_columns(value, name)
    if _is_list(value):
        return _of_rows(value, name)
    what = f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"
    raise InstructMineError(f"{name} is {what}: pass {_TAKEN}")


def _of_pandas(frame: pd.DataFrame, name: str) -> Dataset:
    # Row labels that have no name are what a filter left; those that have one are a column.
    named = any(label is not None for label in frame.index.names)
    frame = frame.set_axis([str(column) for column in frame.columns], axis=1)
    try:
        return Dataset.from_pandas(frame, preserve_index=named)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # values of several types in one column, which Arrow does not hold
        known = frame.reset_index() if named else frame
        return _of_columns(known.astype(object).where(known.notna(), None).to_dict("list"), name)


def _of_rows(rows: Sequence[Any], name: str) -> Dataset:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            what = f"row {number} of {name} is {row!r:.60} ({type(row).__name__})"
            raise InstructMineError(f"{what}, not a dict of columns: mend or drop it")
    # Not of the first row alone, as `Dataset.from_list` has it: what later rows have besides would be lost.
    columns = dict.fromkeys(column for row in rows for column in row)
    return _of_columns({column: [row.get(column) for row in rows] for column in columns}, name)


def _of_columns(columns: Mapping[Any, Any], name: str, features: Features | None = None) -> Dataset:
    """Columns of one length; values of several types in a column are kept as they are, as in a JSON file."""
    for column, values in columns.items():
        if not isinstance(column, str):
            raise InstructMineError(f"{name} has a column {column!r}, which is no text: rename it")
        if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
            raise InstructMineError(
                f"column '{column}' of {name} is a {type(values).__name__}, not a list with a value for each row"
            )
    sizes = {column: len(values) for column, values in columns.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"'{column}' {size}" for column, size in list(sizes.items())[:4])
        raise InstructMineError(f"the columns of {name} differ in length ({told}): give each row its value in each")
    if features is not None:
        return Dataset.from_dict(dict(columns), features=features)
    plain = {n: values if isinstance(values, list | np.ndarray) else list(values) for n, values in columns.items()}
    return Dataset.from_dict(plain, on_mixed_types="use_json")


def _read_stream(stream: IterableDataset, name: str) -> Dataset:
    """Reads a stream to its end, in parts that go to disk. It is read anew at each call: what it gives may change, and
    many streams cannot tell whether it did."""
    stream = stream.with_format(None)
    _check_room(stream, name)
    folder = Path(tempfile.mkdtemp(dir=_scratch().name))
    try:
        parts = _parts(stream, name, folder)
        if not parts:
            return Dataset.from_dict({column: [] for column in stream.features or ()}, features=stream.features)
        agreed = _agreed([part.features for part in parts])
        return concatenate_datasets(
            [_rewritten(part, agreed, folder / f"{number}-agreed.arrow") for number, part in enumerate(parts)]
        )
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)  # what is read anew needs the room
        if isinstance(error, OSError):
            why = os.strerror(error.errno) if error.errno else one_line(error)
            raise InstructMineError(
                f"cannot keep the stream {name} on disk: {why} in '{folder.parent}'; {_ELSEWHERE}"
            ) from error
        raise


def _parts(stream: IterableDataset, name: str, folder: Path) -> list[Dataset]:
    from datasets.utils import tqdm

    parts: list[Dataset] = []
    with tqdm(desc=f"Reading {name}", unit="row", delay=3) as bar:
        for batch in _batches(stream, name):
            parts.append(_on_disk(_of_columns(batch, name, stream.features), folder / f"{len(parts)}.arrow"))
            bar.update(len(parts[-1]))
    return parts


def _batches(stream: IterableDataset, name: str) -> Iterator[dict[str, list]]:
    """The rows of a stream; where that breaks off, it is told after which row."""
    rows = 0
    try:
        for batch in stream.iter(_CHUNK):
            yield batch
            rows += len(next(iter(batch.values()), ()))
    except InstructMineError:
        raise
    except Exception as error:  # whatever a network, a builder or a user's generator may raise; its cause is kept
        raise InstructMineError(
            f"the stream {name} broke off after row {rows:,} or later: {type(error).__name__}: "
            f"{one_line(error, first=True)}; nothing is computed yet: mend it, and pass the stream again"
        ) from error


def _check_room(stream: IterableDataset, name: str) -> None:
    """Refuses a stream that is known to be larger than the disk has room for.

    Raises:
        [`InstructMineError`]: Says how much is needed and how much is free.
    """
    reads = stream._ex_iterable
    # Of a stream that was cut or filtered, as of one made of a dataset, `info` still has the size of the whole.
    whole = isinstance(reads, ArrowExamplesIterable) and isinstance(
        getattr(reads.generate_tables_fn, "__self__", None), DatasetBuilder
    )
    splits = stream.info.splits or {}
    if not whole or str(stream.split) not in splits:
        return
    needed, free = splits[str(stream.split)].num_bytes, shutil.disk_usage(_scratch().name).free
    if needed > free:
        raise InstructMineError(
            f"the stream {name} takes about {needed / 2**20:,.0f} MiB on disk, and '{Path(_scratch().name).parent}' "
            f"has {free / 2**20:,.0f} MiB free: {_ELSEWHERE}"
        )


@cache
def _scratch() -> tempfile.TemporaryDirectory:
    """A folder that lives as long as this process."""
    return tempfile.TemporaryDirectory(prefix="instructmine-", ignore_cleanup_errors=True)


def _on_disk(dataset: Dataset, path: Path) -> Dataset:
    table = dataset.data.table
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return Dataset.from_file(str(path))


def _agreed(parts: Sequence[Features]) -> Features:
    """Features that all parts of a stream fit in; where a column is of several types, it is JSON."""

    def agree(kinds: list[Any]) -> Any:
        known = [kind for kind in kinds if kind != Value("null")] or kinds
        if all(kind == known[0] for kind in known):
            return known[0]
        numbers = all(isinstance(kind, Value) and kind.dtype in ("int64", "float64") for kind in known)
        return Value("float64") if numbers else Json()

    names = dict.fromkeys(name for features in parts for name in features)
    return Features({name: agree([f[name] for f in parts if name in f]) for name in names})


def _rewritten(part: Dataset, features: Features, path: Path) -> Dataset:
    """A part with the features of all; its file, where it had others, makes room for the new one."""
    if part.features == features:
        return part
    columns = part[:]
    named = {name: columns.get(name, [None] * len(part)) for name in features}
    again = _on_disk(Dataset.from_dict(named, features=features), path)
    for file in part.cache_files:
        with suppress(PermissionError):  # Windows keeps what is mapped
            Path(file["filename"]).unlink()
    return again
