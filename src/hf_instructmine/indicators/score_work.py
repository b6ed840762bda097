"""The work on shards: who takes which, and the processes that help. The locks of the shards say it, nothing else."""

import logging
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset
from tqdm import tqdm

from ..data.conversation import read_turns
from ..errors import InstructMineError
from ..outputs.files import writing
from .base import Indicator, ModelIndicator, Ready
from .lengths import ready_together
from .score_shards import Shards
from .shard_sizes import device_of, shard_rows


logger = logging.getLogger(__name__)

_LOOK = 0.25  # seconds between two looks at what others have finished
_FEW = 4  # with so few shards left none is claimed ahead: another process may have nothing to do
_SENT = 10_000  # rows up to which a table in memory is sent to another process as it is
Files = dict[str, tuple[int, int]]
# Shards by their first row, with tables by the number of the indicator.
Made = Generator[tuple[int, dict[int, pa.Table]], None, None]


class Task:
    """Indicators that go through the rows of a pool together, shard by shard. It can be sent to another process.

    Args:
        texts (`Dataset`): What they read: the columns of the texts, and of identical rows one.
        indicators (`Sequence[Indicator]`): Of one mapping of columns.
        shards (`Sequence[Shards]`, *optional*): Where each one's are kept; None: nowhere.
        rows (`int`): Of a shard: what is sorted by length, computed and kept together.
        files (`Mapping`): From [`files_of`] the pool.
    """

    def __init__(
        self,
        texts: Dataset,
        indicators: Sequence[Indicator],
        shards: Sequence[Shards] | None,
        rows: int,
        files: Files,
    ):
        self.texts, self.indicators, self.rows, self.files = texts, list(indicators), rows, files
        self.shards = None if shards is None else list(shards)
        self.sizes = {start: min(rows, len(texts) - start) for start in range(0, len(texts), rows)}

    def found(self) -> list[dict[int, pa.Table]]:
        """The sound shards of each indicator, by their first row."""
        return [{} for _ in self.indicators] if self.shards is None else [s.read(self.sizes) for s in self.shards]

    def begin(self, start: int, members: Sequence[int]) -> list[Ready]:
        """A shard read and made ready for some of the indicators, by their numbers; no model runs."""
        batch = self.texts[start : start + self.rows]
        rows = read_turns(batch, self.indicators[0].columns, start)
        return ready_together([self.indicators[k] for k in members], rows)

    def finish(self, members: Sequence[int], ready: Sequence[Ready]) -> dict[int, pa.Table]:
        """The columns and the notes of a shard that is ready, by the number of the indicator."""
        tables = {}
        for k, rows in zip(members, ready):
            values, notes = self.indicators[k].annotate_ready(rows)
            columns = {name: pa.array(column, pa.float64()) for name, column in values.items()}
            tables[k] = pa.table({**columns, "note": pa.array(notes, pa.string())})
        return tables

    def keep(self, start: int, tables: Mapping[int, pa.Table]) -> None:
        """Writes what was computed of a shard.

        Raises:
            [`InstructMineError`]: Where that fails, or the pool's files have changed since they were first read.
        """
        refuse_changed(self.files)
        for k, table in tables.items():
            if self.shards is not None:
                self.shards[k].write(start, table)


class _Claim(NamedTuple):
    start: int
    members: list[int]
    held: ExitStack


def files_of(pool: Dataset) -> Files:
    """The files that hold a pool, each with its size and when it was written."""
    paths = [Path(file["filename"]) for file in pool.cache_files]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.exists()}


def refuse_changed(files: Files) -> None:
    """Refuses scores of a pool that has become another meanwhile.

    Raises:
        [`InstructMineError`]: Names the file.
    """
    for name, (size, written) in files.items():
        there = Path(name).stat() if Path(name).exists() else None
        if there is None or (there.st_size, there.st_mtime_ns) != (size, written):
            raise InstructMineError(
                f"'{name}' holds rows of the pool, and changed while they were scored: the shard at hand is not kept; "
                "start again"
            )


# --- One process --------------------------------------------------------------------------------------------------


