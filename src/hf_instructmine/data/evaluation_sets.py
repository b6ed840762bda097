"""Evaluation sets: examples with reference answers, read and not yet tokenised."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from ..errors import InstructMineError
from .conversation import Conversation, check_text_columns, read_turns


logger = logging.getLogger(__name__)


def load_eval_sets(specifications: Sequence[str]) -> "dict[str, EvaluationSet]":
    """Opens evaluation sets named as `name=file-or-id`.

    Raises:
        [`InstructMineError`]: Where one is not of that form, cannot be opened, or has no reference answers.
    """
    from .inputs import load_pool

    sets = {}
    for text in specifications:
        name, separator, path = text.partition("=")
        if not separator or not name.isidentifier():
            raise InstructMineError(f"the evaluation set '{text}' is not of the form name=file-or-id")
        if name in sets:
            raise InstructMineError(f"two evaluation sets have the name '{name}'")
        sets[name] = EvaluationSet.read(name, load_pool([path]))
    return sets


@dataclass(frozen=True)
class EvaluationSet:
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

    @classmethod
    def read(cls, name: str, dataset: "Dataset", columns: Mapping[str, str] | None = None) -> "EvaluationSet":
        """Reads a dataset in any known layout; rows without a reference are skipped and counted.

        Raises:
            [`InstructMineError`]: Where no row has a reference, or the layout is unknown.
        """
        dataset = dataset.with_format(None)
        check_text_columns(dataset, columns)
        sound = {
            row: kept
            for row, turns in enumerate(read_turns(dataset[:], columns))
            if (kept := [turn for turn in turns if turn.problem is None])
        }
        if not sound:
            raise InstructMineError(f"no row of the evaluation set '{name}' has a reference answer to measure loss on")
        skipped = len(dataset) - len(sound)
        if skipped:
            logger.warning(
                "evaluation set '%s': %d of %d rows have no reference answer and are left out",
                name, skipped, len(dataset),
            )  # fmt: skip
        owners = np.repeat(np.arange(len(sound)), [len(turns) for turns in sound.values()])
        turns = [turn for turns in sound.values() for turn in turns]
        return cls(name, turns, owners, list(sound), skipped)
