"""Indicators over a pool, in shards that are each kept once finished: a killed run goes on where it stopped."""

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from tqdm.auto import tqdm

from ..data.containers import as_dataset
from ..data.conversation import check_text_columns, read_turns
from ..data.fields import BESIDE
from ..data.provenance import set_provenance
from ..data.texts import _text_columns, first_alike
from ..data.unread import describe_unread, unread_columns
from ..errors import InstructMineError
from ..models.rendering import RefusedByTemplateError
from ..outputs.digests import fast_digest, row_digest
from ..outputs.folder import refuse_input, resolved
from .base import Indicator
from .ray_scoring import RayCluster
from .score_shards import Shards
from .score_work import (
    Files,
    Helpers,
    Task,
    files_of,
    is_main_process,
    refuse_changed,
    take_device,
)
from .scored_folder import Earlier, ScoredFolder
from .shard_sizes import most_work_first, shard_rows


logger = logging.getLogger(__name__)

# Rows that are looked at together before the work.
_CHUNK = 1000
# Of the report, beside the columns that were made.
UNREAD = "unread_columns"


def score(
    pool: Any,
    indicators: Indicator | Sequence[Indicator],
    output_dir: str | Path | None = None,
    *,
    num_proc: int = 1,
    overwrite: bool = False,
    executor: str = "local",
    address: str | None = None,
    resources: Mapping[str, Any] | None = None,
) -> Dataset:
    """Scores every row of a pool with every indicator.

    Args:
        pool (`Dataset`, or what else [`as_dataset`] takes): Instruction examples in any layout that [`read_turns`]
            knows.
        indicators ([`Indicator`] or `Sequence[Indicator]`): Run one after another; each is fitted to the
            pool first where it needs to.
        output_dir (`str` or `Path`, *optional*): Folder for the scored pool (Parquet, which `load_dataset` opens),
            `indicators.json` (each column's configuration) and `report.json` (what was truncated, empty or NaN, and
            under `unread_columns` which columns of a known meaning are not read, where there are some).
            Finished shards are kept there: a rerun after a kill scores only what is missing, and another indicator
            costs only itself: its column joins those of earlier runs over the same pool. The same call in several
            processes, on one machine or on several that share the folder, divides the shards among them: each is
            scored once, those of one that died by the others, and all return the same. Without it nothing is kept.
        num_proc (`int`, defaults to 1): Processes, this one among them, that work on the shards of all indicators;
            each loads its own copy of a model. Of several GPUs each takes its own.
        overwrite (`bool`, defaults to `False`): Whether columns of the same name, or another run in `output_dir`,
            may be replaced.
        executor (`str`, defaults to `"local"`): `"local"`, or `"ray"`: actors on the nodes of a Ray cluster.
        address (`str`, *optional*): `HOST:PORT` of the Ray cluster, or `"auto"` for the one that runs here; by default
            `RAY_ADDRESS`, else one is started.
        resources (`Mapping`, *optional*): What an actor of Ray takes: `{"num_gpus": 0.5}`, or such a mapping for each
            indicator by its name. By default a GPU for one with a model where there are some, else a CPU.

    Returns:
        `Dataset`: The pool with one float64 column per indicator name; a row that cannot be scored has NaN. Each
        column's configuration is recorded in its feature ([`get_provenance`]).

    Raises:
        [`InstructMineError`]: Before any model loads, where the pool, a column or the folder is not fit for the work,
            or the model of any indicator is not there.

    Example:

    ```python
    >>> scored = him.score(him.load_sample_pool(), him.MTLD())
    >>> scored.column_names
    ['instruction', 'input', 'output', 'source', 'mtld']
    ```
    """
    indicators = _checked_indicators(indicators)
    place = None if output_dir is None else _folder_beside(pool, output_dir)
    if num_proc < 1:
        raise InstructMineError(f"num_proc={num_proc} scores nothing: it is the number of processes, 1 or more")
    crew = Helpers(num_proc - 1)
    if executor != "local" or address is not None or resources is not None:
        crew = RayCluster.of(executor, num_proc, address, resources, indicators)
    pool = as_dataset(pool, "pool", columns=next((i.columns for i in indicators if i.columns is not None), None))
    pool = _checked_pool(pool, indicators, overwrite)
    rows = read_rows(pool, indicators, place is not None)
    unread = _find_unread(pool, indicators)
    for indicator in indicators:
        indicator.check_available()
    folder = None if place is None else ScoredFolder(place, pool, rows.digest, overwrite)
    if folder is not None:
        folder.claim()
    earlier = {} if folder is None else folder.earlier()
    _look_ahead(pool, indicators, earlier, place)
    tables, provenance = _score_all(pool, indicators, earlier, folder, rows, crew)
    scored, report = pool, {}
    for indicator in indicators:
        table = tables[indicator.names]
        scored = concatenate_datasets([scored, Dataset(table.select(list(indicator.names)))], axis=1)
        report.update(_count(table, indicator.names))
    if folder is None:
        scored = set_provenance(scored, provenance)
    else:
        check = partial(_check_all, indicators, provenance, place)
        scored, report = folder.join(scored, provenance, report, {UNREAD: unread} if unread else {}, check)
    for name, counts in report.items():
        if counts["nan"] or counts["notes"]:
            logger.warning("%s", describe_counts(name, counts))
    return scored


