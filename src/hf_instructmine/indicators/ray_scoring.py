"""Shards scored by actors on the nodes of a Ray cluster, through Ray Data.

A block holds one shard, pickled into one row: Ray Data may cut a block between rows, but not within one, so that what
is computed together is what is computed together here. Read tasks read the rows on the driver's node, where the pool's
files are, as actors ask for them: the nodes need not share a file system, and only what is under way is in memory.
"""

import logging
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, cast

import pyarrow as pa
from datasets import Dataset

from ..errors import InstructMineError, not_one_of, one_line
from ..outputs.ray_cluster import check_address, import_ray, ray_session
from .base import Indicator
from .score_work import Helpers, Made, Task
from .shard_sizes import shard_rows


EXECUTORS = ("local", "ray")
# What an actor may ask for, and what a node calls it.
_AMOUNTS = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
_ANSWER_SECONDS = 60
_TRIES = 3
_NODE = "ray.io/node-id"
_BLOCK = pa.schema({"start": pa.int64(), "content": pa.large_binary(), "error": pa.string()})


class RayCluster(Helpers):
    """The nodes of a Ray cluster, which make shards in place of this process; as [`Helpers`], a block long.

    The cluster is connected to, or started, when there is a shard to be made.

    Args:
        address (`str`, *optional*): See [`ray_session`]; without one, and without `RAY_ADDRESS`, one is started.
        resources (`Mapping`, *optional*): What an actor takes: `{"num_gpus": 0.5}`, with `num_cpus` and `memory`
            (bytes) likewise; or such a mapping for each of some indicators, by its class or first column. Defaults to
            one GPU for an indicator with a model where the cluster has GPUs, and to one CPU otherwise.

    Raises:
        [`InstructMineError`]: Where Ray is not installed, or nothing answers at the address.
    """

    def __init__(self, address: str | None = None, resources: Mapping[str, Any] | None = None):
        super().__init__(0)
        self.address, self.resources = address or os.environ.get("RAY_ADDRESS"), dict(resources or {})
        _check_resources(self.resources)
        import_ray()
        if self.address is not None:
            check_address(self.address)
        self._session = ExitStack()
        self._agreed: dict[str, dict[str, str]] = {}

    @classmethod
    def of(
        cls,
        executor: str,
        num_proc: int,
        address: str | None,
        resources: Mapping[str, Any] | None,
        indicators: Sequence[Indicator],
    ) -> "RayCluster":
        """The same from the arguments of a call, some of which may contradict each other."""
        if executor not in EXECUTORS:
            raise InstructMineError(f"executor must be {not_one_of(executor, EXECUTORS)}")
        if executor != "ray":
            raise InstructMineError("address and resources are of a Ray cluster: pass executor='ray' too")
        if num_proc > 1:
            raise InstructMineError(f"num_proc={num_proc} is of executor='local': Ray takes all that a cluster has")
        workers = cls(address, resources)
        known = dict.fromkeys(name for i in indicators for name in (type(i).__name__, *i.names))
        for name in workers.resources if _is_named(workers.resources) else ():
            if name not in known:
                raise InstructMineError(f"resources: an indicator of this call is {not_one_of(name, known)}")
        return workers

    def __exit__(self, *error: Any) -> None:
        self._session.close()
        super().__exit__(*error)

    def shard_rows(self, indicator: Indicator, rows: int) -> int:
        """See [`shard_rows`]: what the actors compute on counts, not what this machine has."""
        return shard_rows(indicator, rows, "num_gpus" in self._needed([indicator]))

    def made(self, task: Task, missing: Mapping[int, Sequence[int]]) -> Made:
        """Makes shards; each comes back, and is kept, as soon as it is finished, in any order.

        Args:
            task ([`Task`]): What is computed. Each actor holds a copy of its indicators, and the model it loads.
            missing (`Mapping[int, Sequence[int]]`): The first row of each shard, and the numbers of its indicators.

        Raises:
            [`InstructMineError`]: Before any shard where there is no node with the resources, or one whose versions
                are others. Later, where a shard cannot be scored; those that came back are kept.
        """
        if not missing:
            return
        ray, need = self._ray(), self._needed(task.indicators)
        hosts = _hosts(ray, task.indicators, need)
        versions = self._agreed_versions(task, list(hosts))
        here, most = ray.get_runtime_context().get_node_id(), min(sum(hosts.values()), len(missing))
        alone = Task(Dataset.from_dict({}), task.indicators, None, task.rows, {})
        begun = ray.remote(num_cpus=0, label_selector={_NODE: here})(_Begun).remote(_TRIES)
        try:
            with _quiet():
                scored = _stream(ray, self._on_disk(task.texts), task.rows, missing, here).map_batches(
                    _Scorer,
                    fn_constructor_args=(alone, versions, begun),
                    batch_size=1,
                    batch_format="pyarrow",
                    compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=most),
                    **need,
                )
                for start, tables in _finished(scored):
                    task.keep(start, tables)
                    yield start, tables
        except _failures() as error:
            cause = getattr(error, "cause", None) or error
            raise InstructMineError(
                f"scoring by Ray stopped ({type(cause).__name__}: {one_line(cause, first=True)}): finished shards are "
                "kept in output_dir, and the same command goes on"
            ) from error

    def _ray(self) -> Any:
        ray = import_ray()
        return ray if ray.is_initialized() else self._session.enter_context(ray_session(self.address or "local"))

    def _needed(self, indicators: Sequence[Indicator]) -> dict[str, float]:
        """What an actor of these takes, in the words of `map_batches`."""
        has_model = any(indicator.source is not None for indicator in indicators)
        found: dict[str, float] = {}
        for indicator in indicators:
            for name, amount in _given(indicator, self.resources).items():
                found[name] = max(amount, found.get(name, 0))
        if not found:
            found = {"num_gpus" if has_model and self._ray().cluster_resources().get("GPU") else "num_cpus": 1}
        return found

    def _agreed_versions(self, task: Task, nodes: Sequence[str]) -> dict[str, str]:
        """Those here, once every node that may score has the same, before anything is scored."""
        here = _versions(sorted({name for indicator in task.indicators for name in indicator.libraries}))
        fresh = [node for node in nodes if not here.keys() <= self._agreed.get(node, {}).keys()]
        for node, there in _versions_there(self._ray(), fresh, list(here)).items():
            problem = _disagreement(here, there)
            if problem is not None:
                raise InstructMineError(problem)
            self._agreed[node] = there
        return here


