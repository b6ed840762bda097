"""The rows that a finetune trains on, in token ids.

Texts are tokenised as the indicators and the evaluation tokenise them, so no text from the data becomes a special
token in training either.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.containers import as_dataset
from ..data.conversation import Conversation, check_text_columns, read_conversations
from ..errors import InstructMineError
from ..models.loading import LoadedModel
from ..models.tokenization import RefusedByTemplateError, encode_pair


MASKED = -100  # the label of a token that is not learnt


def read_training_data(dataset: Any, columns: Mapping[str, str] | None = None) -> list[Conversation]:
    """Reads a dataset's conversations.

    Raises:
        [`InstructMineError`]: Where it is empty, or its layout is not known.
    """
    dataset = as_dataset(dataset, "dataset", columns=columns)
    check_text_columns(dataset, columns)
    return read_conversations(dataset[:], columns)


@dataclass(frozen=True)
class TrainingSet:
    """A subset in token ids. `labels` hold the response and its EOS token, and -100 elsewhere."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    truncated: int

    @property
    def response_tokens(self) -> int:
        """How many tokens are learnt from."""
        return sum(label != MASKED for labels in self.labels for label in labels)


def encode_training_set(
    loaded: LoadedModel, conversations: Sequence[Conversation], max_length: int | None
) -> TrainingSet:
    """Token ids and labels of a subset. A text over `max_length` loses the start of its prompt, then the end of its
    response, and is counted.

    Raises:
        [`InstructMineError`]: Where a row has no response to learn from; names the first.
    """
    wrong = next(((i, c.problem) for i, c in enumerate(conversations) if c.problem), None)
    if wrong is not None:
        raise InstructMineError(
            f"row {wrong[0]} of the training data cannot be learnt from: {wrong[1]}; drop it first"
        )
    limit = max_length or sys.maxsize
    pairs = [_encoded(loaded, row, c, limit) for row, c in enumerate(conversations)]
    masked = next((i for i, (ids, start, _) in enumerate(pairs) if len(ids) <= start), None)
    if masked is not None:
        raise InstructMineError(f"row {masked} of the training data has no token to learn: raise max_length")
    return TrainingSet(
        [ids for ids, _, _ in pairs],
        [[MASKED] * start + ids[start:] for ids, start, _ in pairs],
        sum(note is not None for _, _, note in pairs),
    )


def _encoded(
    loaded: LoadedModel, row: int, conversation: Conversation, limit: int
) -> tuple[list[int], int, str | None]:
    try:
        return encode_pair(loaded, conversation, True, True, limit)
    except RefusedByTemplateError as error:
        raise InstructMineError(
            f"row {row} of the training data cannot be learnt from: {error}; drop it first"
        ) from error
