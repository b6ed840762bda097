"""Reading files that somebody else may have damaged: bytes, text, content, kinds.

Whatever fails is one line that names the file, what is wrong and the mend.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints, is_typeddict

from ..errors import InstructMineError, one_line


if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# No file of ours is nested so deeply, and what is cannot be written again.
_DEEPEST = 64
# A YAML file of a few lines may name its own parts again and again, and so hold more than any memory.
_MOST_PARTS = 100_000
_CALLED = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
}


def read_text(path: Path, mend: str, where: str | None = None) -> str:
    """The text of a file, in UTF-8.

    Args:
        path (`Path`): Of the file.
        mend (`str`): What to do where it cannot be read: the end of the error.
        where (`str`, *optional*): What to call the file in an error; by default its path.

    Raises:
        [`InstructMineError`]: Where it is not there, cannot be read, or is of another encoding.
    """
    where = where or f"'{path}'"
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InstructMineError(
            f"{where} is not UTF-8 text (byte {error.object[error.start]:#04x} at {error.start}): {mend}"
        ) from error
    except (OSError, ValueError) as error:  # a name with a zero byte is the latter
        raise InstructMineError(
            f"cannot read {where}: {getattr(error, 'strerror', None) or one_line(error)}; {mend}"
        ) from error


def parse_json(text: str, where: str, mend: str, nan: bool = False) -> Any:
    """What a JSON text holds.

    Args:
        text (`str`): The text.
        where (`str`): What to call its file in an error, such as `"'folder/report.json'"`.
        mend (`str`): What to do about it: the end of the error.
        nan (`bool`, defaults to `False`): Whether NaN and Infinity may be there, which Python writes and JSON has not.

    Raises:
        [`InstructMineError`]: Where it is no JSON, holds such a number, or is nested more than 64 deep.
    """
    hooks: dict[str, Any] = {} if nan else {"parse_constant": _no_number, "parse_float": _finite}
    try:
        value = json.loads(text, **hooks)
    except RecursionError:
        value = _TOO_DEEP
    except ValueError as error:
        raise InstructMineError(f"{where} is not JSON ({one_line(error)}): {mend}") from error
    if _is_too_deep(value):
        raise InstructMineError(f"{where} is nested more than {_DEEPEST} deep: {mend}")
    return value


def read_json(path: Path, mend: str, kind: Any = dict[str, Any], nan: bool = False) -> Any:
    """What a JSON file holds.

    Args:
        path (`Path`): Of the file.
        mend (`str`): What to do where it cannot be read: the end of the error.
        kind (*optional*, defaults to `dict[str, Any]`): What it has to hold, as for [`typed`].
        nan (`bool`, defaults to `False`): As for [`parse_json`].

    Raises:
        [`InstructMineError`]: As [`read_text`] and [`parse_json`] do, and where it holds something else.
    """
    value = parse_json(read_text(path, mend), f"'{path}'", mend, nan)
    try:
        return typed(value, kind, nan=nan)
    except TypeError as error:
        raise InstructMineError(f"'{path}' is not what it should be ({error}): {mend}") from error


def read_yaml(path: Path, where: str) -> dict[str, Any]:
    """The options that a YAML file holds, by name.

    Args:
        path (`Path`): Of the file.
        where (`str`): What to call it in an error, such as `"the recipe 'mine.yaml'"`.

    Raises:
        [`InstructMineError`]: Where it is not there, is no YAML or not in UTF-8, holds something else than
            `option: value` lines, or an option twice.
    """
    import yaml

    text = read_text(path, "give a file of 'option: value' lines", where)
    try:
        value = yaml.load(text, _strict_loader())  # a safe one
    except RecursionError:
        value = _TOO_DEEP
    except (yaml.YAMLError, ValueError) as error:  # a date that there is not, such as 2024-02-31, is the latter
        raise InstructMineError(f"cannot read {where}: {one_line(error)}") from error
    if _is_too_deep(value, _MOST_PARTS):
        raise InstructMineError(f"cannot read {where}: it is nested too deep, or holds too much; mend it")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InstructMineError(f"{where} must hold 'option: value' lines")
    if wrong := [key for key in value if not isinstance(key, str)]:
        raise InstructMineError(f"cannot read {where}: it has the option {wrong[0]!r:.80}, which is no name; mend it")
    return value


def read_parquet(path: Path, mend: str, columns: list[str] | None = None) -> "pa.Table":
    """The table that a Parquet file holds.

    Args:
        path (`Path`): Of the file.
        mend (`str`): What to do where it cannot be read: the end of the error.
        columns (`list[str]`, *optional*): Those to read; by default all.

    Raises:
        [`InstructMineError`]: Where it is not there, is damaged, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # As one file: a path with `key=value` in it would add a column.
        file = pq.ParquetFile(path)
        absent = sorted({*(columns or ())} - {*file.schema_arrow.names})
        if not absent:
            return file.read(columns)
    except (OSError, pa.ArrowException) as error:
        raise InstructMineError(f"cannot read '{path}': {one_line(error, first=True)}; {mend}") from error
    raise InstructMineError(f"'{path}' has no column '{absent[0]}': {mend}")


