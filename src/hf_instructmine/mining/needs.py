"""Which indicators a rule or a strategy reads, as what made the rule's own columns."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from ..data.columns import NEIGHBOR_COLUMN, indicator_of
from ..errors import InstructMineError
from ..selection.reproduce import ARGUMENTS


if TYPE_CHECKING:
    from ..indicators.base import Indicator

# What has to be known of each, and the name of its option; MTLD needs nothing.
_MODEL = {
    "InputLength": "tokenizer", "OutputLength": "tokenizer", "Perplexity": "model", "Reward": "model",
    "NeighborDistance": "model", "UniEval": "model",
}  # fmt: skip
_BY_LANGUAGE_MODEL = ("InputLength", "OutputLength", "Perplexity")


def needed(
    columns: Sequence[str],
    made: Mapping[str, Mapping[str, Any]],
    given: "Sequence[Indicator]" = (),
    model: str | None = None,
    texts: Mapping[str, str] | None = None,
) -> "list[Indicator]":
    """The indicators that make `columns`, and no others.

    Args:
        columns (`Sequence[str]`): What is read of a scored pool.
        made (`Mapping[str, Mapping]`): What made each column, as far as that is recorded.
        given (`Sequence[Indicator]`): The user's own, which go before what is recorded.
        model (`str`, *optional*): The language model and tokenizer, which goes before what is recorded.
        texts (`Mapping[str, str]`, *optional*): Which column of the pool is which.

    Raises:
        [`InstructMineError`]: Where no indicator makes a column, or which model made it is not known: says what to
            give.
    """
    columns = [name.removeprefix("pool_") for name in columns]
    found = [indicator for indicator in given if set(indicator.names) & set(columns)]
    own = {name for indicator in found for name in indicator.names}
    groups: dict[tuple[str, str], list[str]] = {}
    lacking: dict[str, str] = {}
    for column in (name for name in columns if name not in own):
        kind, arguments = _how(column, made.get(column, {}), model)
        if kind in _MODEL and _MODEL[kind] not in arguments:
            lacking[kind] = f"{lacking[kind]}, {column}" if kind in lacking else column
        groups.setdefault((kind, json.dumps(arguments, sort_keys=True)), []).append(column)
    if lacking:
        options = dict.fromkeys("--model MODEL" if k in _BY_LANGUAGE_MODEL else _option(k) for k in lacking)
        raise InstructMineError(
            f"which model makes {', '.join(lacking.values())} is not recorded: give {' and '.join(sorted(options))}"
        )
    return [*found, *(_build(kind, json.loads(words), names, texts) for (kind, words), names in groups.items())]


def _option(kind: str) -> str:
    return f"--indicator {kind},model=MODEL"


def _how(column: str, record: Mapping[str, Any], model: str | None) -> tuple[str, dict[str, Any]]:
    kind = str(record.get("indicator") or (indicator_of(column) or "").partition("(")[0])
    if kind not in ARGUMENTS:
        raise InstructMineError(
            f"no indicator of this package makes '{column}': score the pool yourself, and use instructmine select"
        )
    arguments = {name: record[name] for name in ARGUMENTS[kind] if record.get(name) is not None}
    if kind in _BY_LANGUAGE_MODEL and model is not None:
        arguments = {name: value for name, value in arguments.items() if name not in ("tokenizer", "revision")}
        arguments[_MODEL[kind]] = model
    if match := NEIGHBOR_COLUMN.fullmatch(column):
        arguments["i"] = int(match[1])
    return kind, arguments


def _build(kind: str, arguments: dict[str, Any], names: list[str], texts: Mapping[str, str] | None) -> "Indicator":
    if kind == "Perplexity":
        arguments["also"] = [name for name in ("nll", "ifd", "end_of_turn") if name in names]
    if kind == "UniEval":
        arguments["dimensions"] = names
    return getattr(him, kind)(**arguments, columns=texts)
