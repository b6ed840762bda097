"""The folder of a scored pool: whose it is, what is finished in it, and how columns join it, one process at a time."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets

from ..data.provenance import set_provenance
from ..errors import InstructMineError
from ..outputs.files import remove_leftovers, write_parquet, written_whole
from ..outputs.reading import read_json, read_parquet
from ..outputs.records import Records


_WORK = ".columns"
_ROWS_PER_FILE = 500_000
# What of an earlier run cannot be read can be made again of the shards.
_MEND = "pass overwrite=True with all indicators, whose finished shards are kept"
Earlier = dict[str, tuple[dict[str, Any], dict[str, Any]]]


class _Pool(TypedDict):
    rows: int
    digest: str


class _Counts(TypedDict):
    rows: int
    nan: int
    notes: dict[str, int]


class ScoredFolder:
    """A folder that holds, or will hold, the scores of one pool.

    Args:
        folder (`Path`): Made by [`~ScoredFolder.claim`] where absent.
        pool (`Dataset`): The pool, without the columns that are to be made.
        digest (`str`): Of the pool, by [`pool_digest`].
        overwrite (`bool`): Whether scores of another pool, and earlier columns, may be replaced.
    """

    def __init__(self, folder: Path, pool: Dataset, digest: str, overwrite: bool):
        self.folder, self.work, self.pool, self.overwrite = folder, folder / _WORK, pool, overwrite
        self.manifest, self.this = self.work / "pool.json", {"rows": len(pool), "digest": digest}
        self._replaced: set[str] = set()

    def claim(self) -> None:
        """Makes the folder this pool's, or refuses it and leaves it as it is.

        Raises:
            [`InstructMineError`]: Where it holds other files, or another pool's scores that may not be replaced.
        """
        try:
            self._check_unclaimed()
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InstructMineError(
                f"cannot write to '{self.folder}': {error.strerror}; choose another output_dir"
            ) from error
        with self._locked():
            before = self._pool_there()
            if before not in (None, self.this) and not self.overwrite:
                raise InstructMineError(
                    f"'{self.folder}' holds the scores of another pool ({before['rows']} rows, {before['digest']}; "
                    f"this one: {self.this['rows']} rows, {self.this['digest']}): choose another output_dir, or pass "
                    "overwrite=True"
                )
            if before != self.this:  # neither the shards nor the columns that are there belong to this pool
                for stale in [self.folder / "indicators.json", *self.work.rglob("*.parquet")]:
                    stale.unlink(missing_ok=True)
                with written_whole(self.manifest) as partial:
                    partial.write_text(json.dumps(self.this))
            elif self.overwrite:
                self._replaced = {*self._columns_there()}

    def earlier(self) -> Earlier:
        """Configuration and counts of each column that earlier runs finished and that stays.

        Raises:
            [`InstructMineError`]: Where what they wrote is damaged.
        """
        if not (self.folder / "indicators.json").exists():
            return {}
        names = [name for name in self._columns_there() if name not in self._replaced]
        if not names:
            return {}
        found = {name: self._read(f"{name}.json") for name in ("indicators", "report")}
        for name in names:
            if name not in found["report"]:
                raise InstructMineError(f"'{self.folder / 'report.json'}' says nothing of '{name}': {_MEND}")
        self._columns(names)
        return {name: (found["indicators"][name], found["report"][name]) for name in names}

    def join(
        self,
        scored: Dataset,
        provenance: Mapping[str, Any],
        report: Mapping[str, Any],
        more: Mapping[str, Any],
        check: Callable[[Earlier], None],
    ) -> tuple[Dataset, dict[str, Any]]:
        """Writes the scored pool, with the columns that other runs have finished by now, unless all that is there.

        Args:
            scored (`Dataset`): The pool with the columns of this run.
            provenance (`Mapping`), report (`Mapping`): Of each of them.
            more (`Mapping`): What else the report holds.
            check (`Callable`): Refuses earlier columns that do not go with this run's.

        Returns:
            `tuple[Dataset, dict]`: All columns, and the counts of each.

        Raises:
            [`InstructMineError`]: Where the folder has become another pool's meanwhile; the shards are kept.
        """
        with self._locked():
            if self._pool_there() != self.this:
                raise InstructMineError(
                    f"another process has begun to score another pool in '{self.folder}': choose another output_dir"
                )
            earlier = self.earlier()
            check(earlier)
            kept = [name for name in earlier if name not in provenance]
            if kept:
                scored = concatenate_datasets([scored, Dataset(self._columns(kept))], axis=1)
            provenance = {**provenance, **{name: earlier[name][0] for name in kept}}
            report = {**report, **{name: earlier[name][1] for name in kept}}
            scored = set_provenance(scored, dict(provenance))
            if not self._is_written(scored, provenance, {**report, **more}):
                self._write(scored, provenance, {**report, **more})
            self._remove_leftovers()
        return scored, dict(report)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with Records(self.work).lock("folder", patience=-1):
            yield

    def _check_unclaimed(self) -> None:
        try:
            if not self.overwrite:
                Records(self.folder).check_unclaimed(f"{_WORK}/pool.json", beside=(_WORK,))
            self._refuse_foreign()
        except InstructMineError:
            if not self.manifest.exists():  # else another process has claimed it between two of these looks
                raise

    def _refuse_foreign(self) -> None:
        """Nothing of somebody else's is replaced, whatever may be."""
        if self.manifest.exists():
            return
        theirs = [self.folder / "report.json", self.folder / "indicators.json", *(self.folder / "data").glob("*")]
        if there := [path for path in theirs if path.exists()]:
            raise InstructMineError(
                f"'{there[0]}' is of no scored pool, and would be replaced: choose another output_dir"
            )

    def _pool_there(self) -> dict[str, Any] | None:
        if not self.manifest.exists():
            return None
        mend = "restore it, choose another output_dir, or pass overwrite=True"
        try:
            return read_json(self.manifest, mend, _Pool)
        except InstructMineError:
            if self.overwrite:
                return None
            raise

    def _columns_there(self) -> list[str]:
        try:
            return list(self._read("indicators.json")) if (self.folder / "indicators.json").exists() else []
        except InstructMineError:
            if not self.overwrite:
                raise
            (self.folder / "indicators.json").unlink()
            return []

    def _read(self, name: str) -> dict[str, Any]:
        kind = dict[str, dict[str, Any]] if name == "indicators.json" else dict[str, _Counts | list[str]]
        return read_json(self.folder / name, _MEND, kind)

    def _columns(self, names: list[str]) -> pa.Table:
        table = pa.concat_tables([read_parquet(path, _MEND, names) for path in self._data_files()] or [pa.table({})])
        if table.num_rows != len(self.pool):
            raise InstructMineError(
                f"'{self.folder / 'data'}' has {table.num_rows} rows of {len(self.pool)}: a file is missing; {_MEND}"
            )
        return table

    def _data_files(self) -> list[Path]:
        return sorted((self.folder / "data").glob("train-*.parquet"))

    def _paths(self, rows: int) -> list[Path]:
        files = -(-rows // _ROWS_PER_FILE)
        return [self.folder / "data" / f"train-{i:05d}-of-{files:05d}.parquet" for i in range(files)]

    def _is_written(self, scored: Dataset, provenance: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
        """Whether the files are there already, as this process or another one wrote them. Texts are not read again."""
        wanted = {"indicators.json": provenance, "report.json": report}
        if not all((self.folder / name).exists() for name in wanted) or self._data_files() != self._paths(len(scored)):
            return False
        try:
            if any(self._read(name) != json.loads(json.dumps(content)) for name, content in wanted.items()):
                return False
            if any({*pq.read_schema(path).names} != {*scored.column_names} for path in self._data_files()):
                return False
            there = self._columns(list(provenance))
            made = scored.select_columns(list(provenance)).with_format("arrow")[:]
        except (InstructMineError, OSError, pa.ArrowException):
            return False
        return all(
            np.array_equal(there[name].to_numpy(), made[name].to_numpy(), equal_nan=True) for name in provenance
        )

    def _remove_leftovers(self) -> None:
        names = {self.folder: r"(report|indicators)\.json", self.folder / "data": r"train-\d{5}-of-\d{5}\.parquet"}
        for folder, written_here in names.items():
            remove_leftovers(folder, written_here, age=0)  # no other process writes now

    def _write(self, scored: Dataset, provenance: Mapping[str, Any], report: Mapping[str, Any]) -> None:
        written = self._paths(len(scored))
        for i, path in enumerate(written):
            with written_whole(path) as partial:
                write_parquet(scored.shard(len(written), i, contiguous=True), partial)
        for path in set(self._data_files()) - set(written):
            path.unlink()
        # `indicators.json` comes last: where it is, the rest is complete.
        for name, content in {"report.json": report, "indicators.json": provenance}.items():
            with written_whole(self.folder / name) as partial:
                partial.write_text(json.dumps(content, indent=2, sort_keys=True))
