"""Files of rows: JSON, JSON lines, CSV, TSV and Parquet, plain or compressed; faults are named by their line."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path, PurePath
from typing import IO, Any

from datasets import Dataset, Features, Value, config, load_dataset

from ..errors import InstructMineError, one_line
from .columns import SOURCE, indicator_of
from .conversation import find_layouts
from .tables import with_features


_FORMATS = {
    ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
}  # fmt: skip
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
KINDS = f"{', '.join(_FORMATS)} (all but the last also with {', '.join(_COMPRESSED)})"
_EMPTY = "the file '{}' is empty: there is no row to score or select"
_NO_ROOM = (ENOSPC, EDQUOT, EFBIG)
# What stands for a missing number. Of texts these are answers, as "None" is one to "How many moons has Venus?".
_NO_NUMBER = ["", "nan", "NaN", "NA", "N/A", "null", "None"]


@dataclass(frozen=True)
class FileKind:
    """What a file's name says of it.

    Attributes:
        format (`str`): Name of the builder in `datasets` that reads it.
        suffix (`str`): In lower case, without that of a compression.
        compression (`str`): Suffix of the compression in lower case; `""` where there is none.
    """

    format: str
    suffix: str
    compression: str = ""

    @classmethod
    def of(cls, name: str) -> "FileKind | None":
        """Reads a file's name, in any case; None where it is no kind that is read."""
        *_, inner, last = ("", "", *(suffix.lower() for suffix in PurePath(name).suffixes))
        suffix, compression = (inner, last) if last in _COMPRESSED else (last, "")
        if suffix not in _FORMATS or (compression and suffix == ".parquet"):
            return None
        return cls(_FORMATS[suffix], suffix, compression)

    def open(self, path: Path) -> IO[bytes]:
        """Opens the file for reading, decompressed.

        Raises:
            [`InstructMineError`]: Where a package is needed for that.
        """
        if self.compression == ".zst":
            return io.BufferedReader(_zstandard(path).open(path, "rb"))  # which by itself knows no lines
        openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
        return openers[self.compression](path, "rb") if self.compression else path.open("rb")


def load_file(path: Path, kind: FileKind, columns: Mapping[str, str] | None = None) -> Dataset:
    """Reads a file.

    Args:
        path (`Path`): The file.
        kind ([`FileKind`]): What its name says of it.
        columns (`Mapping[str, str]`, *optional*): Which column is which, where the layout is not detected.

    Raises:
        [`InstructMineError`]: Where it cannot be read; names the line.
    """
    if not path.is_file():
        raise InstructMineError(f"there is no file '{path}'")
    with unchanged(path):
        return _load_file(path, kind, columns)


def _load_file(path: Path, kind: FileKind, columns: Mapping[str, str] | None) -> Dataset:
    try:
        names = _column_names(path, kind)
    except InstructMineError:
        raise
    except Exception as error:  # half an archive, no Parquet, no permission: each library has its own kinds
        raise InstructMineError(f"cannot read '{path}': {cause_of(error)}; mend the file") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InstructMineError(f"'{path}' has the column '{twice[0]}' twice: rename one of them")
    options = csv_options(names, columns) if kind.format == "csv" else {}
    if kind.suffix == ".tsv":
        options["sep"] = "\t"
    try:
        pool = load_dataset(kind.format, data_files=str(path), split="train", **options)
    except Exception as error:  # `datasets` raises a dozen kinds here; each is said in one line, with its cause kept
        if "corresponds to no data" in str(error):
            raise InstructMineError(_EMPTY.format(path)) from error
        check_room(path, error)
        fault = (_first_fault(path, kind) if kind.suffix in (".jsonl", ".ndjson") else None) or cause_of(error)
        raise InstructMineError(f"cannot read '{path}': {fault}; mend the file") from error
    return with_empty_texts(pool) if kind.format == "csv" else pool


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Refuses a file, or a folder's files of rows, that somebody else writes to within the block.

    Raises:
        [`InstructMineError`]: Names the file, also in place of the error that this has led to.
    """
    before = _stamps(path)
    try:
        yield
    finally:
        now = _stamps(path)
        if changed := next((file for file in sorted({*before, *now}) if before.get(file) != now.get(file)), None):
            raise InstructMineError(
                f"'{changed}' changed while it was read: wait until whoever writes it has finished, and start again"
            )


def _stamps(path: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of writing of a file, or of a folder's files of rows."""
    found = {}
    for file in path.rglob("*") if path.is_dir() else [path]:
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)  # which `load_dataset` passes over
        if not hidden and (FileKind.of(file.name) or file.suffix == ".arrow"):
            with suppress(OSError):  # it is gone again, or may not be looked at
                stat = file.stat()
                found[file] = stat.st_size, stat.st_mtime_ns
    return found


