"""Shards scored by actors on the nodes of a Ray cluster, through Ray Data.

A block holds one shard, pickled into one row: Ray Data may cut a block between rows, but not within one, so that what
is computed together is what is computed together here. Read tasks read the rows on the driver's node, where the pool's
files are, as actors ask for them: the nodes need not share a file system, and only what is under way is in memory.
"""

import logging
import os
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from datasets import Dataset, load_from_disk

import hf_instructmine

from ..errors import InstructMineError, not_one_of, one_line
from .base import Indicator


# What a score may depend on.
_VERSIONS = ("torch", "transformers", "tokenizers")
# What an actor may ask for, and what a node calls it.
_AMOUNTS = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
_CONNECT_SECONDS, _ANSWER_SECONDS = 5, 60
_TRIES = 3
_NODE = "ray.io/node-id"
_SMALL = 10_000
_BLOCK = pa.schema({"start": pa.int64(), "content": pa.large_binary(), "error": pa.string()})


@contextmanager
def ray_session(address: str | None = None) -> Iterator[Any]:
    """Connects to a Ray cluster, or starts one on this machine for as long as the block takes.

    Args:
        address (`str`, *optional*): `HOST:PORT` of a cluster that this machine is a node of, or `"auto"` for the one
            that runs here; defaults to `RAY_ADDRESS`. Without either, and where the process is not connected, one is
            started.

    Raises:
        [`InstructMineError`]: Where Ray is not installed, or no cluster is at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise InstructMineError("executor='ray' needs Ray: pip install 'hf-instructmine[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _check_address(address)
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # what Ray raises has many kinds: OSError, ValueError, RuntimeError, its own
        raise InstructMineError(
            f"cannot connect to the Ray cluster '{address}' ({one_line(error, first=True)}): start one, or this "
            "command on one of its nodes"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def ray_shards(
    texts: Dataset,
    indicator: Indicator,
    score: Callable[[dict[str, list], int], pa.Table],
    starts: Sequence[int],
    rows: int,
    address: str | None = None,
    resources: Mapping[str, Any] | None = None,
) -> Iterator[tuple[int, pa.Table]]:
    """Scores shards on a Ray cluster; each comes back as soon as it is finished, in any order.

    Args:
        texts (`Dataset`): The columns that the indicator reads.
        indicator ([`Indicator`]): Decides what an actor takes.
        score (`Callable`): Makes the table of a shard from its batch and its first row. Each actor holds a copy, and
            the model that it loads.
        starts (`Sequence[int]`): The first row of each shard.
        rows (`int`): Of a shard.
        address (`str`, *optional*): See [`ray_session`].
        resources (`Mapping`, *optional*): What an actor takes: `{"num_gpus": 0.5}`, with `num_cpus` and `memory`
            (bytes) likewise; or such a mapping for each of some indicators, by its class or first column. Defaults to
            one GPU for an indicator with a model where the cluster has GPUs, and to one CPU otherwise.

    Yields:
        `tuple[int, pa.Table]`: First row, and the columns and notes of a shard.

    Raises:
        [`InstructMineError`]: Before any shard where there is no cluster, no node with the resources, or a node whose
            versions are others. Later, where a shard cannot be scored; those that came back are complete.
    """
    if not starts:
        return
    with ray_session(address) as ray, _on_disk(texts) as texts:
        need = _needed(indicator, resources, ray.cluster_resources().get("GPU", 0) > 0)
        hosts = _hosts(ray, indicator, need)
        versions, here = _agreed_versions(ray, list(hosts)), ray.get_runtime_context().get_node_id()
        begun = ray.remote(num_cpus=0, label_selector={_NODE: here})(_Begun).remote(_TRIES)
        most = min(sum(hosts.values()), len(starts))
        try:
            with _quiet():
                scored = _stream(ray, texts, starts, rows, here).map_batches(
                    _Scorer,
                    fn_constructor_args=(score, versions, begun),
                    batch_size=1,
                    batch_format="pyarrow",
                    compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=most),
                    **need,
                )
                yield from _finished(scored)
        except _failures() as error:
            cause = getattr(error, "cause", None) or error
            raise InstructMineError(
                f"scoring by Ray stopped ({type(cause).__name__}: {one_line(cause, first=True)}): finished shards are "
                "kept in output_dir, and the same command goes on"
            ) from error


def _finished(scored: Any) -> Iterator[tuple[int, pa.Table]]:
    seen = set()
    for batch in scored.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            if row["error"] is not None:
                raise InstructMineError(row["error"])
            if row["start"] not in seen:  # a node that died may have sent it before
                seen.add(row["start"])
                yield row["start"], pickle.loads(row["content"])


def _stream(ray: Any, texts: Dataset, starts: Sequence[int], rows: int, node: str) -> Any:
    """The shards as a Ray Data dataset of one block each, read when they are asked for, on the driver's node."""
    from ray.data import TaskPoolStrategy
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    pool, count = ray.put(texts), len(texts)

    class Source(Datasource):
        def get_read_tasks(self, parallelism: int, *others: Any, **options: Any) -> list[ReadTask]:
            return [
                ReadTask(partial(_read, pool, count, start, rows), BlockMetadata(1, None, None, None))
                for start in starts
            ]

        def estimate_inmemory_data_size(self) -> None:
            return None

    return ray.data.read_datasource(
        Source(),
        override_num_blocks=len(starts),
        num_cpus=0,
        compute=TaskPoolStrategy(1),  # reading takes no time beside scoring, and each process imports a second
        label_selector={_NODE: node},
    )


