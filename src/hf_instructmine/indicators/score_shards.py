"""What is finished of a column, in pieces that are kept at once: Parquet files, each with its digest beside it.

Whoever works on a folder claims a shard by its lock: each is scored once, whoever they are and wherever they run.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from .. import __version__
from ..errors import InstructMineError
from ..outputs.digests import fast_digest
from ..outputs.files import remove_leftovers, written_whole
from ..outputs.reading import read_json, read_parquet, read_text
from ..outputs.records import Records


logger = logging.getLogger(__name__)

_DIGEST = ".digest"
_LAYOUT = "layout.json"
_OWN = "hf-instructmine"


class _Layout(TypedDict):
    rows: int
    versions: dict[str, str]


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
        self._told: set[Path] = set()
        remove_leftovers(self.folder, r"\d{9}\.(parquet|digest)")

    @property
    def begun(self) -> bool:
        """Whether a shard is there."""
        return next(self.folder.glob("*.parquet"), None) is not None

    def layout(self, rows: Callable[[], int], libraries: Sequence[str], finished: Callable[[int], bool]) -> int:
        """The rows of a shard. Whoever comes first decides; the others follow, whatever their device.

        Args:
            rows (`Callable`): What this process would choose.
            libraries (`Sequence[str]`): Whose minor releases may change the scores.
            finished (`Callable`): Whether all shards of so many rows are there, so that none is to be made.

        Raises:
            [`InstructMineError`]: Where shards are missing that another minor release began to make.
        """
        path, here = self.folder / _LAYOUT, {_OWN: __version__, **{name: version(name) for name in libraries}}
        with Records(self.folder).lock("layout", patience=-1):
            if not path.exists():
                layout: _Layout = {"rows": rows(), "versions": here}
                with written_whole(path) as partial:
                    partial.write_text(json.dumps(layout))
                return layout["rows"]
        found = read_json(path, f"remove '{self.folder}', whose shards are then scored again", _Layout)
        other = {name: there for name, there in found["versions"].items() if _minor(there) != _minor(here.get(name))}
        if other and not finished(found["rows"]):
            then = ", ".join(f"{name} {there}" for name, there in other.items())
            now = ", ".join(f"{name} {here.get(name, 'none')}" for name in other)
            raise InstructMineError(
                f"'{self.folder}' holds shards made with {then}, and here is {now}: go on with the same versions, or "
                "choose another output_dir"
            )
        return found["rows"]

    @contextmanager
    def claim(self, start: int) -> Iterator[bool]:
        """Yields whether this process now holds the shard. That of a killed process is free again.

        Raises:
            [`InstructMineError`]: Where the folder cannot be written.
        """
        with Records(self.folder).lock(f"{start:09d}", patience=0) as held:
            yield held

    def there(self) -> set[int]:
        """The first rows of the shards that have been written, by a look at their names alone."""
        names = (path.stem for path in self.folder.glob("*.parquet"))
        return {int(name) for name in names if name.isdecimal()}

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
            if path not in self._told:
                logger.warning("'%s' is damaged, or of other rows: its %d rows are scored again", path, rows)
            self._told.add(path)
            return None
        return shard.replace_schema_metadata()


def _minor(release: str | None) -> list[str]:
    return (release or "").split(".")[:2]
