"""People's verdicts on the pairs that a judge has judged too."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..data.containers import as_dataset
from ..errors import InstructMineError
from .questions import Question


Labels = dict[str, dict[tuple[int, int], float]]
_SCORES = (0.0, 0.5, 1.0)


def read_people(people: Any, questions: Sequence[Question], models: Sequence[str]) -> Labels:
    """Reads people's verdicts. Of several on one pair the side counts that their mean is on.

    Args:
        people: Whatever [`as_dataset`] takes, with columns `row` (of the prompts, from 0), `turn` (from 0; 0 if there
            is no such column), `model` (may be left out where one model is compared with the baseline) and `score`: 1
            where the model is better, 0 where the baseline is, 0.5 for a tie.
        questions (`Sequence[Question]`): What was asked.
        models (`Sequence[str]`): Those that are compared with the baseline.

    Returns:
        `dict[str, dict[tuple[int, int], float]]`: By model, the score of each labelled row and turn.

    Raises:
        [`InstructMineError`]: Names the row that is of another judgement or no verdict, and the model that people hold
            the better in no pair, or in all: nothing can be learnt from such labels.
    """
    dataset = as_dataset(people, "people")
    needed = ["row", "score", *(["model"] if len(models) > 1 else [])]
    missing = [name for name in needed if name not in dataset.column_names]
    if missing:
        raise InstructMineError(f"people's verdicts have no column '{missing[0]}': they need {', '.join(needed)}")
    asked = {(question.row, turn) for question in questions for turn in range(len(question.turns))}
    found: dict[str, dict[tuple[int, int], list[float]]] = {}
    for number, line in enumerate(dataset):
        model, place = line.get("model", models[0]), (line["row"], line.get("turn", 0))
        here = f"row {number} of people's verdicts"
        if model not in models:
            raise InstructMineError(f"{here} is of '{model!s:.60}': the models are {', '.join(models)}")
        if place not in asked:
            row, turn = place
            raise InstructMineError(f"{here}: the prompts have no row {row!s:.20}, turn {turn!s:.20}")
        if isinstance(line["score"], bool) or line["score"] not in _SCORES:
            raise InstructMineError(f"{here}: score must be 1, 0.5 or 0, not {line['score']!r:.40}")
        found.setdefault(model, {}).setdefault(place, []).append(line["score"])
    labels = {model: {place: _majority(scores) for place, scores in places.items()} for model, places in found.items()}
    for model, places in labels.items():
        if not {0.0, 1.0} <= set(places.values()):
            raise InstructMineError(
                f"people's verdicts on '{model}' are all on one side: label pairs that it wins and pairs that it loses"
            )
    return labels


def placed(labels: dict[tuple[int, int], float], places: Iterable[tuple[int, int]]) -> np.ndarray:
    """The labels in the order of the verdicts, NaN where there is none."""
    return np.array([labels.get(place, np.nan) for place in places])


def _majority(scores: Sequence[float]) -> float:
    return (float(np.sign(np.mean(scores) - 0.5)) + 1) / 2