def _score_all(
    pool: Dataset,
    indicators: Sequence[Indicator],
    earlier: Earlier,
    folder: ScoredFolder | None,
    rows: "Rows",
    crew: Helpers,
) -> tuple[dict[tuple[str, ...], pa.Table], dict[str, Any]]:
    """Columns and notes by the names of an indicator's columns, and the configuration of each column."""
    tables, provenance = {}, {}
    take_device(indicators, processes=crew.most + 1)
    with crew as helpers:
        work = folder.work if folder is not None else helpers.folder if helpers.most else None
        for group in _groups(indicators):
            for indicator in group:
                indicator.fit(pool)
                provenance.update(dict.fromkeys(indicator.names, indicator.provenance()))
                _check_earlier(
                    earlier, indicator, provenance[indicator.names[0]], None if folder is None else folder.folder
                )
            tables.update(_score_group(pool, group, provenance, work, rows, helpers))
            for indicator in group:
                if indicator.source not in [i.source for i in indicators[indicators.index(group[-1]) + 1 :]]:
                    indicator.release()
    refuse_changed(rows.files)
    return tables, provenance


def _look_ahead(pool: Dataset, indicators: Sequence[Indicator], earlier: Earlier, folder: Path | None) -> None:
    """What is better known before hours of work than after."""
    for indicator in indicators:
        if any(name in earlier for name in indicator.names):
            _check_earlier(earlier, indicator, indicator.provenance(), folder, fitted=False)
        else:
            _tell_refused(pool, indicator)


def _check_all(
    indicators: Sequence[Indicator], provenance: Mapping[str, Any], folder: Path | None, earlier: Earlier
) -> None:
    for indicator in indicators:
        _check_earlier(earlier, indicator, provenance[indicator.names[0]], folder)


def _folder_beside(pool: Any, output_dir: str | Path) -> Path:
    listed = pool if isinstance(pool, list | tuple) else [pool]
    refuse_input(output_dir, [source for source in listed if isinstance(source, str | Path)])
    return resolved(output_dir)


def describe_counts(name: str, counts: Mapping[str, Any]) -> str:
    """One line on a column: how many rows have no value, and what happened to which rows."""
    notes = ", ".join(f"{count} {note}" for note, count in sorted(counts["notes"].items()))
    return f"{name}: {counts['rows']} rows, {counts['nan']} without a value" + (f" ({notes})" if notes else "")


def _checked_indicators(indicators: Indicator | Sequence[Indicator]) -> list[Indicator]:
    listed = [indicators] if isinstance(indicators, Indicator | type) else list(indicators)
    for indicator in listed:
        if isinstance(indicator, type):
            raise InstructMineError(f"{indicator.__name__} is a class: pass one of its kind, e.g. [MTLD()]")
        if not isinstance(indicator, Indicator):
            raise InstructMineError(f"{indicator!r:.60} is no indicator: pass some, e.g. [MTLD()]")
    if not listed:
        raise InstructMineError("no indicator was given: pass at least one, e.g. [MTLD()]")
    return listed


def _checked_pool(pool: Dataset, indicators: Sequence[Indicator], overwrite: bool) -> Dataset:
    names = [name for indicator in indicators for name in indicator.names]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InstructMineError(f"two indicators make the column '{twice[0]}': score them in two pools")
    taken = [name for name in names if name in pool.column_names]
    if taken and not overwrite:
        raise InstructMineError(
            f"the pool has a column '{taken[0]}' already: remove it, or pass overwrite=True to replace it"
        )
    pool = pool.remove_columns(taken)
    for columns in _mappings(indicators).values():
        check_text_columns(pool, columns)
    return pool


def _mappings(indicators: Sequence[Indicator]) -> dict[str, Any]:
    """Which column is which, for each indicator that has it otherwise."""
    return {json.dumps(i.columns): i.columns for i in indicators}


