"""Where a pool's rows are from, and what became of the rows of each source."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from datasets import ClassLabel, Dataset, Value


if TYPE_CHECKING:
    from .constraints import Walk

SOURCE = "source"


@dataclass
class SourceCount:
    """What became of the rows of one source.

    Attributes:
        name (`str`): The value of the column `source`.
        pool (`int`): Rows in the pool.
        selected (`int`): Rows selected.
        unscored (`int`): Rows that cannot be ranked, because their prediction is NaN or infinite.
        duplicates (`int`): Rows passed over as exact duplicates of an already selected prompt and response.
        empty (`int`): Rows passed over because they have no response.
    """

    name: str
    pool: int
    selected: int
    unscored: int
    duplicates: int
    empty: int


def count_by_source(dataset: Dataset, walk: "Walk", unscored: np.ndarray) -> tuple[SourceCount, list[SourceCount]]:
    """The counts over all rows, and those by source, of which there are none without a column `source`."""
    fates = {
        "pool": slice(None),
        "selected": walk.taken,
        "unscored": unscored,
        "duplicates": walk.passed["duplicates"],
        "empty": walk.passed["empty"],
    }
    codes, names = read_sources(dataset)
    counts = {fate: np.bincount(codes[rows], minlength=len(names)).tolist() for fate, rows in fates.items()}
    sources = [SourceCount(name, **{fate: counts[fate][code] for fate in fates}) for code, name in enumerate(names)]
    total = SourceCount("all", **{fate: sum(counts[fate]) for fate in fates})
    return total, sources if names_sources(dataset) else []


def names_sources(dataset: Dataset) -> bool:
    """Whether the pool has a column `source` of names."""
    return isinstance(dataset.features.get(SOURCE), Value | ClassLabel)


def read_sources(dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """The number of each row's source, and the names of the sources; `"(none)"` is a row without one."""
    if not names_sources(dataset):
        return np.zeros(len(dataset), dtype=np.int64), ["all"]
    feature = dataset.features[SOURCE]
    column = dataset.select_columns([SOURCE]).with_format("arrow")[:][SOURCE].combine_chunks()
    encoded = column.dictionary_encode(null_encoding="encode")
    values = encoded.dictionary.to_pylist()
    if isinstance(feature, ClassLabel):
        values = [None if value is None or value < 0 else feature.int2str(value) for value in values]
    return encoded.indices.to_numpy(), ["(none)" if value is None else str(value) for value in values]
