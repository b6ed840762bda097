"""Opening a pool by name: a Hub dataset, a file, a folder, or a saved dataset; one split and configuration of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets, load_dataset, load_from_disk

from ..errors import InstructMineError, one_line
from .columns import SOURCE
from .files import KINDS, FileKind, cause_of, check_room, csv_options, load_file, unchanged, with_empty_texts
from .tables import with_features, with_text


# `path:split` or `path:config:split`. No split holds a slash, so neither `C:/rows.jsonl` nor `hf://…` is one.
_SOURCE = re.compile(r"(?P<path>..+?)(?::(?P<config>[\w.-]+))?:(?P<split>\w[\w.+]*(?:\[[^\]]*\])?)")


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Attributes:
        path (`str`): File, folder or Hub dataset id.
        config (`str`, *optional*): Configuration of a Hub dataset or folder.
        split (`str`, *optional*): Split of it.
    """

    path: str
    config: str | None = None
    split: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Reads `path`, `path:split` or `path:config:split`; a file or folder of that very name goes first.

        Raises:
            [`InstructMineError`]: Where no file can have that name.
        """
        try:
            found = None if Path(text).exists() else _SOURCE.fullmatch(text)
        except OSError as error:  # too long
            raise InstructMineError(
                f"'{text:.60}…' is the name of no file and no dataset: {error.strerror}"
            ) from error
        return cls(text) if found is None else cls(**found.groupdict())

    @property
    def label(self) -> str:
        """The `source` of its rows: the name without folder and suffix, with configuration and split where given."""
        path = Path(self.path)
        kind = FileKind.of(path.name)
        stem = path.name[: -len(kind.suffix + kind.compression)] if kind else path.stem
        return ":".join(filter(None, (stem, self.config, self.split)))


def load_pool(
    inputs: str | Path | Sequence[str | Path],
    split: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """Opens one or more inputs as one pool.

    Args:
        inputs (`str`, `Path` or a sequence of these): Each a file (JSON, JSON lines, CSV, TSV or Parquet, plain or
            compressed), a Hub dataset id, a folder that `load_dataset` opens, or one that `save_to_disk` wrote. A
            Hub dataset or folder may be followed by `:split`, or by `:config:split`. Inputs of several layouts are
            joined: a column that an input lacks is None there, and rows get the input's name as `source` where they
            have none.
        split (`str`, *optional*): Split of those inputs that have splits and name none. By default `train`, or the
            only split that there is.
        sample (`int`, *optional*): Takes that many rows at random, in the pool's order.
        seed (`int`, defaults to 0): Of the sample.
        columns (`Mapping[str, str]`, *optional*): Which column is which, where the layout is not detected: in CSV
            these are read as text, whatever they look like.

    Raises:
        [`InstructMineError`]: Where an input cannot be opened or joined, or `sample` exceeds the pool.
    """
    names = [inputs] if isinstance(inputs, str | Path) else inputs
    if not names:
        raise InstructMineError("no input was given: name a file, a folder or a Hub dataset id")
    sources = [Source.parse(str(name)) for name in names]
    parts = [_load_one(source, split, columns) for source in sources]
    if len(parts) > 1:
        parts = [_joinable(part, source.label) for part, source in zip(parts, sources)]
    try:
        pool = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    except ValueError as error:
        raise InstructMineError(
            f"the inputs do not join into one pool: {cause_of(error)}; rename or cast that column in one of them"
        ) from error
    return pool if sample is None else _sampled(pool, sample, seed)


def _load_one(source: Source, split: str | None, columns: Mapping[str, str] | None) -> Dataset:
    path, split = Path(source.path), source.split or split
    kind = None if path.is_dir() else FileKind.of(path.name)
    if kind is not None:
        if source.split is not None:
            raise InstructMineError(f"'{path}' is a file, which has no split: leave ':{source.split}' away")
        return load_file(path, kind, columns)
    if path.is_file():
        raise InstructMineError(f"cannot read '{path}': not a kind of file that is read: {KINDS}")
    if (path / "sweep.json").is_file():
        raise InstructMineError(f"'{path}' holds a sweep: load_runs('{path}') opens its runs")
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            saved = load_from_disk(source.path)
            if source.config is not None or (isinstance(saved, Dataset) and source.split is not None):
                what = "configurations" if source.config is not None else "splits"
                raise InstructMineError(f"'{path}' was saved without {what}: leave what follows its name away")
            return choose_split(saved, split, source.path) if isinstance(saved, DatasetDict) else saved
        with unchanged(path):
            return _load_dataset(source, split, columns)
    except InstructMineError:
        raise
    except Exception as error:  # `datasets` raises a dozen kinds here; each is said in one line, with its cause kept
        check_room(source.path, error)
        if found := re.search(r"available configs: \[(.*)\]", str(error)):
            raise InstructMineError(
                f"'{source.path}' has the configurations {found[1]}: name one, as in {source.path}:CONFIG:SPLIT"
            ) from error
        raise InstructMineError(
            f"cannot open '{source.path}': {cause_of(error)}; give a file ({KINDS}), a saved dataset, or a Hub "
            "dataset id (which needs a network)"
        ) from error


def _load_dataset(source: Source, split: str | None, columns: Mapping[str, str] | None) -> Dataset:
    """A split of a Hub dataset or of a folder that `load_dataset` opens."""
    path = source.path if "/" in source.path or Path(source.path).exists() else _full_id(source.path)

    def load(**options: Any) -> Dataset:
        if split is not None and (split == "all" or re.search(r"\W", split)):  # several together, or a slice
            return load_dataset(path, source.config, split=split, **options)
        name = ":".join(filter(None, (source.path, source.config)))
        return choose_split(load_dataset(path, source.config, **options), split, name)

    pool = load()
    if pool.info.builder_name != "csv":
        return pool
    # Now that the columns are known: whose cells are text, whatever they look like.
    return with_empty_texts(load(**csv_options(pool.column_names, columns)))


def _full_id(name: str) -> str:
    """The id with its owner of a Hub dataset that is named without.

    Where the Hub does not answer, `datasets` would take what some folder of that name has left in its cache: rows of
    another place.
    """
    from huggingface_hub import HfApi

    return HfApi().dataset_info(name).id


def choose_split(splits: Mapping[str, Any], split: str | None, name: str) -> Any:
    """The split of that name; where none is given, `train` or the only one.

    Args:
        splits (`Mapping[str, Any]`): By name.
        split (`str`, *optional*): The one that is wanted.
        name (`str`): What has the splits, for messages of error.

    Raises:
        [`InstructMineError`]: Where there is no such split, or which one is meant cannot be known.
    """
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if (split or "train") not in splits:
        raise InstructMineError(
            f"'{name}' has no split '{split or 'train'}': it has {', '.join(splits)}; name one, as in "
            f"{name}:{next(iter(splits), 'test')}"
        )
    return splits[split or "train"]


def _joinable(part: Dataset, label: str) -> Dataset:
    # What pandas or polars wrote is `large_string`, which does not join with `string`.
    large = [name for name, feature in part.features.items() if getattr(feature, "dtype", None) == "large_string"]
    if large:
        part = with_features(part, Features({**part.features, **dict.fromkeys(large, Value("string"))}))
    return part if SOURCE in part.column_names else with_text(part, SOURCE, label)


def _sampled(pool: Dataset, sample: int, seed: int) -> Dataset:
    import numpy as np

    if not 1 <= sample <= len(pool):
        raise InstructMineError(f"a sample of {sample} rows cannot be taken from a pool of {len(pool)}")
    return pool.select(np.sort(np.random.default_rng(seed).choice(len(pool), sample, replace=False)))


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
