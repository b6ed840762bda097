"""Opening a pool: a Hub dataset, local JSON, JSONL, Parquet or CSV files, or a saved dataset."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets, load_dataset, load_from_disk

from ..errors import InstructMineError, one_line


_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
_EMPTY = "the file '{}' is empty: there is no row to score or select"
# pandas would take the answers "None", "null" and "N/A" for missing ones.
_CSV = {"keep_default_na": False, "na_values": [""]}


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
        parts = [_joinable(part, name) for part, name in zip(parts, inputs)]
    try:
        pool = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    except ValueError as error:
        raise InstructMineError(
            f"the inputs do not join into one pool: {_cause(error)}; rename or cast that column in one of them"
        ) from error
    return pool if sample is None else _sampled(pool, sample, seed)


def _load_one(name: str, split: str) -> Dataset:
    path = Path(name)
    if path.suffix in _FORMATS:
        return _load_file(path, _FORMATS[path.suffix])
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            saved = load_from_disk(name)
            return _split_of(saved, split, name) if isinstance(saved, DatasetDict) else saved
        return load_dataset(name, split=split)
    except InstructMineError:
        raise
    except Exception as error:  # `datasets` raises a dozen kinds here; each is said in one line, with its cause kept
        raise InstructMineError(
            f"cannot open '{name}': {_cause(error)}; give a .json, .jsonl, .parquet or .csv file, a saved "
            "dataset, or a Hub dataset id (which needs a network)"
        ) from error


def _load_file(path: Path, format: str) -> Dataset:
    if not path.is_file():
        raise InstructMineError(f"there is no file '{path}'")
    try:
        names = _column_names(path, format)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InstructMineError(f"'{path}' has the column '{twice[0]}' twice: rename one of them")
        pool = load_dataset(format, data_files=str(path), split="train", **(_CSV if format == "csv" else {}))
    except InstructMineError:
        raise
    except Exception as error:  # as above
        if "corresponds to no data" in str(error) or _is_blank(path):
            raise InstructMineError(_EMPTY.format(path)) from error
        fault = (_first_fault(path) if path.suffix == ".jsonl" else None) or _cause(error)
        raise InstructMineError(f"cannot read '{path}': {fault}; mend the file") from error
    # In a CSV file a column without any value might hold text as well as numbers; pandas takes it for numbers.
    empty = [n for n in pool.column_names if format == "csv" and pool.data[n].null_count == len(pool)]
    return pool.cast(Features({**pool.features, **dict.fromkeys(empty, Value("string"))})) if empty else pool


def _column_names(path: Path, format: str) -> list[str]:
    """The file's columns (none for JSON, whose rows name them); checks on the way that a Parquet file has rows and
    that a text file is UTF-8, which `datasets` notices where a row is read and not before.

    Raises:
        [`InstructMineError`]: Names the line.
    """
    if format == "parquet":
        import pyarrow.parquet as pq

        file = pq.read_metadata(path)
        if file.num_rows == 0:
            raise InstructMineError(_EMPTY.format(path))
        return file.schema.to_arrow_schema().names
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InstructMineError(
                    f"'{path}', line {number}, is not UTF-8 text (byte {line[error.start]:#04x} at {error.start}): "
                    "convert the file to UTF-8"
                ) from error
    if format == "json":
        return []
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file), [])


def _is_blank(path: Path) -> bool:
    with path.open("rb") as file:
        return not file.read(100).strip()


def _first_fault(path: Path) -> str | None:
    """What is wrong with which line of a JSONL file; `datasets` counts lines from the start of some block."""

    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"has the column '{twice[0]}' twice")
        return dict(pairs)

    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line, object_pairs_hook=refuse_twice) if line.strip() else {}
                json.dumps(row, ensure_ascii=False).encode()
            except json.JSONDecodeError as error:
                return f"line {number} is not JSON ({error.msg} at {error.pos})"
            except UnicodeEncodeError as error:
                half = error.object[error.start].encode("ascii", "backslashreplace").decode()
                return f"line {number} holds {half}, half of a surrogate pair, which is no character"
            except ValueError as error:
                return f"line {number} {error}"
            if not isinstance(row, dict):
                return f"line {number} is {line.strip()!r:.40}, not an object {{…}}"
    return None


def _split_of(saved: DatasetDict, split: str, name: str) -> Dataset:
    if split not in saved:
        raise InstructMineError(f"'{name}' has no split '{split}': it has {', '.join(saved)}")
    return saved[split]


def _joinable(part: Dataset, name: str) -> Dataset:
    # What pandas or polars wrote is `large_string`, which does not join with `string`.
    large = [name for name, feature in part.features.items() if getattr(feature, "dtype", None) == "large_string"]
    if large:
        part = part.cast(Features({**part.features, **dict.fromkeys(large, Value("string"))}))
    if "source" in part.column_names:
        return part
    return part.add_column("source", [Path(name).stem] * len(part), feature=Value("string"))


def _sampled(pool: Dataset, sample: int, seed: int) -> Dataset:
    import numpy as np

    if not 1 <= sample <= len(pool):
        raise InstructMineError(f"a sample of {sample} rows cannot be taken from a pool of {len(pool)}")
    return pool.select(np.sort(np.random.default_rng(seed).choice(len(pool), sample, replace=False)))


def _cause(error: BaseException) -> str:
    # `datasets` wraps what went wrong ("An error occurred while generating the dataset"): the cause is what helps.
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error, first=True)


def parse_mapping(text: str | dict | None) -> dict[str, Any] | None:
    """Reads `key=value,key=value`; values are read as YAML, so numbers are numbers and `[a, b]` is a list."""
    import yaml

    if text is None or isinstance(text, dict):
        return text
    pairs: list[str] = []
    for piece in filter(None, text.split(",")):
        if "=" not in piece and pairs:  # a comma inside a list
            pairs[-1] += f",{piece}"
        else:
            pairs.append(piece)
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise InstructMineError(f"'{wrong[0]}' is not of the form key=value")
    try:
        return {key.strip(): yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    except yaml.YAMLError as error:
        raise InstructMineError(f"'{text}' cannot be read: {one_line(error)}") from error
