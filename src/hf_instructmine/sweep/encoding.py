"""What the runs of a sweep read, encoded once before the first of them: a text that cannot be is found at once."""

import re
from collections.abc import Mapping

from ..data.conversation import Conversation
from ..data.evaluation_sets import EvaluationSet
from ..errors import InstructMineError
from ..finetuning.base_model import load_encoder
from ..finetuning.evaluation import EncodedSet, encode_set
from ..finetuning.recipe import Recipe
from ..finetuning.training_data import encode_training_set


# How the error begins that `encode_training_set` raises, by the row's place in what it was given.
_PLACE = re.compile(r"row (\d+) of the training data ")


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
    encoder, numbers, sft = load_encoder(arguments), sorted(conversations), arguments.sft
    try:
        encode_training_set(encoder, [conversations[i] for i in numbers], sft.max_length, sft.assistant_only_loss)
    except InstructMineError as error:
        placed = _PLACE.match(str(error))
        if placed is None:
            raise
        number = numbers[int(placed[1])]
        raise InstructMineError(
            f"row {number} of the pool, which is in a mixture, {str(error)[placed.end() :]}"
        ) from error
    return {name: encode_set(s, encoder, arguments.own.eval_max_length) for name, s in eval_sets.items()}