_opened: dict[str, Dataset] = {}


def _read(pool: Any, count: int, start: int, rows: int) -> list[pa.Table]:
    import ray

    try:
        texts = _opened.get(pool.hex())
        if texts is None:
            _opened.clear()
            texts = _opened.setdefault(pool.hex(), ray.get(pool))
        if len(texts) != count:
            raise InstructMineError(
                f"the pool has {len(texts)} rows where it had {count}: it changed while it was read"
            )
        return [_block(start, texts[start : start + rows])]
    except (OSError, InstructMineError) as error:
        return [_block(start, None, f"the pool's files cannot be read on the driver's node ({one_line(error)})")]


def _block(start: int, content: Any, error: str | None = None) -> pa.Table:
    return pa.table([[start], [pickle.dumps(content)], [error]], schema=_BLOCK)


class _Scorer:
    """What an actor holds: what scores a shard, with a model that is loaded once."""

    def __init__(self, score: Callable[[dict[str, list], int], pa.Table], versions: Mapping[str, str], begun: Any):
        self.score, self.begun, self.problem = score, begun, _disagreement(versions, _versions())

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Scores the shard of a block."""
        import ray

        (row,) = batch.to_pylist()
        start = row["start"]
        problem = row["error"] or self.problem or ray.get(self.begun.begin.remote(start))
        if problem is not None:
            return _block(start, None, problem)
        try:
            return _block(start, self.score(pickle.loads(row["content"]), start))
        except InstructMineError as error:
            return _block(start, None, str(error))


def _failures() -> tuple[type[Exception], ...]:
    from ray.data.exceptions import ExecutionTimeoutError, SystemException
    from ray.exceptions import RayError

    return RayError, SystemException, ExecutionTimeoutError


class _Begun:
    """Counts how often each shard was begun: one that kills its actor would be tried for ever."""

    def __init__(self, most: int):
        self.most, self.times = most, Counter[int]()

    def begin(self, start: int) -> str | None:
        """Counts one more; says that it is one too many."""
        self.times[start] += 1
        if self.times[start] <= self.most:
            return None
        return (
            f"the shard of row {start} ended its process {self.most} times, for want of memory perhaps: ask for more "
            "of a node, such as resources={'num_cpus': 2}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data says nothing of its own: the bar of the scoring counts the same rows."""
    from ray.data import DataContext

    context, logger = DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, context.print_on_execution_start, logger.level
    context.enable_progress_bars = context.print_on_execution_start = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before[:2]
        logger.setLevel(before[2])


