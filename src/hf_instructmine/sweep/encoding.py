"""What the runs of a sweep read, encoded once before the first of them: a text that cannot be is found at once."""

from collections.abc import Mapping

from ..data.conversation import Conversation
from ..data.evaluation_sets import EvaluationSet
from ..finetuning.base_model import load_encoder
from ..finetuning.evaluation import EncodedSet, encode_set
from ..finetuning.recipe import Recipe
from ..finetuning.training_data import UnlearnableRowError, encode_training_set


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
        [`InstructMineError`]: Names the first row of the pool ([`UnlearnableRowError`]), or of an evaluation set,
            that cannot be encoded.
    """
    arguments = recipe.arguments()
    encoder, numbers, sft = load_encoder(arguments), sorted(conversations), arguments.sft
    try:
        encode_training_set(encoder, [conversations[i] for i in numbers], sft.max_length, sft.assistant_only_loss)
    except UnlearnableRowError as error:
        which = "of the pool, which is in a mixture,"
        raise UnlearnableRowError(numbers[error.row], error.reason, which) from error
    return {name: encode_set(s, encoder, arguments.own.eval_max_length) for name, s in eval_sets.items()}
