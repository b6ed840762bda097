"""Conversations and evaluation sets handed from one process to another as they are.

A dataset's reader would guess types anew: an answer that reads like a date would come back as one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..data.conversation import Conversation
from ..data.evaluation_sets import EvaluationSet, load_eval_sets
from ..data.inputs import load_pool, parse_mapping
from .recipe import FinetuningArguments
from .training_data import read_training_data


# Files that end so hold what was handed over; all others are data that users name.
CONVERSATIONS, EVALUATION = ".conversations.json", ".evaluation.json"


def pack(conversations: Iterable[Conversation]) -> list[dict[str, Any]]:
    """Conversations as plain data."""
    return [asdict(conversation) for conversation in conversations]


def unpack(rows: Iterable[Mapping[str, Any]]) -> list[Conversation]:
    """What [`pack`] was given."""
    return [Conversation(**{**row, "masked": tuple(row["masked"])}) for row in rows]


def pack_set(examples: EvaluationSet) -> dict[str, Any]:
    """An evaluation set as plain data."""
    return {
        "name": examples.name,
        "turns": pack(examples.turns),
        "owners": examples.owners.tolist(),
        "rows": list(examples.rows),
        "skipped": examples.skipped,
    }


def unpack_set(packed: Mapping[str, Any]) -> EvaluationSet:
    """What [`pack_set`] was given."""
    turns, owners = unpack(packed["turns"]), np.array(packed["owners"])
    return EvaluationSet(packed["name"], turns, owners, packed["rows"], packed["skipped"])


def hand_over(folder: Path, conversations: Sequence[Conversation], eval_sets: Mapping[str, EvaluationSet]) -> dict:
    """Writes what a finetune trains on and is measured on; returns the options that name the files."""
    train = folder / f"subset{CONVERSATIONS}"
    train.write_text(json.dumps(pack(conversations)), encoding="utf-8")
    named = []
    for name, examples in eval_sets.items():
        path = folder / f"{name}{EVALUATION}"
        path.write_text(json.dumps(pack_set(examples)), encoding="utf-8")
        named.append(f"{name}={path}")
    return {"train": [str(train)], "eval_sets": named, "columns": None}


def read_inputs(own: FinetuningArguments) -> tuple[list[Conversation], dict[str, EvaluationSet]]:
    """What a finetune trains on and is measured on: handed over, or files, folders and Hub ids.

    Raises:
        [`InstructMineError`]: Where something cannot be opened, or its layout is not known.
    """
    if own.train[0].endswith(CONVERSATIONS):
        paths = [text.partition("=")[2] for text in own.eval_sets]
        sets = [unpack_set(json.loads(Path(path).read_text(encoding="utf-8"))) for path in paths]
        conversations = unpack(json.loads(Path(own.train[0]).read_text(encoding="utf-8")))
        return conversations, {examples.name: examples for examples in sets}
    columns = parse_mapping(own.columns)
    return read_training_data(load_pool(own.train, columns=columns), columns), load_eval_sets(own.eval_sets)