def read_array(path: Path, mend: str, mmap_mode: Literal["r"] | None = None) -> "np.ndarray":
    """The array that a `.npy` file holds; never one of Python objects.

    Args:
        path (`Path`): Of the file.
        mend (`str`): What to do where it cannot be read: the end of the error.
        mmap_mode (`str`, *optional*): As `numpy.load` takes it.

    Raises:
        [`InstructMineError`]: Where it is not there, or is damaged.
    """
    import numpy as np

    try:
        return np.load(path, mmap_mode=mmap_mode)
    except (OSError, ValueError, EOFError, SyntaxError) as error:  # of a header, the last
        raise InstructMineError(f"cannot read '{path}': {one_line(error, first=True)}; {mend}") from error


def typed(value: Any, kind: Any, name: str = "", nan: bool = False) -> Any:
    """The value as it is where it is of a kind, with a dataclass made of each mapping that is to be one.

    Args:
        value: Plain data, as JSON has it.
        kind: `str`, `int`, `float` (finite, whole numbers too), `bool`, `Any`, `None`; lists, mappings and unions of
            them; a `TypedDict`, which may hold more; a dataclass.
        name (`str`, *optional*): Where the value stands, for the error: `"terms[0].scale"`.
        nan (`bool`, defaults to `False`): Whether a number may be NaN or infinite. A null in its place is NaN: so are
            rules written.

    Raises:
        `TypeError`: Where it is of no such kind; says which value.
    """
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return _one_of(value, inner, name, nan)
    if origin is list and isinstance(value, list):
        of_each = inner[0] if inner else Any
        if set(map(type, value)) <= {of_each} and (nan or of_each is not float or all(map(math.isfinite, value))):
            return value  # thousands of numbers, as a rule
        return [typed(item, of_each, f"{name}[{i}]", nan) for i, item in enumerate(value)]
    if origin in (dict, Mapping) and isinstance(value, dict):
        of_each = inner[1] if inner else Any
        return {key: typed(item, of_each, f"{name}.{key}".lstrip("."), nan) for key, item in value.items()}
    if is_dataclass(kind) or is_typeddict(kind):
        return _fields(value, kind, name, nan)
    if kind is float and nan and value is None:
        return math.nan
    if not _is_plain(value, kind, nan):
        _refuse(value, _CALLED.get(origin, "null" if kind in (None, NoneType) else str(kind)), name)
    return value


def _one_of(value: Any, kinds: tuple, name: str, nan: bool) -> Any:
    if value is None and NoneType in kinds:
        return None
    for kind in (found := [kind for kind in kinds if kind is not NoneType]):
        try:
            return typed(value, kind, name, nan)
        except TypeError:
            if kind is found[-1]:
                raise
    return None


def _fields(value: Any, kind: Any, name: str, nan: bool) -> Any:
    if not isinstance(value, dict):
        _refuse(value, "a mapping", name)
    hints = get_type_hints(kind)
    if is_dataclass(kind):
        needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
        if unknown := sorted(value.keys() - hints.keys()):
            raise TypeError(f"'{f'{name}.{unknown[0]}'.lstrip('.')}' is not known")
    else:
        needed = sorted(kind.__required_keys__)
    if missing := [key for key in needed if key not in value]:
        raise TypeError(f"'{f'{name}.{missing[0]}'.lstrip('.')}' is missing")
    read = {k: typed(item, hints.get(k, Any), f"{name}.{k}".lstrip("."), nan) for k, item in value.items()}
    return kind(**read) if isinstance(kind, type) and is_dataclass(kind) else read


def _is_plain(value: Any, kind: Any, nan: bool) -> bool:
    if kind is Any:
        return True
    if kind in (None, NoneType):
        return value is None
    if kind in (int, float):
        sound = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return sound and (nan or _is_finite(value))
    return isinstance(value, kind) if isinstance(kind, type) else False


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that is too large for a float
        return False


def _refuse(value: Any, what: str, name: str) -> NoReturn:
    raise TypeError(f"'{name}' is {value!r:.40}, not {what}" if name else f"it is no {what.removeprefix('a ')}")


# Stands for what a parser could not hold.
_TOO_DEEP = object()


def _is_too_deep(value: Any, most: int | None = None) -> bool:
    """Whether it is nested too deep, or in more than `most` lists and mappings."""
    level, held = [value], 0
    for _ in range(_DEEPEST):
        level = list(islice((inner for outer in level for inner in _parts(outer)), None if most is None else most + 1))
        held += len(level)
        if not level or (most is not None and held > most):
            return value is _TOO_DEEP or bool(level)
    return True


def _parts(value: Any) -> list[Any]:
    found = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in found if isinstance(item, (dict, list))]


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is too large a number")
    return value


def _strict_loader() -> Any:
    """PyYAML's safe loader, which takes no option twice: the later would silently win."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise yaml.constructor.ConstructorError(None, None, f"'{twice}' stands there twice", node.start_mark)
            return super().construct_mapping(node, deep)

    return Loader
