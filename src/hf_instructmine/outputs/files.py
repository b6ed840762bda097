"""Files that are either whole or absent, whenever the writer is killed or the power goes; and where files lie."""

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InstructMineError


if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset


# Of a group of rows of a Parquet file: bytes in memory, and rows where they are gathered from all over a table.
_GROUP, _GATHERED = 32 * 2**20, 10_000


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place once the block ends well: a reader never sees half
    a file.

    Raises:
        [`InstructMineError`]: As [`writing`] does.
    """
    # A number of its own: processes of two machines that share the folder may have the same id.
    partial = path.with_name(f".{path.name}.{secrets.randbits(60)}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            sync(partial)
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says in one line that a file cannot be written: the disk is full, or the folder read-only.

    Raises:
        [`InstructMineError`]: In place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise InstructMineError(
            f"cannot write '{path}': {error.strerror or error}; what is finished is kept: mend it and start again"
        ) from error


def remove_leftovers(folder: Path, names: str, age: float = 24 * 3600.0) -> None:
    """Removes what [`written_whole`] was writing in a folder when its process was killed.

    Args:
        folder (`Path`): That of the files.
        names (`str`): Regular expression of their names.
        age (`float`, defaults to a day): Seconds since it was written last: a young one may be another process's.
    """
    for path in folder.glob(".*") if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # its process has just ended well
            if re.fullmatch(rf"\.({names})\.\d+", path.name) and time.time() - path.stat().st_mtime >= age:
                path.unlink()


@contextmanager
def parquet_writer(path: Path, schema: "pa.Schema", **options: Any) -> "Iterator[pq.ParquetWriter]":
    """Writes a Parquet file piece by piece; a full disk is an `OSError`.

    Args:
        path (`Path`): Of the file.
        schema (`pyarrow.Schema`): Its columns.
        **options (`Any`): As for `pyarrow.parquet.ParquetWriter`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("wb") as file, pq.ParquetWriter(file, schema, **options) as writer:
        yield writer
    pa.default_memory_pool().release_unused()  # Arrow keeps what it freed, and what comes next is not Arrow's


def write_parquet(dataset: "Dataset", path: Path, batch_size: int | None = None) -> None:
    """Writes a table as Parquet, one group of rows after another; a full disk is an `OSError`.

    Neither holds of `Dataset.to_parquet`. Its content-defined chunking ends the whole process on a full disk (pyarrow
    21 to 26). Of selected rows it makes groups of 100 MB, in which each row is a table of its own.

    Args:
        dataset (`Dataset`): The table.
        path (`Path`): Of the file.
        batch_size (`int`, *optional*): Rows of a group; by default at most as many as make 32 MiB, and 10,000 of
            selected rows, which are gathered in memory.
    """
    gathered = dataset._indices is not None
    size = batch_size or max(1, len(dataset.data) * _GROUP // max(dataset.data.nbytes, 1))
    rows = min(size, _GATHERED) if gathered and batch_size is None else size
    with parquet_writer(path, dataset.features.arrow_schema) as writer:
        for batch in dataset.with_format("arrow").iter(rows):
            writer.write_table(batch.combine_chunks() if gathered else batch)


def sync(path: Path) -> None:
    """Makes what was written to a file, or a rename in a folder, last through a loss of power."""
    if path.is_dir() and os.name == "nt":  # which neither opens folders nor needs it
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_dir() -> Path:
    """The folder where this library keeps what is costly to make again: `$HF_INSTRUCTMINE_CACHE`, else
    `~/.cache/hf_instructmine`."""
    root = os.environ.get("HF_INSTRUCTMINE_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME", "~/.cache"), "hf_instructmine"
    )
    return Path(root).expanduser()


def shipped(name: str) -> Path:
    """The folder `recipes` or `metrics`: inside the package where a wheel was installed, beside `src/` in a clone."""
    package = Path(__file__).parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parents[1] / name
