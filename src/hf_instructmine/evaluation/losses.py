"""Losses on evaluation sets by name: MT-Bench and Self-Instruct from the Hub, or files, with references of one's own.

Nats per token are what finetunes are measured by; bits per byte (of UTF-8) are the same for every tokenizer.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from ..data.containers import as_dataset
from ..data.evaluation_sets import EvaluationSet, load_eval_sets
from ..data.fields import find_layouts
from ..errors import InstructMineError, one_line
from ..finetuning.evaluation import encode_set, evaluation_loss
from ..models.chat import Chat
from ..outputs.digests import digest


if TYPE_CHECKING:
    from ..models.loading import LoadedModel

logger = logging.getLogger(__name__)

# Where the sets that have a name here lie on the Hub. Self-Instruct's own repository is read by a script, which
# `datasets` no longer runs; its rows as Parquet are on a branch that the Hub makes.
ON_HUB: dict[str, dict[str, str]] = {
    "mt_bench": {"path": "HuggingFaceH4/mt_bench_prompts", "split": "train"},
    "self_instruct": {
        "path": "yizhongw/self_instruct",
        "data_dir": "human_eval",
        "revision": "refs/convert/parquet",
        "split": "train",
    },
}
# What a question is known by, and what holds an answer in a file of references: FastChat's answers have `choices`.
IDS = ("question_id", "id", "prompt_id")
ANSWERS = ("choices", "reference", "references", "answer", "output", "response", "completion", "turns")
CATEGORY = "category"


@dataclass(frozen=True)
class LossSet:
    """An evaluation set with what its losses are told by.

    Attributes:
        examples ([`EvaluationSet`]): With references.
        categories (`list[str | None]`): Of each example; None where the set has none.
    """

    examples: EvaluationSet
    categories: list[str | None]

    @property
    def identity(self) -> str:
        """A digest of prompts and references."""
        return digest([turn.identity for turn in self.examples.turns])


def open_sets(eval_sets: Any, references: Mapping[str, Any] | None = None) -> dict[str, LossSet]:
    """Opens evaluation sets.

    Args:
        eval_sets (`Mapping[str, Any]`, `str` or `Sequence[str]`): As for [`load_eval_sets`]; besides, `"mt_bench"` and
            `"self_instruct"` by name alone are those on the Hub.
        references (`Mapping[str, Any]`, *optional*): By set, other reference answers: a file or other rows, with
            the question's id (or in the set's order) and the answer or the answers of each turn; or
            `"column:NAME"`, a column of the set.

    Raises:
        [`InstructMineError`]: Where one cannot be opened, has no reference answers, or references do not fit it.
    """
    named = _named(eval_sets)
    references = dict(references or {})
    unknown = next((name for name in references if name not in named), None)
    if unknown is not None:
        raise InstructMineError(
            f"references are given for '{unknown}', which is none of {', '.join(named) or 'no set'}"
        )
    return {name: _open(name, source, references.get(name)) for name, source in named.items()}


def _named(eval_sets: Any) -> dict[str, Any]:
    """The sets by name. A name alone is that of a set on the Hub."""
    if eval_sets is None:
        return {}
    if isinstance(eval_sets, Mapping):
        return {name: name if source is None else source for name, source in eval_sets.items()}
    texts = [eval_sets] if isinstance(eval_sets, str) else list(eval_sets)
    named: dict[str, Any] = {}
    for text in texts:
        name, _, source = str(text).partition("=")
        if not source and name not in ON_HUB:
            raise InstructMineError(
                f"the evaluation set '{text}' is not of the form name=file-or-id; by name alone there are "
                f"{' and '.join(ON_HUB)}"
            )
        if name in named:
            raise InstructMineError(f"two evaluation sets have the name '{name}'")
        named[name] = source or name
    return named


def _open(name: str, source: Any, references: Any) -> LossSet:
    if isinstance(source, EvaluationSet):
        return LossSet(source, [None] * len(source.rows))
    if isinstance(source, str) and source in ON_HUB:
        dataset = from_hub(source)
    else:
        dataset = as_dataset(source, f"eval_sets[{name!r}]")
    if not len(dataset):
        raise InstructMineError(f"the evaluation set '{name}' is empty: give one with rows")
    if references is not None:
        dataset = with_references(dataset, name, references)
    examples = load_eval_sets({name: dataset})[name]
    found = dataset[CATEGORY] if CATEGORY in dataset.column_names else [None] * len(dataset)
    return LossSet(examples, [None if found[row] is None else str(found[row]) for row in examples.rows])


def from_hub(name: str) -> Dataset:
    """MT-Bench or Self-Instruct's 252 user-oriented tasks from the Hub, in a known layout.

    Raises:
        [`InstructMineError`]: Where it cannot be had: the Hub is out of reach, or holds it no longer in this form.
    """
    from datasets import load_dataset

    place = ON_HUB[name]
    try:
        rows = load_dataset(**place).to_list()
        if name == "mt_bench":
            return Dataset.from_list(
                [
                    {
                        "question_id": row["prompt_id"],
                        "category": row["category"],
                        "turns": row["prompt"],
                        "reference": row["reference"] or None,
                    }
                    for row in rows
                ]
            )
        return Dataset.from_list([_self_instruct(row) for row in rows])
    except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        raise InstructMineError(
            f"the evaluation set '{name}' cannot be had from the Hub ({place['path']}): "
            f"{one_line(error, first=True)}; give a file of it: {name}=FILE"
        ) from error


def _self_instruct(row: Mapping[str, Any]) -> dict[str, Any]:
    """One task; its instances are lists by field, or a list of them."""
    instances = row["instances"]
    first = instances[0] if isinstance(instances, list) else {key: values[0] for key, values in instances.items()}
    return {"id": row["id"], "instruction": row["instruction"], "input": first["input"], "output": first["output"]}


def with_references(dataset: Dataset, name: str, references: Any) -> Dataset:
    """A set with other reference answers; rows for which there is none have none.

    Raises:
        [`InstructMineError`]: Where there is no such column, an answer is of no question of the set, or two are.
    """
    names = dataset.column_names
    column = _response_column(dataset)
    if isinstance(references, str) and references.startswith("column:"):
        wanted = references.removeprefix("column:")
        if wanted not in names:
            raise InstructMineError(
                f"references: the evaluation set '{name}' has no column '{wanted}', but {', '.join(names)}"
            )
        answers = list(dataset[wanted])
    else:
        answers = _matched(dataset, name, as_dataset(references, f"references[{name!r}]"))
    turned = [
        _as_turns(answer) if column == "reference" and "turns" in names else _as_one(answer) for answer in answers
    ]
    return Dataset.from_dict({**{n: dataset[n] for n in names if n != column}, column: turned})


def _response_column(dataset: Dataset) -> str:
    names = dataset.column_names
    if "turns" in names:
        return "reference"
    usual = {"instruction": "output", "prompt": "completion", "question": "answer"}
    missing = next((response for prompt, response in usual.items() if prompt in names and response not in names), None)
    if missing is not None:
        return missing
    layout = next(iter(find_layouts(names).values()))
    if "response" not in layout:
        raise InstructMineError("references are for sets of questions: of conversations the answers are in the rows")
    return layout["response"]


def _matched(dataset: Dataset, name: str, answers: Dataset) -> list[Any]:
    """The answer to each question, by its id where both have one, else by its row."""
    held = next((column for column in ANSWERS if column in answers.column_names), None)
    if held is None:
        raise InstructMineError(
            f"references of '{name}' have the columns {', '.join(answers.column_names)}, of which none holds answers: "
            f"call it one of {', '.join(ANSWERS)}"
        )
    key = next((column for column in IDS if column in dataset.column_names and column in answers.column_names), None)
    if key is None and len(answers) != len(dataset):
        raise InstructMineError(
            f"references of '{name}' have {len(answers)} rows for {len(dataset)} questions, and no id in common "
            f"({', '.join(IDS)}): give each its question's id"
        )
    ids = list(dataset[key]) if key else list(range(len(dataset)))
    theirs = list(answers[key]) if key else ids
    found = dict(zip(theirs, answers[held]))
    strange = next((one for one in theirs if one not in set(ids)), None)
    if strange is not None or len(found) < len(theirs):
        what = (
            f"answer question {strange!r:.60}, which it does not have" if strange is not None else "answer one twice"
        )
        raise InstructMineError(f"references of '{name}' {what}: give one answer to each question of the set")
    return [found.get(one) for one in ids]


def _as_turns(answer: Any) -> list[str] | None:
    """The answers of all turns; of FastChat's choices the first."""
    if isinstance(answer, list) and answer and isinstance(answer[0], Mapping):
        answer = answer[0].get("turns")
    answers = [answer] if isinstance(answer, str) else answer
    return list(answers) if answers else None