def check_room(path: Any, error: BaseException) -> None:
    """Says in one line that `datasets` failed for want of room for its copy.

    Raises:
        [`InstructMineError`]: Where that is what `error` comes from.
    """
    cause: BaseException | None = error
    for _ in range(9):  # `datasets` wraps it
        if isinstance(cause, OSError) and (cause.errno in _NO_ROOM or "Not enough disk space" in str(cause)):
            raise InstructMineError(
                f"there is no room for '{path}' in '{config.HF_DATASETS_CACHE}', where datasets keeps what it has "
                "read: make room, or name a folder on another disk with the environment variable HF_DATASETS_CACHE"
            ) from error
        cause = cause and (cause.__cause__ or cause.__context__)


def csv_options(names: Sequence[str], columns: Mapping[str, str] | None = None) -> dict[str, Any]:
    """How the `csv` builder is to read a file with these columns, whose cells say nothing of their types.

    Columns of the layout and of sources are text ("007" stays what it is). All others are read as they look.
    """
    try:
        layouts = find_layouts(names, columns)
    except InstructMineError:  # a table of numbers; or whoever needs its texts will say what is missing
        layouts = {}
    texts = {SOURCE, *(column for layout in layouts.values() for column in layout.values())}
    # pandas would take the answers "None", "null" and "N/A" for missing ones.
    return {
        "keep_default_na": False,
        "na_values": {name: _NO_NUMBER if indicator_of(name) else [""] for name in names},
        "converters": {name: _as_text for name in names if name in texts},
    }


def _as_text(cell: str) -> str | None:
    return cell or None


def with_empty_texts(pool: Dataset) -> Dataset:
    """Columns of a CSV file without any value, which pandas takes for numbers, as text; but for indicators."""
    empty = [n for n in pool.column_names if not indicator_of(n) and pool.data[n].null_count == len(pool)]
    features = Features({**pool.features, **dict.fromkeys(empty, Value("string"))})
    return with_features(pool, features) if empty else pool


def _zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise InstructMineError(f"reading '{path}' needs zstandard: pip install zstandard") from error
    return zstandard


def _check_whole(path: Path) -> None:
    """Refuses an archive of zstandard that is cut off, which its readers take for its end."""
    frame = None
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            while block:
                frame = frame or _zstandard(path).ZstdDecompressor().decompressobj()
                frame.decompress(block)
                block, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("the archive is cut off")


def _column_names(path: Path, kind: FileKind) -> list[str]:
    """The file's columns (none for JSON, whose rows name them); checks on the way that it is not empty and that a text
    file is UTF-8, which `datasets` notices where a row is read and not before.

    Raises:
        [`InstructMineError`]: Names the line.
    """
    if kind.format == "parquet":
        import pyarrow.parquet as pq

        metadata = pq.read_metadata(path)
        if metadata.num_rows == 0:
            raise InstructMineError(_EMPTY.format(path))
        return metadata.schema.to_arrow_schema().names
    if kind.compression == ".zst":
        _check_whole(path)
    blank = True
    with kind.open(path) as file:
        for number, line in enumerate(file, start=1):
            blank = blank and not line.strip()
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InstructMineError(
                    f"'{path}', line {number}, is not UTF-8 text (byte {line[error.start]:#04x} at {error.start}): "
                    "convert the file to UTF-8"
                ) from error
    if blank:
        raise InstructMineError(_EMPTY.format(path))
    if kind.format == "json":
        return []
    with io.TextIOWrapper(kind.open(path), encoding="utf-8-sig", newline="") as text:
        names = next(csv.reader(text, delimiter="\t" if kind.suffix == ".tsv" else ","), [])
    return [name or f"Unnamed: {i}" for i, name in enumerate(names)]  # as pandas calls it


def _first_fault(path: Path, kind: FileKind) -> str | None:
    """What is wrong with which line of JSON lines; `datasets` counts lines from the start of some block."""

    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"has the column '{twice[0]}' twice")
        return dict(pairs)

    with io.TextIOWrapper(kind.open(path), encoding="utf-8") as file:
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


def cause_of(error: BaseException) -> str:
    """What is behind an exception of `datasets`, which wraps it ("An error occurred while generating the dataset")."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error, first=True)
