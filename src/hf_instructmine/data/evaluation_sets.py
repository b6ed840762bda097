"""Evaluation sets: examples with reference answers, read and not yet tokenised."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from ..errors import InstructMineError
from ..outputs.markdown import count, printable
from ..outputs.shown import Cells, Shown
from .containers import as_dataset
from .conversation import Conversation, check_text_columns, read_turns
from .fields import read_columns


logger = logging.getLogger(__name__)
_CHUNK = 4096  # rows that are read at a time
_LOOKED_AT = 3  # turns shown in a notebook


def load_eval_sets(eval_sets: Any) -> "dict[str, EvaluationSet]":
    """Opens evaluation sets to measure losses on.

    Args:
        eval_sets (`Mapping[str, Any]`, `str` or `Sequence[str]`): By name, each whatever [`as_dataset`] takes or an
            [`EvaluationSet`]; or texts `name=source`, where the source is a file, a folder or a Hub id, the latter
            two with `:split` or `:config:split` after it where `train` is not meant and there are several.

    Raises:
        [`InstructMineError`]: Where one has no name, cannot be opened, or has no reference answers.

    Example:

    ```python
    >>> him.load_eval_sets({"mine": him.load_sample_evaluation()})
    {'mine': <EvaluationSet: mine, 48 examples with 48 turns to measure>}
    ```
    """
    named = _by_name(eval_sets)
    wrong = next((name for name in named if not isinstance(name, str) or not name.isidentifier()), None)
    if wrong is not None:
        raise InstructMineError(f"the evaluation set's name {wrong!r} must be letters, digits and underscores")
    opened = open_eval_sets(named)
    return {n: s if isinstance(s, EvaluationSet) else EvaluationSet.read(n, s) for n, s in opened.items()}


def open_eval_sets(eval_sets: Any) -> "dict[str, Dataset | EvaluationSet]":
    """Opens evaluation sets by name, rows without a reference included; see [`load_eval_sets`]."""
    return {
        name: examples if isinstance(examples, EvaluationSet) else as_dataset(examples, f"eval_sets[{name!r}]")
        for name, examples in _by_name(eval_sets).items()
    }


def _by_name(eval_sets: Any) -> dict[Any, Any]:
    if isinstance(eval_sets, Mapping):
        return dict(eval_sets)
    texts = [eval_sets] if isinstance(eval_sets, str) else eval_sets
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise InstructMineError(
            f"eval_sets is of type {type(eval_sets).__name__}: give each evaluation set its name, as in "
            "eval_sets={'mine': …}"
        )
    sets: dict[Any, Any] = {}
    for text in texts:
        name, separator, source = text.partition("=")
        if not separator or not name.isidentifier() or not source:
            raise InstructMineError(
                f"the evaluation set '{text}' is not of the form name=file-or-id, such as mine={text.split('=')[-1]}"
            )
        if name in sets:
            raise InstructMineError(f"two evaluation sets have the name '{name}'")
        sets[name] = source
    return sets


@dataclass(frozen=True, repr=False)
class EvaluationSet(Shown):
    """Examples with reference answers.

    Attributes:
        name (`str`): Names the loss: `loss_<name>`.
        turns (`list[Conversation]`): Every assistant turn of every example, given all before it.
        owners (`np.ndarray` of shape `(turns,)`): Which example each turn belongs to.
        rows (`list[int]`): The dataset's row of each example.
        skipped (`int`): Rows left out because they have no reference.
    """

    name: str
    turns: list[Conversation]
    owners: np.ndarray
    rows: list[int]
    skipped: int

    def _line(self) -> str:
        skipped = f", {self.skipped:,} without a reference left out" if self.skipped else ""
        examples, turns = count(len(self.rows), "example"), count(len(self.turns), "turn")
        return f"{printable(self.name, 60)}, {examples} with {turns} to measure{skipped}"

    def __str__(self) -> str:
        return self._line()

    def _tables(self) -> list[Cells]:
        rows = [
            [printable(turn.prompt[-1].get("content") if turn.prompt else ""), printable(turn.response)]
            for turn in self.turns[:_LOOKED_AT]
        ]
        return [Cells(f"The first {count(len(rows), 'turn')}", ["prompt", "reference"], rows, 2)]

    @classmethod
    def read(cls, name: str, dataset: Any, columns: Mapping[str, str] | None = None) -> "EvaluationSet":
        """Reads whatever [`as_dataset`] takes, in any known layout; rows without a reference are skipped and counted.

        Raises:
            [`InstructMineError`]: Where no row has a reference, or the layout is unknown.
        """
        dataset = as_dataset(dataset, f"eval_sets[{name!r}]", columns=columns)
        check_text_columns(dataset, columns)
        texts = dataset.with_format(None).select_columns(read_columns(dataset.column_names, columns))
        sound = {
            row: kept
            for start in range(0, len(texts), _CHUNK)
            for row, turns in enumerate(read_turns(texts[start : start + _CHUNK], columns, start), start)
            if (kept := [turn for turn in turns if turn.problem is None])
        }
        if not sound:
            raise InstructMineError(f"no row of the evaluation set '{name}' has a reference answer to measure loss on")
        skipped = len(dataset) - len(sound)
        if skipped:
            logger.warning(
                "evaluation set '%s': %d of %s no reference answer and are left out",
                name, skipped, count(len(dataset), "row has", "rows have"),
            )  # fmt: skip
        owners = np.repeat(np.arange(len(sound)), [len(turns) for turns in sound.values()])
        turns = [turn for turns in sound.values() for turn in turns]
        return cls(name, turns, owners, list(sound), skipped)