def local_shards(
    task: Task, missing: Mapping[int, Sequence[int]], helpers: "Helpers | None" = None, patient: bool = True
) -> Made:
    """Makes the shards that are missing, together with whoever else works on them.

    Args:
        task ([`Task`]): What is computed.
        missing (`Mapping[int, Sequence[int]]`): The first row of each shard, and the numbers of its indicators.
        helpers ([`Helpers`], *optional*): Whose end is told, and whose errors are raised.
        patient (`bool`, defaults to `True`): Whether to wait for shards that others hold.

    Yields:
        `tuple[int, dict]`: A shard's first row and tables by the number of the indicator, once they are kept; those
        of others too. A shard may come in several parts.

    Raises:
        [`InstructMineError`]: As the indicators do, and where a shard cannot be kept.
    """
    left = {start: set(members) for start, members in missing.items()}
    damaged: set[tuple[int, int]] = set()
    with ThreadPoolExecutor(1) if _overlaps(task) else ExitStack() as entered:
        thread = entered if isinstance(entered, ThreadPoolExecutor) else None
        while left:
            seen, worked = time.monotonic(), False
            # Closed at once where an error comes: what its traceback keeps alive would hold the claims.
            with closing(_computed(task, left, thread)) as computed:
                for start, tables in computed:
                    worked = True
                    yield from _leave(left, start, tables)
                    if helpers is not None:
                        helpers.check()
                    if time.monotonic() - seen > 1:
                        yield from _by_others(task, left, damaged)
                        seen = time.monotonic()
            yield from _by_others(task, left, damaged)
            if left and not worked:
                if not patient:
                    return
                if helpers is not None:
                    helpers.check()
                time.sleep(_LOOK)


def _overlaps(task: Task) -> bool:
    """Whether the next shard is read and tokenised while the model runs: not on a CPU, which both would share."""
    return any(isinstance(one, ModelIndicator) and device_of(one) != "cpu" for one in task.indicators)


def _leave(left: dict[int, set[int]], start: int, tables: dict[int, pa.Table]) -> Made:
    fresh = {k: table for k, table in tables.items() if k in left.get(start, ())}
    if fresh:
        left[start] -= fresh.keys()
        if not left[start]:
            del left[start]
        yield start, fresh


def _by_others(task: Task, left: dict[int, set[int]], damaged: set[tuple[int, int]]) -> Made:
    """What others have written since."""
    for k, shards in enumerate(task.shards or ()):
        there = shards.there()
        for start in [start for start, members in left.items() if k in members and start in there]:
            if (start, k) not in damaged:
                table = shards.read({start: task.sizes[start]}).get(start)
                if table is None:
                    damaged.add((start, k))
                else:
                    yield from _leave(left, start, {k: table})


def _computed(task: Task, left: Mapping[int, set[int]], thread: ThreadPoolExecutor | None) -> Made:
    """The shards that are free, each computed and kept, or found to be there by now."""
    with ExitStack() as held:
        for claim, ready in _begun(task, left, held, thread):
            with claim.held:
                there = {k: table for k in claim.members if (table := _there(task, k, claim.start)) is not None}
                members = [k for k in claim.members if k not in there]
                begun = dict(zip(claim.members, ready())) if members else {}
                tables = task.finish(members, [begun[k] for k in members])
                task.keep(claim.start, tables)
            yield claim.start, {**there, **tables}


def _there(task: Task, k: int, start: int) -> pa.Table | None:
    return None if task.shards is None else task.shards[k].read({start: task.sizes[start]}).get(start)


def _begun(
    task: Task, left: Mapping[int, set[int]], held: ExitStack, thread: ThreadPoolExecutor | None
) -> Iterator[tuple[_Claim, Callable[[], list[Ready]]]]:
    """Shards that are claimed, and how to get them ready; in the thread, one ahead of the model."""
    waiting: tuple[_Claim, Callable[[], list[Ready]]] | None = None
    for claim in _claims(task, left):
        held.push(claim.held)  # given back on an error, by whom ever
        if thread is None or len(left) <= _FEW:
            if waiting is not None:
                yield waiting
                waiting = None
            yield claim, lambda claim=claim: task.begin(claim.start, claim.members)  # type: ignore[misc]
        else:
            for indicator in task.indicators:  # here: a thread has a device of its own
                if isinstance(indicator, ModelIndicator):
                    indicator.load()
            ahead = thread.submit(task.begin, claim.start, claim.members)
            if waiting is not None:
                yield waiting
            waiting = claim, ahead.result
    if waiting is not None:
        yield waiting


def _claims(task: Task, left: Mapping[int, set[int]]) -> Iterator[_Claim]:
    for start in list(left):
        with ExitStack() as stack:
            members = sorted(left.get(start, ()))
            if task.shards is not None:
                members = [k for k in members if stack.enter_context(task.shards[k].claim(start))]
            if members:
                yield _Claim(start, members, stack.pop_all())


# --- Several processes --------------------------------------------------------------------------------------------


