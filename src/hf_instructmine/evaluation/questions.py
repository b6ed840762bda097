"""Prompts that models are asked, in any layout of rows, with the reference answers that some have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from datasets import Dataset

from ..data.containers import as_dataset
from ..data.conversation import Conversation, read_turns
from ..data.fields import find_layouts
from ..data.messages import Message, parse_json
from ..errors import InstructMineError
from ..outputs.digests import digest


# Stands where a row has no reference: the layouts are those of examples, which have an answer to each prompt.
_NONE = "\x00no reference\x00"
_ANSWERS = ("output", "completion", "response", "answer", "reference")
_ASSISTANTS = ("assistant", "gpt", "ai", "bot", "chatgpt", "model")


@dataclass(frozen=True)
class Question:
    """What one row asks.

    Attributes:
        row (`int`): Its number in the prompts.
        name (`str` or `int`): Its `question_id` where rows have one, else its row.
        turns (`list[list[dict]]`): Messages before each answer that come after the answer before it.
        references (`list[str | None]`): A reference answer for each turn, or None.
        category (`str`, *optional*): Of the column `category`.
        tools, template_kwargs: As a [`Conversation`] has them.
    """

    row: int
    name: str | int
    turns: list[list[Message]]
    references: list[str | None]
    category: str | None = None
    tools: list[dict[str, Any]] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def conversation(self, answers: Sequence[str]) -> Conversation:
        """The prompt of the turn that follows so many answers of a model."""
        messages = list(self.turns[0])
        for answer, turn in zip(answers, self.turns[1:]):
            messages += [{"role": "assistant", "content": answer}, *turn]
        return Conversation(messages, "", tools=self.tools, template_kwargs=self.template_kwargs)

    @property
    def identity(self) -> list[Any]:
        """What a model is asked, as plain data."""
        more = [self.tools, dict(self.template_kwargs)]
        return [self.turns, *(more if any(more) else [])]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that tell what is asked from all else."""
        return digest(self.identity)


def read_questions(prompts: Any, columns: Mapping[str, Any] | None = None, references: Any = None) -> list[Question]:
    """Reads prompts. An assistant's turns are references, and each model is asked the turns between them.

    Args:
        prompts: Whatever [`as_dataset`] takes, in any layout of `docs/rows.md`; rows need no answers.
        columns (`Mapping[str, Any]`, *optional*): As [`read_turns`] takes it.
        references: Rows of other references, by `question_id` where both have one, else in the order of the prompts:
            a column `reference` (a text, or a list of one for each turn), MT-Bench's own files (`choices`), or
            examples in any layout.

    Raises:
        [`InstructMineError`]: Where there is no prompt, a row cannot be read, or references are of other questions.
    """
    dataset = as_dataset(prompts, "prompts", columns=columns)
    if not len(dataset):
        raise InstructMineError("the prompts are empty: there is nothing to ask")
    questions = _read(dataset, columns)
    return questions if references is None else _with_references(questions, as_dataset(references, "references"))


def _read(dataset: Dataset, columns: Mapping[str, Any] | None) -> list[Question]:
    batch = dataset[:]
    mapped = _mapped(dataset.column_names, columns)
    for answers in _candidates(dataset.column_names, mapped):
        names = [*dataset.column_names, *answers]
        try:
            layouts = find_layouts(names, mapped)
        except InstructMineError:
            continue
        break
    else:
        layouts = find_layouts(dataset.column_names, mapped)  # which says what is wrong
    size = len(dataset)
    given = {name: list(batch.get(name, [None] * size)) for name in (*dataset.column_names, *answers)}
    for row in range(size):
        _fill(given, row, layouts)
    read = read_turns(given, mapped)
    return [_question(number, turns, dataset) for number, turns in enumerate(read)]


