"""The design of a sweep, kept beside its runs: made once, found again."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.texts import pool_digest
from ..errors import InstructMineError
from ..outputs.files import write_parquet, written_whole
from ..outputs.markdown import count
from ..outputs.reading import read_parquet
from ..outputs.records import differences
from .design_report import design_report
from .manifest import DESIGN, MANIFEST, MIXTURES, open_records
from .mixtures import design_mixtures


logger = logging.getLogger(__name__)


def design_once(
    scored: Dataset,
    folder: str | Path,
    encoder: str | None = None,
    embed: Callable[[], np.ndarray] | None = None,
    **request: Any,
) -> tuple[Dataset, str | None]:
    """The mixtures that an earlier call left in `folder`, or new ones, which are left there.

    Args:
        scored (`Dataset`): The scored pool.
        folder (`str` or `Path`): The sweep's `output_dir`.
        encoder (`str`, *optional*): Sentence encoder, by Hub id or folder, that the neighbours' distances inside each
            subset are measured with, where the pool has a `knn_<i>` column; its name is part of the design.
        embed (`Callable[[], np.ndarray]`, *optional*): Gives the rows' unit vectors by that encoder.
        request: What [`design_mixtures`] is called with.

    Returns:
        `tuple[Dataset, str | None]`: The mixtures, and what there is to say of a new design.

    Raises:
        [`InstructMineError`]: Where the pool cannot meet the request, or the folder holds another design; names what
            differs.
    """
    records = open_records(folder)
    asked = {**request, "encoder": None if encoder is None else Path(encoder).name, "pool": pool_digest(scored)}
    before = records.read(records.folder / DESIGN)
    if before is not None:
        if changed := differences(before["request"], asked):
            raise InstructMineError(
                f"'{folder}' holds a sweep of another design ({'; '.join(changed)}): choose another output_dir, undo "
                f"the change, or delete that folder, which holds {count(len(records.all()), 'finished run')}"
            )
        try:
            return _read_mixtures(records.folder / MIXTURES), None
        except InstructMineError as error:
            logger.warning("%s", error)
    records.check_unclaimed(MANIFEST, beside=(DESIGN, MIXTURES))
    in_set = any(name.startswith("knn_") for name in scored.column_names)
    embeddings = embed() if embed is not None and in_set else None
    source_column = "source" if "source" in scored.column_names else None
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        mixtures = design_mixtures(scored, embeddings=embeddings, source_column=source_column, **request)
    report = str(design_report(mixtures, scored, embeddings=embeddings, source_column=source_column))
    with records.lock("design", patience=-1):
        other = records.read(records.folder / DESIGN)
        if before is None and other is not None and differences(other["request"], asked):
            raise InstructMineError(f"another process has begun a sweep in '{folder}': choose another output_dir")
        with written_whole(records.folder / MIXTURES) as partial:
            write_parquet(mixtures, partial)
        records.write(records.folder / DESIGN, {"request": asked})
    told = [f"warning: {w.message}" for w in noted if issubclass(w.category, UserWarning)]
    return mixtures, "\n".join([report, *told])


def _read_mixtures(path: Path) -> Dataset:
    from datasets.table import InMemoryTable

    return Dataset(InMemoryTable(read_parquet(path, "they are designed anew, as before")))