class Helpers:
    """Processes that work beside this one, as long as the block lasts; they end with it, whatever ends it.

    Each begins when there is a second shard to be made, and goes through one task after another.

    Args:
        most (`int`): How many there may be.
    """

    def __init__(self, most: int):
        self.most, self.context = most, get_context("spawn")
        # Spawned, not forked: a fork of a process that used torch's threads or a GPU can hang.
        self.running: list[tuple[Any, Any, Any]] = []
        self._folder: TemporaryDirectory | None = None
        self._told: set[int] = set()

    def __enter__(self) -> "Helpers":
        return self

    def __exit__(self, *error: Any) -> None:
        for process, _, _ in self.running:
            process.terminate()  # what it still does, nobody needs: all shards are there, or the call has failed
        for process, tasks, errors in self.running:
            process.join()
            tasks.cancel_join_thread()
            tasks.close()
            errors.close()
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def folder(self) -> Path:
        """A folder that lives as long as they do."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="instructmine-", ignore_cleanup_errors=True)
        return Path(self._folder.name)

    def shard_rows(self, indicator: Indicator, rows: int) -> int:  # noqa: D102
        return shard_rows(indicator, rows)

    def made(self, task: Task, missing: Mapping[int, Sequence[int]]) -> Made:
        """See [`local_shards`]."""
        self.give(task, missing)
        return local_shards(task, missing, self)

    def give(self, task: Task, missing: Mapping[int, Sequence[int]]) -> None:
        """Lets them take part in a task."""
        count = min(self.most, len(missing) - 1)
        if count < 1:
            return
        sent = Task(self._on_disk(task.texts), task.indicators, task.shards, task.rows, task.files)
        while len(self.running) < count:
            tasks, (errors, sender) = self.context.Queue(), self.context.Pipe(duplex=False)
            place = _local_rank() * (self.most + 1) + len(self.running) + 1
            process = self.context.Process(target=_help, args=(tasks, sender, place), daemon=True)
            with _interrupt_waits():
                process.start()
            sender.close()
            self.running.append((process, tasks, errors))
        content = pickle.dumps((sent, dict(missing)))
        for _, tasks, _ in self.running:
            tasks.put(content)

    def check(self) -> None:
        """Says in one line which have died, and raises what one has failed with."""
        for number, (process, _, errors) in enumerate(self.running):
            if number in self._told:
                continue
            error = None
            try:
                error = errors.recv() if errors.poll() else None
            except (EOFError, OSError):  # it ended without a word
                process.join(1)
                self._told.add(number)
                logger.warning(
                    "a process of num_proc died (exit code %s), for want of memory perhaps, or because a script lacks "
                    "`if __name__ == '__main__':`: the others go on with its shards", process.exitcode,
                )  # fmt: skip
            if error is not None:
                raise error

    def _on_disk(self, texts: Dataset) -> Dataset:
        """A table that lies in memory as a file, which another process maps into its own."""
        if texts.cache_files or len(texts) <= _SENT:
            return texts
        path = self.folder / f"{texts._fingerprint}.arrow"
        if path.exists():
            return Dataset.from_file(str(path))
        batches = texts.with_format("arrow").iter(_SENT)
        with writing(path), pa.OSFile(str(path), "wb") as sink:
            first = next(batches)
            with pa.ipc.new_stream(sink, first.schema) as writer:
                writer.write_table(first)
                for batch in batches:
                    writer.write_table(batch)
        return Dataset.from_file(str(path))


def _help(tasks: Any, errors: Any, place: int) -> None:
    """What a helper does."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    # It reaches all processes of a terminal: the first ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # its own is shared by processes, and left behind by one that is ended
    try:
        while True:
            task, missing = pickle.loads(tasks.get())
            take_device(task.indicators, place)
            for _ in local_shards(task, missing, patient=False):
                pass
    except BaseException as error:
        errors.send(_sendable(error))
        threading.Event().wait()  # the parent raises it, and ends this process


def _sendable(error: BaseException) -> BaseException:
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # an exception may be built in any way
        return RuntimeError("".join(traceback.format_exception(error)))


def _end_with_the_parent() -> None:
    """A killed parent would leave its workers, and their models, for ever."""
    parent = parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)


def _local_rank() -> int:
    """Which of the processes this is that `accelerate launch`, torchrun or Slurm has started on this machine."""
    number = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
    return int(number) if number.isdecimal() else 0


def is_main_process() -> bool:
    """Whether this is the first of the processes that a launcher has started, on all machines."""
    return (os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0") == "0"


def take_device(indicators: Sequence[Indicator], place: int | None = None, processes: int = 1) -> None:
    """Lets a process compute on the accelerator of its own, of several: that of its place modulo their number.

    Indicators that name a device keep it. What is recorded beside a column does not depend on it.

    Args:
        indicators (`Sequence[Indicator]`): Where none has a model, nothing is done.
        place (`int`, *optional*): Of the process; by default that which a launcher has given it, if one has.
        processes (`int`, defaults to 1): That each launched process is, with its helpers.
    """
    launched = "LOCAL_RANK" in os.environ or "SLURM_LOCALID" in os.environ
    if (place is None and not launched) or not any(isinstance(i, ModelIndicator) for i in indicators):
        return
    import torch

    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if count > 1:
        torch.accelerator.set_device_index((_local_rank() * processes if place is None else place) % count)


@contextmanager
def _interrupt_waits() -> Iterator[None]:
    """Within it Ctrl-C waits. A process that is begun here never gets it, and gets all that it is to be told: it would
    print where it stood otherwise."""
    if sys.platform == "win32":
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
