"""`selection.json` and `predictions.parquet`: what a saved selection is reopened from.

The first holds all of a [`SelectionRecord`] that is neither a table, the rule nor a figure, with a checksum. The
second has each row of the pool, with its prediction and its place in the selection.
"""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from ..errors import InstructMineError, one_line
from ..estimator import file as estimator_file
from ..estimator.estimator import LossEstimator
from ..outputs.digests import digest
from ..outputs.files import parquet_writer, write_parquet
from ..outputs.markdown import PARQUET_FILE, CardSection
from ..outputs.reading import read_json
from ..outputs.shards import ROWS_IN_GROUP, shards_in
from .decisions import DECISIONS_FILE, SELECTED, Decisions
from .preference import Preference
from .record import LOG_LOSS, SelectionRecord, SourceCount


RECORD_FILE, PREDICTIONS_FILE = "selection.json", "predictions.parquet"
RANKED_BY = "ranked_by"  # the column of the second where a strategy chose
FORMAT = "hf-instructmine/selection"
SCHEMA_VERSION = 1
# Fields that are plain data; the others are tables, the rule, and what `_content` makes of them.
PLAIN = (
    "asked", "options", "duplicates_checked", "leverage", "skipped_far", "skipped", "contaminated", "unread",
    "license", "source_datasets", "set_log_loss", "languages", "pretty_name", "source_licenses", "notes", "tokens",
    "num_bytes", "examples",
)  # fmt: skip
# Of these, what earlier versions did not write: a record without it says nothing of it.
LATER = PLAIN[PLAIN.index("languages") :]
_PIECE = 2**16  # rows of the pool that are written at a time
_FIGURE = re.compile(r"\w[\w.-]*\.png")


def write(record: SelectionRecord, folder: Path, rows: bool = True) -> None:
    """Writes the rows, the rule, the figures of sections, and the two files above.

    Args:
        record ([`SelectionRecord`]): What is written.
        folder (`Path`): Where to.
        rows (`bool`, *optional*, defaults to `True`): Whether the rows are written too, and not apart in shards.
    """
    if rows:
        (folder / PARQUET_FILE).parent.mkdir()
        write_parquet(record.dataset, folder / PARQUET_FILE, ROWS_IN_GROUP)
    if record.estimator is not None:  # the rule alone: its own card would be in the way of the selection's
        content = estimator_file.content_of(record.estimator)
        (folder / estimator_file.FILE_NAME).write_text(estimator_file.dumps(content), "utf-8")
    _write_predictions(record, folder / PREDICTIONS_FILE)
    if record.decisions is not None:
        record.decisions.save(folder)
    content = _content(record)
    text = json.dumps({**content, "checksum": digest(content)}, indent=2, ensure_ascii=False)
    (folder / RECORD_FILE).write_text(text + "\n", "utf-8")
    for section in record.sections:
        for name, png in section.figures.items():
            (folder / name).write_bytes(png)


def read(folder: str | Path) -> dict[str, Any]:
    """Reads what [`write`] wrote, as the fields of a [`SelectionRecord`].

    Raises:
        [`InstructMineError`]: Where the folder holds no selection, one of an earlier or a newer version, or one that
            is damaged; names the file.
    """
    folder = Path(folder)
    has_record, has_rule = ((folder / name).is_file() for name in (RECORD_FILE, estimator_file.FILE_NAME))
    if not shards_in(folder) or not (has_record or has_rule):
        raise InstructMineError(
            f"'{folder}' holds no selection: give a folder that `instructmine select` or save_to_disk wrote"
        )
    if not has_record:
        raise InstructMineError(
            f"'{folder}' was saved by an earlier version, which kept no {RECORD_FILE} to reopen it from: select again"
        )
    content = _read_record(folder)
    if "strategy" not in content and not has_rule:
        raise InstructMineError(
            f"'{folder}' holds no selection that is whole: its {estimator_file.FILE_NAME} is missing; select again"
        )
    rule = None if "strategy" in content else LossEstimator.from_pretrained(folder)
    try:
        return {**_fields(content, folder), **_tables(folder, rule is not None), "estimator": rule}
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:  # pyarrow's errors are among them
        raise InstructMineError(f"the selection in '{folder}' is damaged ({one_line(error)}): select again") from error