def _finished(scored: Any) -> Made:
    seen = set()
    for batch in scored.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            if row["error"] is not None:
                raise InstructMineError(row["error"])
            if row["start"] not in seen:  # a node that died may have sent it before
                seen.add(row["start"])
                yield row["start"], pickle.loads(row["content"])


def _stream(ray: Any, texts: Dataset, rows: int, missing: Mapping[int, Sequence[int]], node: str) -> Any:
    """The shards as a Ray Data dataset of one block each, read when they are asked for, on the driver's node."""
    from ray.data import TaskPoolStrategy
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    gone = [file["filename"] for file in texts.cache_files if not os.path.exists(file["filename"])]
    if gone:
        raise InstructMineError(f"'{gone[0]}' is gone, which the pool is read from: load the pool anew")
    pool, count = ray.put(texts), len(texts)

    class Source(Datasource):
        def get_read_tasks(self, parallelism: int, *others: Any, **options: Any) -> list[ReadTask]:
            of_one = BlockMetadata(1, None, None, None)
            return [
                ReadTask(partial(_read, pool, count, rows, start, list(members)), of_one)
                for start, members in missing.items()
            ]

        def estimate_inmemory_data_size(self) -> None:
            return None

    return ray.data.read_datasource(
        Source(),
        override_num_blocks=len(missing),
        num_cpus=0,
        compute=TaskPoolStrategy(1),  # reading takes no time beside scoring, and each process imports a second
        label_selector={_NODE: node},
    )


_opened: dict[str, Dataset] = {}


def _read(pool: Any, count: int, rows: int, start: int, members: list[int]) -> list[pa.Table]:
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
        return [_block(start, (members, texts[start : start + rows]))]
    except (OSError, InstructMineError) as error:
        return [_block(start, None, f"the pool's files cannot be read on the driver's node ({one_line(error)})")]


