"""What is finished of a column, in pieces that are kept at once: Parquet files, each with its digest beside it."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InstructMineError
from ..outputs.digests import fast_digest
from ..outputs.files import remove_leftovers, written_whole
from ..outputs.reading import read_parquet, read_text


logger = logging.getLogger(__name__)

_DIGEST = ".digest"


class Shards:
    """The shards of one indicator over one pool.

    Args:
        work (`Path`): The folder of all indicators' shards.
        names (`Sequence[str]`): The indicator's columns.
        identity (`Sequence`): All else that decides what is in them: plain data.
    """

    def __init__(self, work: Path, names: Sequence[str], identity: Sequence[Any]):
        key = fast_digest([json.dumps([list(names), *identity], sort_keys=True)]).removeprefix("xxh64:")
        self.folder, self.names = work / f"{names[0]}-{key}", list(names)
        remove_leftovers(self.folder, r"\d{9}\.(parquet|digest)")

    def read(self, sizes: Mapping[int, int]) -> dict[int, pa.Table]:
        """The sound shards, by their first row. One that is not is told, and is missing.

        Args:
            sizes (`Mapping[int, int]`): The rows that each should have, by its first row.
        """
        found = {start: self._read(self._path(start), rows) for start, rows in sizes.items()}
        return {start: shard for start, shard in found.items() if shard is not None}

    def write(self, start: int, shard: pa.Table) -> None:
        """Keeps a shard. Its digest goes first: where that is, a shard without it cannot be of this version."""
        path, buffer = self._path(start), pa.BufferOutputStream()
        pq.write_table(shard, buffer)
        content = buffer.getvalue()
        with written_whole(path.with_suffix(_DIGEST)) as partial:
            partial.write_text(fast_digest([content]), "ascii")
        with written_whole(path) as partial:
            partial.write_bytes(content)

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:09d}.parquet"

    def _read(self, path: Path, rows: int) -> pa.Table | None:
        if not path.exists():
            return None
        try:
            digest = path.with_suffix(_DIGEST)  # earlier versions wrote none
            sound = not digest.exists() or read_text(digest, "") == fast_digest([path.read_bytes()])
            shard = read_parquet(path, "", [*self.names, "note"]) if sound else None
        except (InstructMineError, OSError):
            shard = None
        kinds = [*[pa.float64()] * len(self.names), pa.string()]
        if shard is None or shard.num_rows != rows or shard.schema.types != kinds:
            logger.warning("'%s' is damaged, or of other rows: its %d rows are scored again", path, rows)
            return None
        return shard.replace_schema_metadata()