def _as_one(answer: Any) -> str | None:
    turns = _as_turns(answer)
    return turns[0] if turns else None


def measure(loaded: "LoadedModel", held: LossSet, max_length: int) -> dict[str, Any]:
    """Measures a model's loss on every example of a set.

    Args:
        loaded ([`LoadedModel`]): The model, on its device.
        held ([`LossSet`]): The set.
        max_length (`int`): Tokens of prompt and response; what is longer is cut and counted.

    Returns:
        `dict`: Plain data. Arrays have an entry for each example: `nll` (nats), `tokens`, `bytes` (of UTF-8) and
        `categories`.
    """
    examples = held.examples
    encoded = encode_set(examples, loaded, max_length)
    found = evaluation_loss(loaded, encoded)
    sizes = np.zeros(len(examples.rows), dtype=int)
    np.add.at(sizes, examples.owners, _bytes(loaded, examples, max_length, bool(encoded.truncated)))
    return {
        "rows": examples.rows,
        "categories": held.categories,
        "nll": found.nll.tolist(),
        "tokens": found.tokens.tolist(),
        "bytes": sizes.tolist(),
        "turns": len(examples.turns),
        "truncated": encoded.truncated,
        "skipped": examples.skipped,
    }


def _bytes(loaded: "LoadedModel", examples: EvaluationSet, max_length: int, any_cut: bool) -> list[int]:
    """UTF-8 bytes of what is measured of each response; of one that is cut, those of the tokens that are left."""
    sizes = [len(turn.response.encode("utf-8", "replace")) for turn in examples.turns]
    if any_cut:
        chat, limit = Chat(loaded.tokenizer, loaded.template_kwargs), min(max_length, loaded.max_positions)
        for number, turn in enumerate(examples.turns):
            encoded = chat.encode(turn, end=False)
            kept = encoded.until(encoded.close).within(limit)
            if kept.cut == "truncated response":
                sizes[number] = len(str(loaded.tokenizer.decode(kept.ids[kept.start :])).encode("utf-8", "replace"))
    return sizes


@dataclass(frozen=True)
class Ratio:
    """A loss as a ratio of sums over examples: Σ NLL / Σ tokens, or in bits / Σ bytes.

    Attributes:
        value (`float`): The ratio.
        scores (`np.ndarray` of shape `(examples,)`): Each example's share, whose mean is `value`. A resample of them
            moves as the ratio does (linearised: Cochran 1977, section 6.3).
    """

    value: float
    scores: np.ndarray


def ratio(record: Mapping[str, Any], unit: str, chosen: Sequence[int] | None = None) -> Ratio:
    """A loss of a record of [`measure`].

    Args:
        record (`Mapping[str, Any]`): Of one model on one set.
        unit (`str`): `"nats/token"` or `"bits/byte"`.
        chosen (`Sequence[int]`, *optional*): Of these examples alone.
    """
    nll, below = np.array(record["nll"]), np.array(record["tokens" if unit == "nats/token" else "bytes"], dtype=float)
    above = nll if unit == "nats/token" else nll / math.log(2)
    if chosen is not None:
        above, below = above[list(chosen)], below[list(chosen)]
    value = above.sum() / below.sum()
    return Ratio(float(value), value + (above - value * below) / below.mean())
