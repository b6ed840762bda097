"""What the runs of a sweep read, encoded once before the first of them: a text that cannot be is found at once."""

import re
import sys
from collections.abc import Mapping

import numpy as np

from ..data.conversation import Conversation
from ..data.evaluation_sets import EvaluationSet
from ..errors import InstructMineError
from ..finetuning.base_model import load_encoder
from ..finetuning.evaluation import EncodedSet, encode_set
from ..finetuning.recipe import Recipe
from ..finetuning.training_data import encode_training_set
from ..models.loading import LoadedModel


# How the error begins that `encode_training_set` raises, by the row's place in what it was given.
_PLACE = re.compile(r"^row 0 of the training data")


def encode_all(
    recipe: Recipe, eval_sets: Mapping[str, EvaluationSet], conversations: Mapping[int, Conversation]
) -> dict[str, EncodedSet]:
    """Encodes every row, to see that it can be, and the evaluation sets. No weights are loaded.

    Args:
        recipe ([`Recipe`]): Names the model, whose tokenizer and template write the texts.
        eval_sets (`Mapping[str, EvaluationSet]`): By name.
        conversations (`Mapping[int, Conversation]`): By number in the pool.

    Returns:
        `dict[str, EncodedSet]`: The evaluation sets.

    Raises:
        [`InstructMineError`]: Names the first row of the pool, or of an evaluation set, that cannot be encoded.
    """
    arguments = recipe.arguments()
    encoder = load_encoder(arguments)
    for number in sorted(conversations):
        try:
            encode_training_set(encoder, [conversations[number]], arguments.sft.max_length)
        except InstructMineError as error:
            said = str(error)
            place = f"row {number} of the pool, which is in a mixture,"
            told = _PLACE.sub(place, said) if _PLACE.match(said) else f"{place} cannot be learnt from: {said}"
            raise InstructMineError(told) from error
    return {name: _encoded(examples, encoder, arguments.own.eval_max_length) for name, examples in eval_sets.items()}


def _encoded(examples: EvaluationSet, encoder: LoadedModel, max_length: int) -> EncodedSet:
    try:
        return encode_set(examples, encoder, max_length)
    except InstructMineError as error:
        refused = next((k for k in range(len(examples.turns)) if not _can_be_encoded(examples, k, encoder)), 0)
        raise InstructMineError(
            f"row {examples.rows[examples.owners[refused]]} of the evaluation set '{examples.name}' cannot be "
            f"measured: {error}; drop it first"
        ) from error


def _can_be_encoded(examples: EvaluationSet, turn: int, encoder: LoadedModel) -> bool:
    alone = EvaluationSet(examples.name, [examples.turns[turn]], np.zeros(1, dtype=int), [0], 0)
    try:
        encode_set(alone, encoder, sys.maxsize)
    except InstructMineError:
        return False
    return True
