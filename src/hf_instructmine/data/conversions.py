"""Conversations as other programs take them: TRL's columns, and rows of JSON text that no reader guesses at."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .conversation import Conversation, check_text_columns, read_conversations


if TYPE_CHECKING:
    from datasets import Dataset


def to_prompt_completion(dataset: "Dataset", columns: Mapping[str, Any] | None = None) -> "Dataset":
    """Returns a dataset with TRL's conversational columns `prompt` and `completion`.

    Where rows have tools, or their own arguments of the chat template, it has TRL's columns `tools` (JSON text, None
    for a row without) and `chat_template_kwargs` too, and no others. Rows without a prompt or response keep their
    place, with an empty completion.

    Raises:
        [`InstructMineError`]: As [`read_turns`] does.
    """
    check_text_columns(dataset, columns)

    def convert(batch: Mapping[str, Sequence], indices: list[int]) -> dict[str, list]:
        rows = read_conversations(batch, columns, first_row=indices[0])
        return {
            "prompt": [row.prompt for row in rows],
            "completion": [row.completion for row in rows],
            "tools": [None if row.tools is None else json.dumps(row.tools, ensure_ascii=False) for row in rows],
            "chat_template_kwargs": [dict(row.template_kwargs) for row in rows],
        }

    converted = dataset.map(
        convert, batched=True, with_indices=True, remove_columns=dataset.column_names, desc="Reading conversations"
    )
    # Plain rows have the two columns that they are trained by.
    texts = converted.with_format(None)
    beside = [name for name in ("tools", "chat_template_kwargs") if any(texts[name])]
    return converted.select_columns(["prompt", "completion", *beside])


def to_json_row(conversation: Conversation, last_only: bool = False) -> dict[str, str | None]:
    """A conversation as columns of JSON text, which [`read_turns`] reads as the same conversation.

    A reader of files guesses types: `"2021-03-01"` becomes a date, and the arguments of tools a union of all rows'.

    Args:
        conversation ([`Conversation`]): A sound one.
        last_only (`bool`, defaults to `False`): Whether the earlier turns of the assistant are context alone.
    """
    messages = [
        {**m, "weight": 0} if i in conversation.masked or (last_only and m["role"] == "assistant") else m
        for i, m in enumerate(conversation.prompt)
    ]
    fields = {
        "messages": [*messages, *conversation.completion],
        "tools": conversation.tools,
        "chat_template_kwargs": dict(conversation.template_kwargs) or None,
    }
    return {name: None if value is None else json.dumps(value, default=str) for name, value in fields.items()}