class Rows(NamedTuple):
    """What is known of a pool before it is scored.

    Attributes:
        digest (`str`): Of all its columns, as [`pool_digest`]; empty where it was not asked for.
        copies (`dict[str, np.ndarray]`): By mapping of columns: the number `(rows,)` of the first row that reads
            alike.
        files (`dict`): From [`files_of`], before it was read.
    """

    digest: str
    copies: dict[str, np.ndarray]
    files: Files


def read_rows(pool: Dataset, indicators: Sequence[Indicator], digested: bool) -> Rows:
    """Reads every row once: a bad one is better found in seconds than after hours of a model's work.

    Args:
        pool (`Dataset`): The rows.
        indicators (`Sequence[Indicator]`): Who will read them.
        digested (`bool`): Whether the digest of the whole pool is needed.

    Raises:
        [`InstructMineError`]: Names the row that cannot be read.
    """
    mappings, files = _mappings(indicators), files_of(pool)
    names = {key: _text_columns(pool, columns).column_names for key, columns in mappings.items()}
    digests = {key: np.zeros((len(pool), 16), np.uint8) for key in mappings}
    read = pool if digested else pool.select_columns(sorted({name for listed in names.values() for name in listed}))
    encode = json.JSONEncoder(default=str).encode

    def parts() -> Iterator[str]:
        yield json.dumps(pool.column_names)
        with tqdm(total=len(pool), desc="Reading the pool", unit="row", delay=3, disable=_quiet()) as bar:
            for start in range(0, len(pool), _CHUNK):
                batch = read[start : start + _CHUNK]
                for key, columns in mappings.items():
                    read_turns({name: batch[name] for name in names[key]}, columns, start)
                cells = {name: [encode(value) for value in values] for name, values in batch.items()}
                for key, listed in names.items():
                    found = b"".join(row_digest("\0".join(row)) for row in zip(*(cells[name] for name in listed)))
                    digests[key][start : start + _CHUNK] = np.frombuffer(found, np.uint8).reshape(-1, 16)
                if digested:  # as `json.dumps` writes the batch
                    columns_as_text = (f"{encode(name)}: [{', '.join(values)}]" for name, values in cells.items())
                    yield "{" + ", ".join(columns_as_text) + "}"
                bar.update(len(batch[next(iter(batch))]))

    digest = fast_digest(parts())
    return Rows(digest if digested else "", {key: first_alike(found) for key, found in digests.items()}, files)


def _quiet() -> bool:
    """Of several processes that were launched together the first shows how far all are."""
    return not is_main_process()


def _tell_refused(pool: Dataset, indicator: Indicator) -> None:
    """Says which rows the chat template refuses before a model runs: they will have no value."""
    chat, refused = indicator.chat(), {}
    if chat is None or chat.tokenizer.chat_template is None:
        return
    texts = _text_columns(pool, indicator.columns)
    with tqdm(total=len(pool), desc="Rendering", unit="row", delay=3, disable=_quiet()) as bar:
        for start in range(0, len(pool), _CHUNK):
            rows = read_turns(texts[start : start + _CHUNK], indicator.columns, start)
            for row, turns in enumerate(rows, start):
                try:
                    for turn in turns if indicator.turns == "all" else turns[-1:]:
                        if turn.problem is None:
                            chat.check(turn)
                except RefusedByTemplateError as error:
                    refused[row] = str(error)
            bar.update(len(rows))
    if refused:
        first = min(refused)
        logger.warning(
            "%s: %d of %d rows will have no value, the first of them row %d: %s",
            indicator.names[0], len(refused), len(pool), first, refused[first],
        )  # fmt: skip


def _find_unread(pool: Dataset, indicators: "Sequence[Indicator]") -> list[str]:
    """The columns that no indicator reads though they carry text or meaning, in the pool's order."""
    of_each = [set(unread_columns(pool, columns)) for columns in _mappings(indicators).values()]
    unread = [name for name in pool.column_names if all(name in names for names in of_each)]
    if unread:
        logger.warning("%s", describe_unread(unread))
    return unread


def _groups(indicators: Sequence[Indicator]) -> list[list[Indicator]]:
    """Which indicators go through the rows together: those without a model that read the same columns."""
    groups: dict[Any, list[Indicator]] = {}
    for number, indicator in enumerate(indicators):
        groups.setdefault(json.dumps(indicator.columns) if indicator.cheap else number, []).append(indicator)
    return list(groups.values())


class _Way(NamedTuple):
    """How an indicator's scores are cut and kept."""

    shards: Shards | None
    rows: int
    copies: bool


