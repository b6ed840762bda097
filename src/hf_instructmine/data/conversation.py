"""What a row is: any known layout of an instruction example, read as TRL's conversational prompt/completion.

Of a conversation with several turns, the last assistant turn is the response and everything before it is the prompt;
whatever follows the last assistant turn is not read. Rows are read, never rewritten: the user's columns stay as they
are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import InstructMineError


if TYPE_CHECKING:
    from datasets import Dataset

Message = dict[str, Any]

# So many names are listed in an error.
_TOLD = 12
# A layout says which column plays which part. Parts in `_OPTIONAL` may be absent or None.
LAYOUTS: dict[str, dict[str, str]] = {
    "messages": {"messages": "messages"},
    "ShareGPT": {"messages": "conversations"},
    "prompt/completion": {"prompt": "prompt", "response": "completion"},
    "Alpaca": {"prompt": "instruction", "input": "input", "response": "output"},
    "Dolly": {"prompt": "instruction", "input": "context", "response": "response"},
    "OpenOrca": {"system": "system_prompt", "prompt": "question", "response": "response"},
    "question/answer": {"prompt": "question", "response": "answer"},
    "MT-Bench": {"turns": "turns", "response": "reference"},
}
_OPTIONAL = {"input", "system"}
_PARTS = ("messages", "system", "prompt", "input", "response", "turns")
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant"}
# What the assistant thought before it wrote its response; templates read one of these names.
REASONING = ("reasoning_content", "thinking", "reasoning")
_KNOWN_ROLES = {"system", "developer", "user", "assistant", "tool", "function"}


@dataclass(frozen=True)
class Conversation:
    """One response and all that came before it.

    Attributes:
        prompt (`list[dict]`): Messages (`role`, `content`, and whatever else they carry, tool calls included).
        response (`str`): Content of the assistant turn; `""` where there is none.
        problem (`str`, *optional*): Why the row cannot be scored ("missing response", …); None for a sound row.
        extras (`Mapping[str, Any]`): What else the assistant turn carries: reasoning, tool calls.
        tools (`list[dict]`, *optional*): Tools that the chat template is told of.
        template_kwargs (`Mapping[str, Any]`): The row's own arguments of the chat template (`enable_thinking`, …).
        masked (`tuple[int, ...]`): Which messages of the prompt are assistant turns that are not to be learnt.
    """

    prompt: list[Message]
    response: str
    problem: str | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    masked: tuple[int, ...] = ()

    @property
    def completion(self) -> list[Message]:
        """The response as TRL's `completion`: one message."""
        return [{"role": "assistant", "content": self.response, **self.extras}]

    @property
    def written(self) -> str:
        """All that the assistant writes, as plain text: its reasoning, its response and its tool calls (as JSON)."""
        reasoning = [self.extras[name] for name in REASONING if self.extras.get(name)]
        calls = [
            json.dumps(call.get("function", call), ensure_ascii=False) for call in self.extras.get("tool_calls") or ()
        ]
        return "\n\n".join(part for part in (*reasoning[:1], self.response, *calls) if part)

    @property
    def prompt_text(self) -> str:
        """The contents of the prompt's messages, joined by blank lines."""
        return "\n\n".join(message["content"] for message in self.prompt if message["content"])


def read_conversations(
    batch: Mapping[str, Sequence], columns: Mapping[str, str] | None = None, first_row: int = 0
) -> list[Conversation]:
    """Reads each row's last response and its prompt. See [`read_turns`] for arguments and errors."""
    return [turns[-1] for turns in read_turns(batch, columns, first_row)]


def read_turns(
    batch: Mapping[str, Sequence], columns: Mapping[str, str] | None = None, first_row: int = 0
) -> list[list[Conversation]]:
    """Reads every assistant turn of each row, each with all that precedes it.

    Args:
        batch (`Mapping[str, Sequence]`): Columns of equal length, as `Dataset.map(batched=True)` passes them.
        columns (`Mapping[str, str]`, *optional*): Overrides the detection of the layout: which column holds the
            `messages`, or the `prompt` and `response`, and optionally the `input` and `system` message.
        first_row (`int`, defaults to 0): Number of the batch's first row, for messages of error.

    Returns:
        `list[list[Conversation]]`: At least one conversation per row. A row with missing text (None, no assistant
        turn) or an empty response gives one whose `problem` says so.

    Raises:
        [`InstructMineError`]: Where the layout is unknown or ambiguous, or a value is not text.
    """
    names = list(batch)
    size = len(batch[names[0]]) if names else 0
    layouts = find_layouts(names, columns)
    _check_batched(batch, layouts)
    return [_read_row({n: batch[n][i] for n in names}, layouts, first_row + i) for i in range(size)]


