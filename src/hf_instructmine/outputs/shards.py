"""A table cut into Parquet files of a given size, one after another, so that it never has to be held whole."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InstructMineError
from .files import write_parquet


if TYPE_CHECKING:
    from datasets import Dataset


MAX_SHARD_SIZE = "500MB"
# Rows in a group of a Parquet file: fixed, so that a table is written alike whatever it was cut from.
ROWS_IN_GROUP = 1000
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_size(size: int | str) -> int:
    """Bytes, from a number or a text such as `"500MB"` or `"2GiB"`.

    Raises:
        [`InstructMineError`]: Where it is no size, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?", str(size).strip().upper())
    parsed = round(float(found[1]) * _UNITS[found[2] or ""]) if found else 0
    if parsed <= 0 or isinstance(size, bool):
        raise InstructMineError(f"max_shard_size={size!r} is no size: write '500MB', '2GB', or a number of bytes")
    return parsed


def cut(rows: "Dataset", most: int) -> list[range]:
    """The rows of each shard: consecutive, of at most `most` bytes of Arrow, and at least `ROWS_IN_GROUP` rows.

    Args:
        rows (`Dataset`): The table; it is read once, in batches, where it is larger than one shard.
        most (`int`): Bytes.
    """
    if rows.data.nbytes <= most:
        return [range(len(rows))]
    starts, held = [0], 0
    for number, batch in enumerate(rows.with_format("arrow").iter(ROWS_IN_GROUP)):
        if held and held + batch.nbytes > most:
            starts.append(number * ROWS_IN_GROUP)
            held = 0
        held += batch.nbytes
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(rows)])]


def shard_name(index: int, shards: int) -> str:
    """Where in a repository a shard lies, as `load_dataset` looks for it."""
    return f"data/train-{index:05d}-of-{shards:05d}.parquet"


def shard_pattern(shards: int) -> str:
    """What names all shards and no file besides: neither those of another count, nor those of another split."""
    return shard_name(0, 1) if shards == 1 else f"data/train-*-of-{shards:05d}.parquet"


def shards_in(folder: Path) -> list[Path]:
    """The Parquet files of a table in a folder, in order: one, or the shards that a push made of it."""
    one = folder / shard_name(0, 1)
    return [one] if one.is_file() else sorted(folder.glob("data/train-?????-of-?????.parquet"))


def write_shards(rows: "Dataset", shards: list[range], folder: Path) -> Iterator[Path]:
    """Writes one shard after another, each when it is asked for; the caller removes it.

    Args:
        rows (`Dataset`): The table.
        shards (`list[range]`): From [`cut`].
        folder (`Path`): Where to.
    """
    for index, kept in enumerate(shards):
        path = folder / shard_name(index, len(shards))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(rows.select(kept) if len(shards) > 1 else rows, path, ROWS_IN_GROUP)
        yield path