def _content(record: SelectionRecord) -> dict[str, Any]:
    content = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        **{name: getattr(record, name) for name in PLAIN},
        "total": asdict(record.total),
        "sources": [asdict(source) for source in record.sources],
        "sections": [{**vars(section), "figures": list(section.figures)} for section in record.sections],
        **({} if record.strategy is None else {"strategy": asdict(record.strategy)}),
    }
    return json.loads(json.dumps(content))


def _write_predictions(record: SelectionRecord, path: Path) -> None:
    """What each row of the pool was ranked by and its place in the selection, in pieces: no table is as long."""
    import pyarrow as pa

    ranked_by = LOG_LOSS if record.strategy is None else RANKED_BY
    order = np.argsort(record.indices)
    rows = record.indices[order]
    schema = pa.schema({ranked_by: pa.float64(), "place": pa.int64()})
    with parquet_writer(path, schema, use_dictionary=False) as file:
        for start in range(0, max(len(record.pool_log_loss), 1), _PIECE):
            values = record.pool_log_loss[start : start + _PIECE]
            first, last = np.searchsorted(rows, [start, start + len(values)])
            places = np.full(len(values), -1, dtype=np.int64)
            places[rows[first:last] - start] = order[first:last]
            columns = [pa.array(values, pa.float64()), pa.array(places, mask=places < 0)]
            file.write_table(pa.table(columns, schema=schema))


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD_FILE
    try:
        content = read_json(path, "select again")
        checksum = content.pop("checksum")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):  # not JSON, or JSON of another shape
        content = checksum = None
    if not isinstance(content, dict) or content.get("format") != FORMAT or checksum != digest(content):
        raise InstructMineError(f"'{path}' is damaged or was changed by hand: select again, or restore it")
    if content["schema_version"] != SCHEMA_VERSION:
        raise InstructMineError(
            f"'{path}' has schema version {content['schema_version']!r}; this hf-instructmine reads {SCHEMA_VERSION}: "
            "upgrade it"
        )
    return content


def _fields(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    fields = {name: content[name] for name in PLAIN if name in content or name not in LATER}
    # JSON knows no tuples, and the card shows what was asked for as Python does.
    options = fields["options"]
    if "quotas" in options:
        options["quotas"] = {source: tuple(bounds) for source, bounds in options["quotas"].items()}
    if "embeddings" in options:
        options["embeddings"] = tuple(options["embeddings"])
    return {
        **fields,
        "total": SourceCount(**content["total"]),
        "sources": [SourceCount(**source) for source in content["sources"]],
        "sections": [_section(section, folder) for section in content["sections"]],
        "strategy": _strategy(content["strategy"]) if "strategy" in content else None,
    }


def _strategy(content: dict[str, Any]) -> Preference:
    return replace(Preference.parse(content["what"], int(content["seed"])), name=str(content["name"]))


def _section(content: dict[str, Any], folder: Path) -> CardSection:
    for name in content["figures"]:
        if not _FIGURE.fullmatch(name):  # which could lead out of the folder
            raise ValueError(f"{name!r:.80} is no name of a figure")
    figures = {name: (folder / name).read_bytes() for name in content["figures"]}
    return CardSection(**{**content, "figures": figures})


def _tables(folder: Path, predicted: bool) -> dict[str, Any]:
    import pyarrow.parquet as pq
    from datasets.table import InMemoryTable

    # Not by load_dataset, which caches by the folder's name and might give the rows of an earlier selection.
    dataset = concatenate_datasets(
        [Dataset(InMemoryTable(pq.ParquetFile(shard).read())) for shard in shards_in(folder)]
    )
    predictions = pq.ParquetFile(folder / PREDICTIONS_FILE).read()
    log_loss = predictions[LOG_LOSS if predicted else RANKED_BY].to_numpy()
    places = predictions["place"].to_numpy()  # NaN where a row was not selected
    indices = np.flatnonzero(~np.isnan(places))
    indices = indices[np.argsort(places[indices], kind="stable")]
    same = np.array_equal(dataset[LOG_LOSS][:], log_loss[indices]) if predicted else len(dataset) == len(indices)
    if not same:
        raise ValueError(f"{PARQUET_FILE} and {PREDICTIONS_FILE} do not belong together")
    decisions = Decisions.load(folder)
    if decisions is not None:
        known = len(decisions.codes) == len(log_loss)
        if not known or not np.array_equal(decisions.of(SELECTED), np.sort(indices)):
            raise ValueError(f"{DECISIONS_FILE} and {PREDICTIONS_FILE} do not belong together")
    return {"dataset": dataset, "indices": indices, "pool_log_loss": log_loss, "decisions": decisions}
