"""How many rows a shard has, and which shards are begun first."""

from collections.abc import Mapping, Sequence

from datasets import Dataset

from ..models.weights import default_device
from .base import Indicator, ModelIndicator


CPU_ROWS, ACCELERATOR_ROWS = 256, 3072
_PARTS, _LEAST_ROWS = 16, 64  # shards of a small pool for a model on a CPU, and the least rows of one
_MOST_SHARDS = 2000
_ORDERED = 64  # of so many shards the order matters: the last one is a large part of the work


def shard_rows(indicator: Indicator | None, rows: int, on_gpu: bool | None = None) -> int:
    """The rows of a shard where none is there yet.

    A shard is what a kill can lose, and what is sorted by length: on a GPU, whose batches are larger, 256 rows would
    cost it 18 % of padding, and 3,072 cost 2 %. On a CPU models are slow: of few shards, one process would wait for
    another.

    Args:
        indicator ([`Indicator`], *optional*): Who scores them; None gives what every earlier version had.
        rows (`int`): Of the pool, of identical ones one.
        on_gpu (`bool`, *optional*): Whether its model runs on a GPU, where another machine runs it.
    """
    size = CPU_ROWS
    if isinstance(indicator, ModelIndicator):
        is_fast = device_of(indicator) != "cpu" if on_gpu is None else on_gpu
        size = ACCELERATOR_ROWS if is_fast else min(size, max(_LEAST_ROWS, rows // _PARTS))
    return max(size, -(-rows // _MOST_SHARDS))


def device_of(indicator: ModelIndicator) -> str:
    """The kind of device that its model is on, or will be."""
    if indicator._loaded is not None:
        return indicator._loaded.device.type
    return (indicator.source.device or default_device()).partition(":")[0]


def most_work_first(
    missing: Mapping[int, Sequence[int]], texts: Dataset, rows: int, indicators: Sequence[Indicator]
) -> Mapping[int, Sequence[int]]:
    """Shards in the order in which several processes are best to take them.

    Those of a model with the longest texts (in bytes) come first: none is begun when the others have nothing left.

    Args:
        missing (`Mapping[int, Sequence[int]]`): The first row of each shard, and the numbers of its indicators.
        texts (`Dataset`): What the indicators read.
        rows (`int`): Of a shard.
        indicators (`Sequence[Indicator]`): Of one mapping of columns.
    """
    has_model = any(isinstance(indicator, ModelIndicator) for indicator in indicators)
    if not has_model or not 2 < len(missing) <= _ORDERED:
        return missing

    arrow = texts.with_format("arrow")
    size = {start: arrow[start : start + rows].nbytes for start in missing}
    return {start: missing[start] for start in sorted(missing, key=lambda start: -size[start])}