@contextmanager
def _on_disk(texts: Dataset) -> Iterator[Dataset]:
    """The same rows from files, where there are many: what Ray is handed is then where they lie."""
    gone = [file["filename"] for file in texts.cache_files if not os.path.exists(file["filename"])]
    if gone:
        raise InstructMineError(f"'{gone[0]}' is gone, which the pool is read from: load the pool anew")
    if texts.cache_files or len(texts) <= _SMALL:
        yield texts
        return
    with TemporaryDirectory(prefix="instructmine-") as folder:
        texts.save_to_disk(folder)
        yield load_from_disk(folder)


def _check_address(address: str) -> None:
    """Ray itself tries for a minute."""
    if "://" in address:
        raise InstructMineError(
            f"'{address}' is the address of a Ray client, whose cluster cannot read the pool here: start this command "
            "on a node of the cluster, with its HOST:PORT"
        )
    host, colon, port = address.rpartition(":")
    if not colon:
        if address in ("auto", "local"):
            return
        raise InstructMineError(f"'{address}' is no address of a Ray cluster: write HOST:PORT, or 'auto'")
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InstructMineError(
            f"no Ray cluster answers at '{address}' ({one_line(error)}): start one with `ray start --head`, or mend "
            "the address"
        ) from error


def _needed(indicator: Indicator, resources: Mapping[str, Any] | None, gpus: bool) -> dict[str, float]:
    """What an actor of this indicator takes, in the words of `map_batches`."""
    given = dict(resources or {})
    if any(isinstance(amount, Mapping) for amount in given.values()):
        named = [given[name] for name in (type(indicator).__name__, *indicator.names) if name in given]
        given = dict(named[0]) if named else {}
    for name, amount in given.items():
        if name not in _AMOUNTS:
            raise InstructMineError(f"resources: a resource is {not_one_of(name, _AMOUNTS)}")
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount < float("inf"):
            raise InstructMineError(f"resources: {name}={amount!r} is no amount: pass a number above 0")
    return given or ({"num_gpus": 1} if gpus and indicator.source is not None else {"num_cpus": 1})


def _hosts(ray: Any, indicator: Indicator, need: Mapping[str, float]) -> dict[str, int]:
    """How many actors each node has room for, by its id."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    room = {
        node["NodeID"]: int(min(node["Resources"].get(_AMOUNTS[name], 0) / amount for name, amount in need.items()))
        for node in nodes
    }
    if not any(room.values()):
        asked = ", ".join(f"{name}={amount:g}" for name, amount in need.items())
        most = ", ".join(
            f"{name}={max((node['Resources'].get(_AMOUNTS[name], 0) for node in nodes), default=0):g}" for name in need
        )
        raise InstructMineError(
            f"no node of the Ray cluster has {asked}, which {type(indicator).__name__} asks for (the most: {most}): "
            "add such a node, or pass other resources"
        )
    return {node: count for node, count in room.items() if count}


def _versions() -> dict[str, str]:
    found = {"hf-instructmine": hf_instructmine.__version__}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _disagreement(here: Mapping[str, str], there: Mapping[str, str]) -> str | None:
    name = next((name for name in here if there.get(name) != here[name]), None)
    if name is None:
        return None
    return (
        f"a node of the Ray cluster has {name} {there.get(name)}, and this process {here[name]}: scores of both would "
        "be mixed; install the same on all nodes"
    )


def _agreed_versions(ray: Any, nodes: Sequence[str]) -> dict[str, str]:
    """Asks every node that may score for its versions, before anything is scored."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def versions_there(names: Sequence[str]) -> dict[str, str]:  # sent whole: an earlier release has no such function
        from importlib.metadata import PackageNotFoundError, version

        found = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "none"
        try:
            from hf_instructmine import __version__
        except ImportError:
            __version__ = "none"
        return {"hf-instructmine": __version__, **found}

    here, task = _versions(), ray.remote(num_cpus=0)(versions_there)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(_VERSIONS)
        for node in nodes
    ]
    answered, silent = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_SECONDS)
    if silent:
        raise InstructMineError(
            f"{len(silent)} of {len(nodes)} nodes of the Ray cluster did not answer in {_ANSWER_SECONDS} s: look at "
            "`ray status`"
        )
    for there in ray.get(answered):
        problem = _disagreement(here, there)
        if problem is not None:
            raise InstructMineError(problem)
    return here
