"""What became of every row of a pool: selected, or why not."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from ..data.columns import indicator_names
from ..errors import InstructMineError, one_line
from ..outputs.digests import fast_digest
from ..outputs.shown import Shown
from .walk import Walk


if TYPE_CHECKING:
    import pyarrow as pa

DECISIONS_FILE = "decisions.npz"
_CHUNK = 100_000  # rows that are read at once; part of what the digest is
SELECTED, BEYOND = "selected", "beyond the size"
# What a row is told to be, by what [`Walk.passed`] calls it. The place is the code: new ones go to the end.
FATES = {
    "taken": SELECTED,
    "beyond": BEYOND,
    "unscored": "no prediction",
    "duplicates": "exact duplicate",
    "empty": "no response",
    "output_length": "no length",
    "embeddings": "no embedding",
    "max_response_tokens": "response too long",
    "eval_sets": "holds an evaluation prompt",
    "max_similarity": "too similar",
    "quotas": "over quota",
    "length_bins": "over the share of its length",
    "set_level": "no prediction inside the set",
    "far": "far from the runs",
    "limit": "beyond the limit",
    "near_duplicates": "near copy",
}


@dataclass(frozen=True, repr=False)
class Decisions(Shown):
    """What became of every row of a pool.

    Attributes:
        codes (`np.ndarray` of shape `(n,)`, uint8): Of each row of the pool, in its order: a place in `names`.
        names (`tuple[str, ...]`): What each code means; the first is `"selected"`.
        pool_digest (`str`): As [`digest_of_pool`] gives it.
    """

    codes: np.ndarray
    names: tuple[str, ...]
    pool_digest: str

    def _line(self) -> str:
        found = np.bincount(self.codes, minlength=len(self.names))
        return ", ".join(f"{rows:,} {name}" for name, rows in zip(self.names, found) if rows)

    def save(self, folder: str | Path) -> None:
        """Writes `decisions.npz`, which `load_dataset` passes over."""
        np.savez_compressed(
            Path(folder, DECISIONS_FILE),
            codes=self.codes, names=np.array(self.names), pool_digest=np.array(self.pool_digest),
        )  # fmt: skip

    @classmethod
    def load(cls, folder: str | Path) -> "Decisions | None":
        """Reads what [`~Decisions.save`] wrote; None where there is no such file, as in folders of earlier versions.

        Raises:
            [`InstructMineError`]: Where the file is damaged.
        """
        path = Path(folder, DECISIONS_FILE)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                codes, names, digest = file["codes"], file["names"], file["pool_digest"]
            texts = {names.dtype.kind, digest.dtype.kind} == {"U"} and names.ndim == 1
            if codes.dtype != np.uint8 or codes.ndim != 1 or not texts or (codes >= len(names)).any():
                raise ValueError("it does not hold a code for each row")
        except Exception as error:  # a damaged archive raises whatever its damage leads to
            raise InstructMineError(f"'{path}' is damaged ({one_line(error)}): select again, or remove it") from error
        return cls(codes, tuple(names.tolist()), str(digest))

    def of(self, name: str) -> np.ndarray:
        """Numbers of the rows of which a name is told, ascending."""
        return np.flatnonzero(self.codes == self.names.index(name)) if name in self.names else np.array([], np.int64)

    def counts(self) -> dict[str, int]:
        """How many rows each name is told of; names of no row are left out."""
        found = np.bincount(self.codes, minlength=len(self.names)).tolist()
        return {name: rows for name, rows in zip(self.names, found) if rows}

    def is_of(self, pool: Dataset) -> bool:
        """Whether they are of this pool: as many rows, and the same values."""
        if len(pool) != len(self.codes):
            return False
        earlier = self.pool_digest.startswith("xxh64:")
        return (_digest_as_json(pool, _told_of(pool)) if earlier else digest_of_pool(pool)) == self.pool_digest


def decide(
    pool: Dataset, walk: Walk, unscored: np.ndarray, far: Sequence[int] | np.ndarray = (), lack: str = "prediction"
) -> Decisions:
    """What became of each row of a pool, from the walk that took some of them.

    Args:
        pool (`Dataset`): All rows.
        walk ([`Walk`]): Over them.
        unscored (`np.ndarray`): Numbers of the rows without a prediction.
        far (`Sequence[int]`): Numbers of the rows that were left out for the bound on leverage.
        lack (`str`): What unscored rows have not: a rule's `"prediction"`, or a strategy's `"value"`.
    """
    codes = np.full(len(pool), list(FATES).index("beyond"), np.uint8)
    told = {"unscored": unscored, "far": far, **walk.passed, "taken": walk.taken}
    for code, reason in enumerate(FATES):
        if reason in told:
            codes[np.asarray(told[reason], dtype=np.int64)] = code
    codes[np.asarray(walk.taken, dtype=np.int64)] = 0
    names = {**FATES, "unscored": f"no {lack}"}
    return Decisions(codes, tuple(names.values()), digest_of_pool(pool))


def digest_of_pool(pool: Dataset) -> str:
    """A digest of a pool's values in order, but for its indicators: the same before and after scoring, and however the
    pool was loaded."""
    return digest_of_rows(pool, _told_of(pool))


def _told_of(pool: Dataset) -> list[str]:
    scored = set(indicator_names(pool))
    return [name for name in pool.column_names if name not in scored]


def digest_of_rows(dataset: Dataset, columns: Sequence[str]) -> str:
    """A digest of the values of columns, in order, whatever the pieces that Arrow holds them in."""
    rows = dataset.select_columns(list(columns)).with_format("arrow") if columns else []
    told = (part for start in range(0, len(rows), _CHUNK) for part in _parts_of(rows[start : start + _CHUNK]))
    return f"arrow-{fast_digest(chain([json.dumps([len(dataset), *columns])], told))}"


def _parts_of(table: "pa.Table") -> Iterator[Any]:
    """Texts and buffers that tell a table's values, and nothing of how they are held."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if table.num_rows and table.columns[0].num_chunks > table.num_rows // 100:  # rows that were gathered one by one
        table = table.combine_chunks()
    for column in table.columns:
        kind = column.type
        if column.null_count:
            yield "nulls"
            yield column.is_null().to_numpy().tobytes()
            column = column.drop_null()
        if not len(column):
            continue
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            yield "texts"
            yield pc.binary_length(column).to_numpy().astype("<i8").tobytes()
            yield from map(_bytes_of, column.chunks)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            plain = "<i8" if pa.types.is_integer(kind) else "<f8"
            yield plain
            yield column.to_numpy().astype(plain).tobytes()
        else:
            yield json.dumps(column.to_pylist(), default=str)


def _bytes_of(texts: "pa.Array") -> memoryview:
    """All texts of a piece without nulls, one after another, as they lie in memory."""
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        return memoryview(b"")
    width = "<i4" if str(texts.type) == "string" else "<i8"
    bounds = np.frombuffer(offsets, width, len(texts) + 1, texts.offset * np.dtype(width).itemsize)
    return memoryview(data)[bounds[0] : bounds[-1]]


def _digest_as_json(dataset: Dataset, columns: Sequence[str]) -> str:
    """The digest of earlier versions, which wrote every value as JSON: of many rows it took longer than the choice."""
    if not columns:  # a table of nothing but numbers
        return fast_digest([json.dumps(len(dataset))])
    # As Arrow, which opens no image that a row names.
    rows = dataset.select_columns(list(columns)).with_format("arrow")
    told = (rows[start : start + 1000].to_pydict() for start in range(0, len(dataset), 1000))
    return fast_digest(chain([json.dumps(list(columns))], (json.dumps(chunk, default=str) for chunk in told)))