def _check_batched(batch: Mapping[str, Any], layouts: Mapping[str, Mapping[str, str]]) -> None:
    """Refuses a single row, as `Dataset.map` gives it without `batched=True`: its letters would count as rows."""
    for layout in layouts.values():
        for part, column in layout.items():
            value = batch[column]
            first = value[0] if isinstance(value, list) and value else None
            is_message = isinstance(first, Mapping) and (part == "messages" or not {"role", "from"}.isdisjoint(first))
            is_row = is_message or (part == "turns" and isinstance(first, str))
            if value is None or isinstance(value, str | bytes) or is_row:
                raise InstructMineError(
                    f"the column '{column}' holds one row, not a batch of rows: pass batched=True, as in "
                    "pool.map(indicator, batched=True)"
                )


def find_layouts(names: Sequence[str], columns: Mapping[str, str] | None = None) -> dict[str, dict[str, str]]:
    """Finds the layouts whose columns are all among `names`; more than one where pools of several were joined.

    Raises:
        [`InstructMineError`]: Where there is none, or `columns` names an unknown part or an absent column.
    """
    if columns is not None:
        return {"columns": _checked_mapping(names, columns)}
    found = {
        name: {part: column for part, column in layout.items() if column in names}
        for name, layout in LAYOUTS.items()
        if all(column in names for part, column in layout.items() if part not in _OPTIONAL)
    }
    if not found:
        known = "; ".join(f"{name} ({', '.join(layout.values())})" for name, layout in LAYOUTS.items())
        raise InstructMineError(
            f"no known layout: the columns are {_listed(names)}; known layouts are {known}; "
            "or say which is which with columns={'prompt': …, 'response': …}"
        )
    return found


def check_text_columns(dataset: "Dataset", columns: Mapping[str, str] | None = None) -> None:
    """Refuses a pool that is empty or whose text columns hold no text, from the schema alone: before hours of work.

    Raises:
        [`InstructMineError`]: Names the column, its type and the first row.
    """
    if len(dataset) == 0:
        raise InstructMineError("the dataset is empty: there is no row to score or select")
    layouts = find_layouts(dataset.column_names, columns)
    for layout in layouts.values():
        for part, column in layout.items():
            feature = dataset.features[column]
            dtype = getattr(feature, "dtype", None)
            is_text = dtype in ("string", "large_string", "string_view", "null")
            if not is_text and (part in ("system", "input") or hasattr(feature, "num_classes") or _is_number(dtype)):
                raise InstructMineError(
                    f"column '{column}' holds {dtype or 'lists'}, not text; row 0 is {dataset[0][column]!r:.80}; "
                    f"cast it to string or name another column with columns={{'{part}': …}}"
                )


def _is_number(dtype: str | None) -> bool:
    return dtype is not None and dtype.startswith(
        ("int", "uint", "float", "bool", "date", "time", "decimal", "binary")
    )