def _score_group(
    pool: Dataset,
    group: Sequence[Indicator],
    provenance: Mapping[str, Any],
    work: Path | None,
    rows: Rows,
    helpers: Helpers,
) -> dict[tuple[str, ...], pa.Table]:
    """The columns and the notes of all rows, by the names of the columns."""
    texts, first = _text_columns(pool, group[0].columns), rows.copies[json.dumps(group[0].columns)]
    distinct = np.flatnonzero(first == np.arange(len(first)))
    ways = [_way(i, texts, provenance[i.names[0]], work, rows.digest, len(distinct), helpers) for i in group]
    made = {}
    for rows_of_shard, copies in dict.fromkeys((way.rows, way.copies) for way in ways):
        members = [k for k, way in enumerate(ways) if (way.rows, way.copies) == (rows_of_shard, copies)]
        scored = [group[k] for k in members]
        kept = [shards for k in members if (shards := ways[k].shards) is not None]
        alike = not copies and len(distinct) < len(pool)
        task = Task(texts.select(distinct) if alike else texts, scored, kept or None, rows_of_shard, rows.files)
        tables = _score_task(task, helpers)
        for indicator in scored:
            table = tables.pop(0)  # what is taken from goes at once: two tables of a pool are one too many
            made[indicator.names] = table.take(np.searchsorted(distinct, first)) if alike else table
    return made


def _way(
    indicator: Indicator,
    texts: Dataset,
    configuration: Mapping[str, Any],
    work: Path | None,
    pool: str,
    distinct: int,
    helpers: Helpers,
) -> _Way:
    """Where its shards are, of how many rows, and whether identical rows are in them."""
    if work is None:
        return _Way(None, helpers.shard_rows(indicator, distinct), False)
    # Columns count too: the same model makes one or several (perplexity, and IFD beside it), of this text or that.
    # So do those beside the layout, which were not always read.
    beside = [name for name in texts.column_names if name in BESIDE]
    read: list[Any] = [indicator.columns, beside] if beside else [indicator.columns]
    earlier = Shards(work, indicator.names, [*read, configuration])
    if earlier.begun:  # of an earlier version, which scored identical rows one by one
        return _Way(earlier, shard_rows(None, len(texts)), True)
    shards = Shards(work, indicator.names, [*read, configuration, {"pool": pool}])
    rows = shards.layout(
        lambda: helpers.shard_rows(indicator, distinct),
        indicator.libraries,
        lambda rows: shards.there() >= {*range(0, distinct, rows)},
    )
    return _Way(shards, rows, False)


def _score_task(task: Task, helpers: Helpers) -> list[pa.Table]:
    """The columns and the notes of each of a task's indicators."""
    found = task.found()
    missing = {
        start: members for start in task.sizes if (members := [k for k, f in enumerate(found) if start not in f])
    }
    with (
        tqdm(
            total=len(task.texts),
            initial=sum(size for start, size in task.sizes.items() if start not in missing),
            desc=f"Scoring {', '.join(name for indicator in task.indicators for name in indicator.names)}",
            unit="row",
            disable=_quiet(),
        ) as bar,
        closing(helpers.made(task, most_work_first(missing, task.texts, task.rows, task.indicators))) as shards,
    ):
        for start, tables in shards:
            for k, table in tables.items():
                found[k][start] = table
            if all(start in tables for tables in found):
                bar.update(task.sizes[start])
    return [pa.concat_tables([tables.pop(start) for start in task.sizes]).combine_chunks() for tables in found]


def _count(table: pa.Table, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    counted = pa.compute.value_counts(table["note"].drop_null()).to_pylist()
    notes = {entry["values"]: entry["counts"] for entry in counted if entry["values"]}
    nan = {name: int(pa.compute.sum(pa.compute.is_nan(table[name])).as_py() or 0) for name in names}
    return {name: {"rows": len(table), "nan": nan[name], "notes": notes} for name in names}


def _check_earlier(
    earlier: Mapping, indicator: Indicator, configuration: Mapping, folder: Path | None, fitted: bool = True
) -> None:
    """Refuses a column that an earlier run made otherwise; before it is `fitted`, an indicator may not know all of its
    configuration."""
    for name in indicator.names:
        before = earlier[name][0] if name in earlier else configuration
        known = {*before, *configuration} if fitted else configuration
        keys = sorted(key for key in known if before.get(key) != configuration.get(key))
        if keys:
            there, now = (", ".join(f"{key}={c.get(key)!r}" for key in keys) for c in (before, configuration))
            raise InstructMineError(
                f"'{folder}' holds a column '{name}' that was made otherwise (there: {there}; now: {now}): "
                "choose another output_dir, or pass overwrite=True"
            )


if __name__ == "__main__":  # accelerate launch -m hf_instructmine.indicators.scoring: what launches modules
    sys.exit(import_module("hf_instructmine.cli.main").main(["score", *sys.argv[1:]]))
