"""Opening a pool: a Hub dataset, local JSON, JSONL, Parquet or CSV files, or a saved dataset."""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, Value, concatenate_datasets, load_dataset, load_from_disk

from .errors import InstructMineError


_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}


def load_pool(inputs: Sequence[str], split: str = "train", sample: int | None = None, seed: int = 0) -> Dataset:
    """Opens one or more inputs as one pool.

    Args:
        inputs (`Sequence[str]`): Each a Hub dataset id, a `.json`, `.jsonl`, `.parquet` or `.csv` file, a folder that
            `load_dataset` opens, or one that `save_to_disk` wrote. Inputs of several layouts are joined: a column that
            an input lacks is None there, and rows get the input's name as `source` where they have none.
        split (`str`, defaults to `"train"`): Split of those inputs that have splits.
        sample (`int`, *optional*): Takes that many rows at random, in the pool's order.
        seed (`int`, defaults to 0): Of the sample.

    Raises:
        [`InstructMineError`]: Where an input cannot be opened or joined, or `sample` exceeds the pool.
    """
    if not inputs:
        raise InstructMineError("no input was given: name a file, a folder or a Hub dataset id")
    parts = [_load_one(name, split) for name in inputs]
    if len(parts) > 1:
        parts = [_with_source(part, name) for part, name in zip(parts, inputs)]
    try:
        pool = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    except ValueError as error:
        raise InstructMineError(f"the inputs do not join into one pool: {_first_line(error)}") from error
    return pool if sample is None else _sampled(pool, sample, seed)


def _load_one(name: str, split: str) -> Dataset:
    path = Path(name)
    try:
        if path.suffix in _FORMATS:
            if not path.is_file():
                raise InstructMineError(f"there is no file '{name}'")
            if path.stat().st_size == 0:
                raise InstructMineError(f"the file '{name}' is empty: there is no row to score or select")
            return load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train")
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            saved = load_from_disk(name)
            return _split_of(saved, split, name) if isinstance(saved, DatasetDict) else saved
        return load_dataset(name, split=split)
    except InstructMineError:
        raise
    except Exception as error:  # `datasets` raises a dozen kinds here; each is said in one line, with its cause kept
        raise InstructMineError(
            f"cannot open '{name}': {_first_line(error)}; give a .json, .jsonl, .parquet or .csv file, a saved "
            "dataset, or a Hub dataset id (which needs a network)"
        ) from error


def _split_of(saved: DatasetDict, split: str, name: str) -> Dataset:
    if split not in saved:
        raise InstructMineError(f"'{name}' has no split '{split}': it has {', '.join(saved)}")
    return saved[split]


def _with_source(part: Dataset, name: str) -> Dataset:
    if "source" in part.column_names:
        return part
    return part.add_column("source", [Path(name).stem] * len(part), feature=Value("string"))


def _sampled(pool: Dataset, sample: int, seed: int) -> Dataset:
    import numpy as np

    if not 1 <= sample <= len(pool):
        raise InstructMineError(f"a sample of {sample} rows cannot be taken from a pool of {len(pool)}")
    return pool.select(np.sort(np.random.default_rng(seed).choice(len(pool), sample, replace=False)))


def _first_line(error: Exception) -> str:
    # `datasets` wraps what went wrong ("An error occurred while generating the dataset"): the cause is what helps.
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0] or type(error).__name__