def _checked_mapping(names: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    unknown = [part for part in columns if part not in _PARTS]
    if unknown or not ("messages" in columns or ("response" in columns and {"prompt", "turns"} & set(columns))):
        raise InstructMineError(
            f"columns maps {_listed(columns)}; it must map 'messages', or 'prompt' and 'response' "
            "(and may map 'input' and 'system') to column names"
        )
    absent = [column for column in columns.values() if column not in names]
    if absent:
        raise InstructMineError(f"columns names {_listed(absent)}, but the dataset has {_listed(names)}")
    return dict(columns)


def _read_row(row: dict[str, Any], layouts: dict[str, dict[str, str]], number: int) -> list[Conversation]:
    usable = [
        name
        for name, layout in layouts.items()
        if all(row[column] is not None for part, column in layout.items() if part not in _OPTIONAL)
    ]
    if len(usable) > 1:
        raise InstructMineError(
            f"row {number} fits several layouts ({', '.join(usable)}): say which columns to read with "
            "columns={'prompt': …, 'response': …}"
        )
    if not usable:
        return [Conversation([], "", _missing_part(row, layouts))]
    layout = layouts[usable[0]]
    if "messages" in layout:
        return _split_turns(_read_messages(row[layout["messages"]], layout["messages"], number))
    if "turns" in layout:
        return _split_turns(_pair_turns(row[layout["turns"]], row[layout["response"]], layout, number))
    return [_read_pair(row, layout, number)]


def _missing_part(row: dict[str, Any], layouts: dict[str, dict[str, str]]) -> str:
    # With several layouts in one pool it cannot be known which of them the row was meant to have.
    if len(layouts) > 1:
        return "missing text"
    (layout,) = layouts.values()
    return "missing " + next(part for part, column in layout.items() if part not in _OPTIONAL and row[column] is None)


def _read_pair(row: dict[str, Any], layout: dict[str, str], number: int) -> Conversation:
    prompt = _as_messages(row[layout["prompt"]], "user", layout["prompt"], number)
    completion = _as_messages(row[layout["response"]], "assistant", layout["response"], number)
    extra = row[layout["input"]] if "input" in layout else None
    if extra:
        extra = {"role": "user", "content": _as_text(extra, layout["input"], number)}
        if prompt:
            extra = {**prompt[-1], "content": f"{prompt[-1]['content']}\n\n{extra['content']}"}
        prompt = [*prompt[:-1], extra]
    system = row[layout["system"]] if "system" in layout else None
    if system:
        prompt = [{"role": "system", "content": _as_text(system, layout["system"], number)}, *prompt]
    return _split_turns([*prompt, *completion])[-1]


def _pair_turns(questions: Any, answers: Any, layout: dict[str, str], number: int) -> list[Message]:
    """MT-Bench keeps the user's turns in one list and the reference answers in another, which may be shorter."""
    for value, part in ((questions, "turns"), (answers, "response")):
        if not isinstance(value, list):
            raise _not_text(value, layout[part], number, "a list of texts")
    messages = []
    for question, answer in zip(questions, answers):
        messages.append({"role": "user", "content": _as_text(question, layout["turns"], number)})
        messages.append({"role": "assistant", "content": _as_text(answer, layout["response"], number)})
    return messages


def _as_messages(value: Any, role: str, column: str, number: int) -> list[Message]:
    if isinstance(value, str):
        return [{"role": role, "content": _as_text(value, column, number)}]
    return _read_messages(value, column, number)


def _read_messages(value: Any, column: str, number: int) -> list[Message]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _not_text(value, column, number, "text or a list of messages")
    messages = []
    for turn in value:
        if not isinstance(turn, Mapping):
            raise _not_text(turn, column, number, "messages with 'role' and 'content' (or 'from' and 'value')")
        role = turn.get("role") or turn.get("from")
        role = _ROLES.get(role, role) if isinstance(role, str) else role
        if not isinstance(role, str) or role not in _KNOWN_ROLES:
            raise InstructMineError(
                f"row {number}, column '{column}': a message has the role {role!r}; "
                f"known roles are {', '.join(sorted(_KNOWN_ROLES))}, human and gpt"
            )
        content = turn.get("content") if turn.get("role") else turn.get("value")
        # Arrow fills the fields that other messages have (tool calls, names) with None: those were not there.
        kept = {k: v for k, v in turn.items() if v is not None and k not in ("role", "content", "from", "value")}
        content = "" if content is None else _as_text(content, column, number)  # a tool call has no content
        messages.append({"role": role, "content": content, **kept})
    return messages


def _split_turns(messages: list[Message]) -> list[Conversation]:
    turns = [
        Conversation(messages[:i], m["content"], None if m["content"].strip() else "empty response")
        for i, m in enumerate(messages)
        if m["role"] == "assistant"
    ]
    return turns or [Conversation(messages, "", "missing response")]


def _as_text(value: Any, column: str, number: int) -> str:
    if isinstance(value, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in value):
        # OpenAI's content parts. Arrow, and some services, write null for a part without text.
        value = "".join("" if part["text"] is None else part["text"] for part in value)
    if not isinstance(value, str):
        raise _not_text(value, column, number, "text")
    if value.isascii():
        return value
    # Half of a surrogate pair is no character: no tokenizer takes it. Read as U+FFFD, as a browser would show it.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _not_text(value: Any, column: str, number: int, wanted: str) -> InstructMineError:
    return InstructMineError(
        f"row {number}, column '{column}': expected {wanted}, got {type(value).__name__} {value!r:.60}; "
        "mend or drop the row, or name another column with columns={…}"
    )


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    told = ", ".join(f"'{name}'" for name in list(names)[:_TOLD])
    return f"{told}, … ({len(names)} in all)" if len(names) > _TOLD else told or "none"
