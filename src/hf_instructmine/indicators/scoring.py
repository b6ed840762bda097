"""Indicators over a pool, in shards that are each kept once finished: a killed run goes on where it stopped."""

import json
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from tqdm.auto import tqdm

from ..data.containers import as_dataset
from ..data.conversation import check_text_columns, read_turns
from ..data.fields import BESIDE
from ..data.provenance import set_provenance
from ..data.texts import _text_columns
from ..data.unread import describe_unread, unread_columns
from ..errors import InstructMineError
from ..models.rendering import RefusedByTemplateError
from ..outputs.folder import refuse_input, resolved
from .base import Indicator
from .score_shards import Shards
from .scored_folder import Earlier, ScoredFolder


logger = logging.getLogger(__name__)

# A shard is what a kill can lose, and one batch of an indicator: large enough to sort by length within it.
_SHARD_ROWS = 256
_MOST_SHARDS = 2000
# Of the report, beside the columns that were made.
UNREAD = "unread_columns"


def score(
    pool: Any,
    indicators: Indicator | Sequence[Indicator],
    output_dir: str | Path | None = None,
    *,
    num_proc: int = 1,
    overwrite: bool = False,
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
            costs only itself: its column joins those of earlier runs over the same pool. Without it nothing is kept.
        num_proc (`int`, defaults to 1): Processes; each loads its own copy of the model.
        overwrite (`bool`, defaults to `False`): Whether columns of the same name, or another run in `output_dir`,
            may be replaced.

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
    pool = as_dataset(pool, "pool", columns=next((i.columns for i in indicators if i.columns is not None), None))
    pool = _checked_pool(pool, indicators, overwrite)
    unread = _find_unread(pool, indicators)
    for indicator in indicators:
        indicator.check_available()
    folder = None if place is None else ScoredFolder(place, pool, overwrite)
    if folder is not None:
        folder.claim()
    earlier = {} if folder is None else folder.earlier()
    _look_ahead(pool, indicators, earlier, place)
    scored, report, provenance = pool, {}, {}
    for k, indicator in enumerate(indicators):
        indicator.fit(pool)
        configuration = indicator.provenance()
        _check_earlier(earlier, indicator, configuration, place)
        table = _score_one(pool, indicator, configuration, None if folder is None else folder.work, num_proc)
        if indicator.source not in [later.source for later in indicators[k + 1 :]]:
            indicator.release()
        scored = concatenate_datasets([scored, Dataset(table.select(list(indicator.names)))], axis=1)
        provenance.update(dict.fromkeys(indicator.names, configuration))
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
    for columns in {json.dumps(i.columns): i.columns for i in indicators}.values():
        check_text_columns(pool, columns)
        # Every row is read once now: a bad one is better found in seconds than after hours of a model's work.
        names = _text_columns(pool, columns).column_names
        for start in range(0, len(pool), 1000):
            batch = pool[start : start + 1000]
            read_turns({name: batch[name] for name in names}, columns, start)
    return pool


def _tell_refused(pool: Dataset, indicator: Indicator) -> None:
    """Says which rows the chat template refuses before a model runs: they will have no value."""
    chat, refused = indicator.chat(), {}
    if chat is None or chat.tokenizer.chat_template is None:
        return
    texts = _text_columns(pool, indicator.columns)
    with tqdm(total=len(pool), desc="Rendering", unit="row", delay=3) as bar:
        for start in range(0, len(pool), 1000):
            rows = read_turns(texts[start : start + 1000], indicator.columns, start)
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
    by_mapping = {json.dumps(i.columns): i.columns for i in indicators}.values()
    of_each = [set(unread_columns(pool, columns)) for columns in by_mapping]
    unread = [name for name in pool.column_names if all(name in names for names in of_each)]
    if unread:
        logger.warning("%s", describe_unread(unread))
    return unread


def _score_one(
    pool: Dataset, indicator: Indicator, configuration: Mapping[str, Any], work: Path | None, num_proc: int
) -> pa.Table:
    """Scores the shards that are not there yet, keeps each, and returns the columns and the notes of all rows."""
    texts = _text_columns(pool, indicator.columns)
    # Columns count too: the same model makes one or several (perplexity, and IFD beside it), of this text or that.
    # So do those beside the layout, which were not always read.
    beside = [name for name in texts.column_names if name in BESIDE]
    read: list[Any] = [indicator.columns, beside] if beside else [indicator.columns]
    kept = None if work is None else Shards(work, indicator.names, [*read, configuration])
    rows = max(_SHARD_ROWS, -(-len(pool) // _MOST_SHARDS))
    starts = list(range(0, len(pool), rows))
    shards = {} if kept is None else kept.read({start: min(rows, len(pool) - start) for start in starts})
    missing = [start for start in starts if start not in shards]
    with tqdm(
        total=len(pool),
        initial=sum(map(len, shards.values())),
        desc=f"Scoring {', '.join(indicator.names)}",
        unit="row",
    ) as bar:
        for start, shard in _score_shards(texts, indicator, missing, rows, num_proc):
            if kept is not None:
                kept.write(start, shard)
            shards[start] = shard
            bar.update(len(shard))
    return pa.concat_tables([shards[start] for start in starts]).combine_chunks()


def _score_shards(
    texts: Dataset, indicator: Indicator, starts: Sequence[int], rows: int, num_proc: int
) -> Iterator[tuple[int, pa.Table]]:
    if num_proc == 1 or len(starts) < 2:
        for start in starts:
            yield start, _score_rows(indicator, texts[start : start + rows], start)
        return
    try:
        # Spawned, not forked: a fork of a process that used torch's threads or a GPU can hang.
        with _workers(num_proc, indicator) as executor:
            waiting = iter(starts)
            running: dict[Future, int] = {}
            while True:
                for start in islice(waiting, 2 * num_proc - len(running)):
                    part = texts[start : start + rows]
                    with _interrupt_waits():
                        running[executor.submit(_score_rows_in_worker, part, start)] = start
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise InstructMineError(
            "a worker process died, for want of memory perhaps: finished shards are kept in output_dir; use fewer "
            "processes, and in a script `if __name__ == '__main__':`"
        ) from error


@contextmanager
def _workers(count: int, indicator: Indicator) -> Iterator[ProcessPoolExecutor]:
    """Processes that each hold the indicator, and end at once where this one is interrupted."""
    others = active_children()
    with ProcessPoolExecutor(count, get_context("spawn"), _set_worker_indicator, (indicator,)) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                if process not in others:
                    process.terminate()
            raise


@contextmanager
def _interrupt_waits() -> Iterator[None]:
    """Within it Ctrl-C waits. A process that is begun here never gets it, and gets all that it is to be told: it would
    print where it stood otherwise."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # its start, the first time, would let Ctrl-C through
    arrived: list[tuple[int, Any]] = []
    alone = threading.current_thread() is threading.main_thread()
    # The mask is for the new process: here, the signal may reach another thread, and Python then acts in this one.
    handler = signal.signal(signal.SIGINT, lambda *given: arrived.append(given)) if alone else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if arrived and callable(handler):
            handler(*arrived[0])


_worker_indicator: Indicator


def _set_worker_indicator(indicator: Indicator) -> None:
    global _worker_indicator
    _worker_indicator = indicator
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    # It reaches all processes of a terminal: the first ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_the_parent() -> None:
    """A killed parent would leave its workers, and their models, for ever."""
    parent = parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)


def _score_rows_in_worker(batch: dict[str, list], first_row: int) -> pa.Table:
    return _score_rows(_worker_indicator, batch, first_row)


def _score_rows(indicator: Indicator, batch: dict[str, list], first_row: int) -> pa.Table:
    values, notes = indicator.annotate(batch, first_row)
    return pa.table(
        {
            **{name: pa.array(column, pa.float64()) for name, column in values.items()},
            "note": pa.array(notes, pa.string()),
        }
    )


def _count(table: pa.Table, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    notes = Counter(note for note in table["note"].to_pylist() if note)
    nan = {name: int(pa.compute.sum(pa.compute.is_nan(table[name])).as_py() or 0) for name in names}
    return {name: {"rows": len(table), "nan": nan[name], "notes": dict(notes)} for name in names}


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
