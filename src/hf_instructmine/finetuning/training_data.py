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
from ..models.chat import Chat, tell_notes
from ..models.loading import LoadedModel
from ..models.rendering import GENERATION, RefusedByTemplateError


MASKED = -100  # the label of a token that is not learnt


class UnlearnableRowError(InstructMineError):
    """A row that cannot be learnt from.

    Attributes:
        row (`int`): Its place among those that were given.
        reason (`str`): Why, and what to do.
    """

    def __init__(self, row: int, reason: str, which: str = "of the training data"):
        super().__init__(f"row {row} {which} cannot be learnt from: {reason}")
        self.row, self.reason = row, reason


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
    """A subset in token ids. `labels` hold what is learnt (responses, ends of their turns), and -100 elsewhere."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    truncated: int

    @property
    def response_tokens(self) -> int:
        """How many tokens are learnt from."""
        return sum(label != MASKED for labels in self.labels for label in labels)


def encode_training_set(
    loaded: LoadedModel, conversations: Sequence[Conversation], max_length: int | None, all_turns: bool = False
) -> TrainingSet:
    """Token ids and labels of a subset, as the chat template writes it.

    Args:
        loaded ([`LoadedModel`]): Its tokenizer and its arguments of the chat template.
        conversations (`Sequence[Conversation]`): The rows.
        max_length (`int`, *optional*): A text over it loses the start of its prompt, then the end of its response, and
            is counted; with `all_turns`, its end.
        all_turns (`bool`, defaults to `False`): Whether every assistant turn is learnt, or the last one alone.

    Raises:
        [`UnlearnableRowError`]: Where a row has no response to learn from; names the first.
        [`InstructMineError`]: Where the tokenizer lacks what every row needs.
    """
    chat = Chat(loaded.tokenizer, loaded.template_kwargs)
    limit = int(min(max_length or sys.maxsize, loaded.max_positions))
    template = _training_template(loaded) if all_turns else None
    rows = []
    for number, conversation in enumerate(conversations):
        if conversation.problem is not None:
            raise UnlearnableRowError(number, f"{conversation.problem}; drop it first")
        try:
            row = _all_turns(chat, conversation, template, limit) if all_turns else _last(chat, conversation, limit)
        except RefusedByTemplateError as error:
            raise UnlearnableRowError(number, f"{error}; drop it first") from error
        if not any(row.learnt):
            mend = "raise max_length" if row.truncated else "drop it first"
            raise UnlearnableRowError(number, f"no token to learn is left: {mend}")
        rows.append(row)
    tell_notes("training data", [row.note for row in rows])
    return TrainingSet(
        [row.ids for row in rows],
        [[i if learnt else MASKED for i, learnt in zip(row.ids, row.learnt)] for row in rows],
        sum(row.truncated for row in rows),
    )


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    learnt: list[bool]
    truncated: bool
    note: str | None = None


def _last(chat: Chat, conversation: Conversation, limit: int) -> _Row:
    turn = chat.encode(conversation).within(limit)
    learnt = [False] * turn.start + [True] * (len(turn.ids) - turn.start)
    return _Row(turn.ids, learnt, turn.cut is not None, turn.unwritten)


def _all_turns(chat: Chat, conversation: Conversation, template: str | None, limit: int) -> _Row:
    ids, learnt, note = chat.encode_turns(conversation, template)
    return _Row(ids[:limit], learnt[:limit], len(ids) > limit, note)


def _training_template(loaded: LoadedModel) -> str | None:
    """TRL's twin of the tokenizer's template that marks what the assistant generates; None where the template marks it
    itself, or TRL has no twin."""
    from trl.chat_template_utils import get_training_chat_template

    template = loaded.tokenizer.chat_template
    if template is None or GENERATION.search(str(template)):
        return None
    try:
        return get_training_chat_template(loaded.tokenizer)
    except ValueError:  # none of the templates that it knows
        return None