def _block(start: int, content: Any, error: str | None = None) -> pa.Table:
    return pa.table([[start], [pickle.dumps(content)], [error]], schema=_BLOCK)


class _Pool:
    """A pool of which one shard is there."""

    def __init__(self, start: int, rows: dict[str, list]):
        self.start, self.rows = start, rows

    def __getitem__(self, asked: slice) -> dict[str, list]:
        assert asked.start == self.start
        return self.rows


class _Scorer:
    """What an actor holds: indicators, whose models are loaded once."""

    def __init__(self, task: Task, versions: Mapping[str, str], begun: Any):
        self.task, self.begun, self.problem = task, begun, _disagreement(versions, _versions(list(versions)))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Scores the shard of a block."""
        import ray

        (row,) = batch.to_pylist()
        start = row["start"]
        problem = row["error"] or self.problem or ray.get(self.begun.begin.remote(start))
        if problem is not None:
            return _block(start, None, problem)
        try:
            members, rows = pickle.loads(row["content"])
            self.task.texts = cast(Dataset, _Pool(start, rows))
            return _block(start, self.task.finish(members, self.task.begin(start, members)))
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


def _is_named(resources: Mapping[str, Any]) -> bool:
    return any(isinstance(amount, Mapping) for amount in resources.values())


def _check_resources(resources: Mapping[str, Any]) -> None:
    for given in resources.values() if _is_named(resources) else [resources]:
        if not isinstance(given, Mapping):
            raise InstructMineError("resources: pass amounts, or a mapping of them for each indicator, not both")
        for name, amount in given.items():
            if name not in _AMOUNTS:
                raise InstructMineError(f"resources: a resource is {not_one_of(name, _AMOUNTS)}")
            if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount < float("inf"):
                raise InstructMineError(f"resources: {name}={amount!r} is no amount: pass a number above 0")


def _given(indicator: Indicator, resources: Mapping[str, Any]) -> Mapping[str, float]:
    """What the caller wants an actor of this indicator to take; empty where nothing was said."""
    if not _is_named(resources):
        return resources
    return next((resources[name] for name in (type(indicator).__name__, *indicator.names) if name in resources), {})


def _hosts(ray: Any, indicators: Sequence[Indicator], need: Mapping[str, float]) -> dict[str, int]:
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
            f"no node of the Ray cluster has {asked}, which {type(indicators[0]).__name__} asks for (the most: {most})"
            ": add such a node, or pass other resources"
        )
    return {node: count for node, count in room.items() if count}


def _sent_whole() -> Callable[[Sequence[str]], dict[str, str]]:
    """A function that Ray sends as code, not by its name: a node of another release has no such function."""

    def versions(names: Sequence[str]) -> dict[str, str]:
        from importlib.metadata import PackageNotFoundError, version

        found = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "none"
        try:
            from hf_instructmine import __version__ as own
        except ImportError:
            own = "none"
        return {**found, "hf-instructmine": own}

    return versions


_versions = _sent_whole()


def _disagreement(here: Mapping[str, str], there: Mapping[str, str]) -> str | None:
    for name, release in here.items():
        other = there.get(name, "none")
        # A patch release of a library mends, and its builds for a GPU have names of their own; of ours all is sent.
        same = other == release if name == "hf-instructmine" else other.split(".")[:2] == release.split(".")[:2]
        if not same:
            return (
                f"a node of the Ray cluster has {name} {other}, and this process {release}: scores of both would be "
                "mixed; install the same on all nodes"
            )
    return None


def _versions_there(ray: Any, nodes: Sequence[str], names: list[str]) -> dict[str, dict[str, str]]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(_versions)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(names)
        for node in nodes
    ]
    _, silent = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_SECONDS) if asked else ([], [])
    if silent:
        raise InstructMineError(
            f"{len(silent)} of {len(nodes)} nodes of the Ray cluster did not answer in {_ANSWER_SECONDS} s: look at "
            "`ray status`"
        )
    found: dict[str, dict[str, str]] = {}
    for node, answer in zip(nodes, asked):
        with suppress(ray.exceptions.RayError):  # it has died meanwhile; actors look at their node themselves
            found[node] = ray.get(answer)
    return found