def _mapped(names: Sequence[str], columns: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The mapping, with a column for the answers where it names the prompt alone."""
    if columns is None or not {"prompt", "turns"} & columns.keys() or "response" in columns:
        return columns
    return {**columns, "response": "response"}


def _candidates(names: Sequence[str], mapped: Mapping[str, Any] | None) -> list[list[str]]:
    absent = [name for name in _ANSWERS if name not in names]
    if mapped is not None and mapped.get("response") in absent:
        return [[mapped["response"]]]
    return [[], *([name] for name in absent)]


def _fill(given: dict[str, list], row: int, layouts: Mapping[str, Mapping[str, str]]) -> None:
    """Puts a mark where a row of the prompts has no answer."""
    for layout in layouts.values():
        if any(given[layout[part]][row] is None for part in ("prompt", "turns", "messages") if part in layout):
            continue
        if "messages" in layout:
            given[layout["messages"]][row] = _ended(given[layout["messages"]][row])
        elif "turns" in layout:
            turns, answers = given[layout["turns"]][row], given[layout["response"]][row]
            if isinstance(turns, list) and (answers is None or isinstance(answers, list)):
                filled = [*(_NONE if text in (None, "") else text for text in answers or ())]
                given[layout["response"]][row] = [*filled, *[_NONE] * (len(turns) - len(filled))]
        elif "response" in layout and given[layout["response"]][row] in (None, "", []):
            given[layout["response"]][row] = _NONE


def _ended(messages: Any) -> Any:
    """The messages with an answer after the last question."""
    turns = parse_json(messages) if isinstance(messages, str) else messages
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], Mapping):
        return messages
    name = "role" if turns[-1].get("role") else "from"
    if str(turns[-1].get(name)).lower() in _ASSISTANTS:
        return messages
    said = {"role": "assistant", "content": _NONE} if name == "role" else {"from": "gpt", "value": _NONE}
    return [*turns, said]


def _question(row: int, found: list[Conversation], dataset: Dataset) -> Question:
    """A question of the turns of a row."""
    turns: list[list[Message]] = []
    references: list[str | None] = []
    before = 0
    for turn in found:
        if turn.problem is not None and turn.problem != "empty response":
            raise InstructMineError(f"row {row} of the prompts cannot be asked: {turn.problem}; mend or drop it")
        messages = turn.prompt[before:]
        if not any(message["content"].strip() for message in messages if message["role"] != "system"):
            raise InstructMineError(f"row {row} of the prompts asks nothing: its prompt is empty; mend or drop it")
        turns.append(messages)
        references.append(None if turn.response in (_NONE, "") else turn.response)
        before = len(turn.prompt) + 1
    named = dataset[row]["question_id"] if "question_id" in dataset.column_names else None
    category = dataset[row]["category"] if "category" in dataset.column_names else None
    return Question(
        row,
        row if named is None else named,
        turns,
        references,
        None if category is None else str(category),
        found[-1].tools,
        found[-1].template_kwargs,
    )


def _with_references(questions: list[Question], dataset: Dataset) -> list[Question]:
    rows = dataset.to_list()
    by_name = "question_id" in dataset.column_names and any(q.name != q.row for q in questions)
    if by_name:
        texts: dict[Any, list[str | None]] = {row["question_id"]: _references_of(row, dataset) for row in rows}
        if not texts.keys() & {question.name for question in questions}:
            raise InstructMineError("the references are of other questions: no question_id is one of the prompts'")
    elif len(rows) != len(questions):
        raise InstructMineError(
            f"there are {len(rows)} references for {len(questions)} prompts: give one for each, or both a question_id"
        )
    else:
        texts = {question.name: _references_of(row, dataset) for question, row in zip(questions, rows)}
    return [replace(q, references=_fitted(texts.get(q.name), q)) for q in questions]


def _fitted(texts: list[str | None] | None, question: Question) -> list[str | None]:
    """A reference for each turn; those of the prompts where there is no other."""
    if texts is None:
        return question.references
    return [texts[i] if i < len(texts) else None for i in range(len(question.turns))]


def _references_of(row: Mapping[str, Any], dataset: Dataset) -> list[str | None]:
    value = row.get("reference")
    if value is None and row.get("choices"):  # MT-Bench's reference answers
        choices = row["choices"]
        value = choices[0].get("turns") if isinstance(choices, list) and isinstance(choices[0], Mapping) else None
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(text is None or isinstance(text, str) for text in value):
        return list(value)
    if value is None and "reference" not in row and "choices" not in row:
        (turns,) = read_turns({name: [item] for name, item in row.items()})
        return [turn.response or None for turn in turns]
    if value is None:
        return []
    raise InstructMineError(f"a reference is a text, or a list of one for each turn, not {value!r:.60}")
