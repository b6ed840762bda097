"""Conversations as other programs take them: TRL's columns."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from .containers import as_dataset
from .conversation import check_text_columns, read_conversations
from .fields import read_columns


_CHUNK = 1000


def to_prompt_completion(dataset: Any, columns: Mapping[str, Any] | None = None) -> Dataset:
    """Returns a dataset with TRL's conversational columns `prompt` and `completion`.

    Where rows have tools, or their own arguments of the chat template, it has TRL's columns `tools` (JSON text, None
    for a row without) and `chat_template_kwargs` too, and no others. Where messages carry more than `role` and
    `content`, they are stored as `datasets.Json`, which adds no nulls to them. Rows without a prompt or response keep
    their place, with an empty completion.

    Args:
        dataset (`Dataset`): Rows in any layout that [`read_turns`] knows.
        columns (`Mapping[str, str]`, *optional*): Which column is which, where that is not detected.

    Raises:
        [`InstructMineError`]: As [`read_turns`] does.

    Example:

    ```python
    >>> him.to_prompt_completion(him.load_sample_pool())[0]["prompt"]
    [{'role': 'user', 'content': 'Write and explain a Python loop that prints FizzBuzz for the numbers 1 to 15.'}]
    ```
    """
    from datasets import Features, Json, List, Value

    dataset = as_dataset(dataset, "dataset", columns=columns)
    check_text_columns(dataset, columns)
    found = _fields_found(dataset, columns)
    message = Json() if "messages" in found else {"role": Value("string"), "content": Value("string")}
    features = {"prompt": List(message), "completion": List(message)}
    if "tools" in found:
        features["tools"] = Value("string")
    if "chat_template_kwargs" in found:
        features["chat_template_kwargs"] = Json()

    def convert(batch: Mapping[str, Sequence], indices: list[int]) -> dict[str, list]:
        rows = read_conversations(batch, columns, first_row=indices[0])
        made: dict[str, list] = {
            "prompt": [row.prompt for row in rows],
            "completion": [row.completion for row in rows],
            "tools": [None if row.tools is None else json.dumps(row.tools, ensure_ascii=False) for row in rows],
            "chat_template_kwargs": [dict(row.template_kwargs) for row in rows],
        }
        return {name: made[name] for name in features}

    converted = dataset.map(
        convert,
        batched=True,
        with_indices=True,
        features=Features(features),
        remove_columns=dataset.column_names,
        desc="Reading conversations",
    )
    return converted.select_columns(list(features))


def _fields_found(dataset: Dataset, columns: Mapping[str, Any] | None) -> set[str]:
    """What some rows have besides plain messages: tools, arguments of the template, messages that carry more."""
    found = set()
    rows = dataset.with_format(None).select_columns(read_columns(dataset.column_names, columns))
    for start in range(0, len(rows), _CHUNK):
        for row in read_conversations(rows[start : start + _CHUNK], columns, start):
            has = {
                "tools": row.tools,
                "chat_template_kwargs": row.template_kwargs,
                "messages": row.extras or any(len(message) > 2 for message in row.prompt),
            }
            found |= {name for name, value in has.items() if value}
    return found
