"""Conversations as other programs take them: TRL's columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from .containers import as_dataset
from .conversation import check_text_columns, read_conversations


def to_prompt_completion(dataset: Any, columns: Mapping[str, str] | None = None) -> Dataset:
    """Returns a dataset with TRL's conversational columns `prompt` and `completion`, and no others.

    Rows without a prompt or response keep their place, with an empty completion.

    Raises:
        [`InstructMineError`]: As [`read_turns`] does.
    """
    dataset = as_dataset(dataset, "dataset", columns=columns)
    check_text_columns(dataset, columns)

    def convert(batch: Mapping[str, Sequence], indices: list[int]) -> dict[str, list]:
        rows = read_conversations(batch, columns, first_row=indices[0])
        return {"prompt": [row.prompt for row in rows], "completion": [row.completion for row in rows]}

    return dataset.map(
        convert, batched=True, with_indices=True, remove_columns=dataset.column_names, desc="Reading conversations"
    )
