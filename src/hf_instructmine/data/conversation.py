"""What a row is: any known layout of an instruction example, read as TRL's conversational prompt/completion.

Of a conversation with several turns, the last assistant turn that is to be learnt is the response, and everything
before it is the prompt. Whatever follows it is not read. Rows are read, never rewritten: the user's columns stay as
they are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import InstructMineError
from .fields import MEDIA, PARTS, REASONING, REQUIRED, SYSTEM, TOOLS, find_layouts, read_roles
from .messages import (
    Message,
    Place,
    UnreadableRowError,
    as_messages,
    as_text,
    check_media,
    is_empty,
    not_text,
    parse_json,
    read_calls,
    read_messages,
    without_nulls,
)


if TYPE_CHECKING:
    from datasets import Dataset

# Arguments of `apply_chat_template` that a row may not set: they say what is rendered, by which template and tokens.
RESERVED_KWARGS = {
    "conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt",
    "continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs", "processor_kwargs", "sanitize_control_tokens", "strftime_now",
    "bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token",
}  # fmt: skip
_NO_HISTORY = "a history that is no list of [question, answer] pairs"


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
        return "\n\n".join(part for part in (*reasoning[:1], self.response, *calls_as_text(self.extras)) if part)

    @property
    def prompt_text(self) -> str:
        """The contents of the prompt's messages, joined by blank lines."""
        return "\n\n".join(message["content"] for message in self.prompt if message["content"])

    @property
    def identity(self) -> list[Any]:
        """What tells it from another, as plain data: prompt and response, and what else it is trained on, if any."""
        more = [dict(self.extras), self.tools, dict(self.template_kwargs)]
        return [self.prompt, self.response, *(more if any(more) else [])]


def calls_as_text(message: Mapping[str, Any]) -> list[str]:
    """The tool calls of a message as JSON, one text a call."""
    calls = message.get("tool_calls") or ()
    return [json.dumps(call.get("function", call), ensure_ascii=False, default=str) for call in calls]


def read_conversations(
    batch: Mapping[str, Sequence], columns: Mapping[str, Any] | None = None, first_row: int = 0
) -> list[Conversation]:
    """Reads each row's last response and its prompt. See [`read_turns`] for arguments and errors."""
    return [turns[-1] for turns in read_turns(batch, columns, first_row)]


def read_turns(
    batch: Mapping[str, Sequence], columns: Mapping[str, Any] | None = None, first_row: int = 0
) -> list[list[Conversation]]:
    """Reads every assistant turn of each row that is to be learnt, each with all that precedes it.

    Args:
        batch (`Mapping[str, Sequence]`): Columns of equal length, as `Dataset.map(batched=True)` passes them.
        columns (`Mapping[str, Any]`, *optional*): Overrides the detection of the layout: which column holds the
            `messages`, or the `prompt` and `response`, and optionally the `input`. Whatever the layout, it may say
            which holds the `system` message, `tools`, `history`, `chat_template_kwargs` and `reasoning`; None is
            none of them. `roles` takes names of speakers for known ones, as `{"teacher": "assistant"}`.
        first_row (`int`, defaults to 0): Number of the batch's first row, for messages of error.

    Returns:
        `list[list[Conversation]]`: At least one conversation per row. A row with missing text (None, no assistant
        turn), with an empty response, or with what cannot be read (a picture, say) gives one whose `problem` says so.

    Raises:
        [`InstructMineError`]: Where the layout is unknown or ambiguous, or a value is not text.
    """
    names = list(batch)
    size = len(batch[names[0]]) if names else 0
    layouts = find_layouts(names, columns)
    _check_batched(batch, layouts)
    used = sorted({column for layout in layouts.values() for column in layout.values()})
    reader = _RowReader(layouts, read_roles(columns))
    return [reader.read({name: batch[name][i] for name in used}, first_row + i) for i in range(size)]


def _check_batched(batch: Mapping[str, Any], layouts: Mapping[str, Mapping[str, str]]) -> None:
    """Refuses a single row, as `Dataset.map` gives it without `batched=True`: its letters would count as rows."""
    for layout in layouts.values():
        firsts = {c: batch[c][0] if isinstance(batch[c], list) and batch[c] else None for c in layout.values()}
        # One message may be all that a row has in a column, such as the answer that was chosen; not in all of them.
        is_batch = any(isinstance(firsts[c], list | str) for part, c in layout.items() if part in REQUIRED - {"turns"})
        for part, column in layout.items():
            value, first = batch[column], firsts[column]
            is_message = isinstance(first, Mapping) and (
                part == "messages" or (not is_batch and not {"role", "from"}.isdisjoint(first))
            )
            is_row = is_message or (part == "turns" and isinstance(first, str))
            if value is None or isinstance(value, str | bytes) or is_row:
                raise InstructMineError(
                    f"the column '{column}' holds one row, not a batch of rows: pass batched=True, as in "
                    "pool.map(indicator, batched=True)"
                )


def check_text_columns(dataset: "Dataset", columns: Mapping[str, Any] | None = None) -> None:
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
            is_text = part in MEDIA or dtype in ("string", "large_string", "string_view", "null")
            if not is_text and (
                part in (*SYSTEM, "input", "reasoning") or hasattr(feature, "num_classes") or _is_number(dtype)
            ):
                optional = "" if part in REQUIRED else f" (None: not read, where it is not meant to be the {part})"
                raise InstructMineError(
                    f"column '{column}' holds {dtype or 'lists'}, not text; row 0 is {dataset[0][column]!r:.80}; "
                    f"cast it to string or name another column with columns={{'{part}': …}}{optional}"
                )
    _check_unpaired(dataset, columns, layouts)


def _check_unpaired(dataset: "Dataset", columns: Mapping[str, Any] | None, layouts: Mapping[str, Any]) -> None:
    """Refuses answers of which some are bad, and marked so: they would be learnt from like the others."""
    # TRL's mark stands beside a prompt and a completion; elsewhere a `label` may say anything.
    marks = ["kto_tag", *(["label"] if "prompt/completion" in layouts else [])]
    bad = [name for name in marks if getattr(dataset.features.get(name), "dtype", None) == "bool"]
    if bad and (columns is None or not REQUIRED & columns.keys()):
        layout = {part: column for part, column in next(iter(layouts.values())).items() if part in PARTS}
        raise InstructMineError(
            f"the column '{bad[0]}' says of each answer whether it is a good one (unpaired preference): keep the rows "
            f"where it is true and drop it, or read all answers alike with columns={layout}"
        )


def _is_number(dtype: str | None) -> bool:
    return dtype is not None and dtype.startswith(
        ("int", "uint", "float", "bool", "date", "time", "decimal", "binary")
    )


class _RowReader:
    """Reads rows of some layouts.

    Args:
        layouts (`Mapping[str, Mapping[str, str]]`): From [`find_layouts`].
        roles (`Mapping[str, str]`): The roles by the names of their speakers.
    """

    def __init__(self, layouts: Mapping[str, Mapping[str, str]], roles: Mapping[str, str]):
        self.layouts = layouts
        self.roles = roles

    def read(self, row: dict[str, Any], number: int) -> list[Conversation]:
        """The turns of one row; a single one with a `problem` where it cannot be read."""
        usable = [
            name
            for name, layout in self.layouts.items()
            if all(row[column] is not None for part, column in layout.items() if part in REQUIRED)
        ]
        if len(usable) > 1:
            raise InstructMineError(
                f"row {number} fits several layouts ({', '.join(usable)}): say which columns to read with "
                "columns={'prompt': …, 'response': …}"
            )
        if not usable:
            return [Conversation([], "", self._missing_part(row))]
        layout = self.layouts[usable[0]]
        given = {part: row[column] for part, column in layout.items() if row[column] is not None}
        places = {part: (number, layout[part]) for part in given}
        try:
            messages = self._read_messages(given, places)
            if not given.keys() - PARTS:
                return _split_turns(messages)
            return self._read_beside(messages, given, places)
        except UnreadableRowError as error:
            return [Conversation([], "", str(error))]

    def _read_beside(
        self, messages: list[Message], given: Mapping[str, Any], places: Mapping[str, Place]
    ) -> list[Conversation]:
        """The turns of a row with all that stands beside its messages."""
        for part in MEDIA.keys() & given.keys():
            check_media(part, given[part])
        messages = self._with_history(messages, given, places)
        messages = _with_system(messages, given, places)
        messages = _with_reasoning(messages, given, places)
        return _split_turns(messages, _read_tools(given), _read_template_kwargs(given))

    def _missing_part(self, row: dict[str, Any]) -> str:
        # With several layouts in one pool it cannot be known which of them the row was meant to have.
        if len(self.layouts) > 1:
            return "missing text"
        (layout,) = self.layouts.values()
        return "missing " + next(p for p, column in layout.items() if p in REQUIRED and row[column] is None)

    def _read_messages(self, given: Mapping[str, Any], places: Mapping[str, Place]) -> list[Message]:
        """The messages of the layout's own columns."""
        if "messages" in given:
            return read_messages(given["messages"], places["messages"], self.roles)
        if "turns" in given:
            return _pair_turns(given, places)
        prompt = as_messages(given["prompt"], "user", places["prompt"], self.roles)
        if given.get("input"):
            text = as_text(given["input"], places["input"])
            last = {**prompt[-1], "content": f"{prompt[-1]['content']}\n\n{text}"} if prompt else None
            prompt = [*prompt[:-1], last or {"role": "user", "content": text}]
        if "calls" in given:
            return [*prompt, _calling(given["calls"])]
        completion = as_messages(given["response"], "assistant", places["response"], self.roles)
        return _join(prompt, completion)

    def _with_history(
        self, messages: list[Message], given: Mapping[str, Any], places: Mapping[str, Place]
    ) -> list[Message]:
        """LLaMA-Factory keeps earlier turns as pairs of question and answer; they follow the system message."""
        value = given.get("history")
        history = parse_json(value) if isinstance(value, str) else value
        if is_empty(value) or history == []:
            return messages
        if not isinstance(history, list):
            raise UnreadableRowError(_NO_HISTORY)
        earlier: list[Message] = []
        if all(isinstance(turn, Mapping) for turn in history):
            earlier = read_messages(history, places["history"], self.roles)
        else:
            for pair in history:
                if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(t, str) for t in pair)):
                    raise UnreadableRowError(_NO_HISTORY)
                question, answer = (as_text(text, places["history"]) for text in pair)
                earlier += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        start = _system_messages(messages)
        return [*messages[:start], *earlier, *messages[start:]]


def _pair_turns(given: Mapping[str, Any], places: Mapping[str, Place]) -> list[Message]:
    """MT-Bench keeps the user's turns in one list and the reference answers in another, which may be shorter."""
    for part in ("turns", "response"):
        if not isinstance(given[part], list):
            raise not_text(given[part], places[part], "a list of texts")
    messages = []
    for question, answer in zip(given["turns"], given["response"]):
        messages.append({"role": "user", "content": as_text(question, places["turns"])})
        messages.append({"role": "assistant", "content": as_text(answer, places["response"])})
    return messages


def _calling(answers: Any) -> Message:
    """The answers of xLAM are calls of tools alone, as JSON text."""
    calls = read_calls(without_nulls(answers))
    if calls is None:
        raise UnreadableRowError("answers that are no list of tool calls")
    return {"role": "assistant", "content": "", **({"tool_calls": calls} if calls else {})}


def _join(prompt: list[Message], completion: list[Message]) -> list[Message]:
    """Prompt and completion as one conversation; a completion that begins with the prompt is the whole of it.

    An assistant's turn of the prompt was not asked for: as TRL, nobody learns it.
    """
    context = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in prompt]
    if len(completion) == 1:
        return [*context, *completion]
    opening, start = _system_messages(prompt), _system_messages(completion)
    asked, rest = _said(prompt[opening:]), completion[start:]
    systems = {tuple(_said(part)) for part in (prompt[:opening], completion[:start]) if part}
    if len(asked) >= len(rest) or _said(rest[: len(asked)]) != asked or len(systems) > 1:
        return [*context, *completion]
    return [*(completion[:start] or context[:opening]), *context[opening:], *rest[len(asked) :]]


def _said(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(m["role"], m["content"].strip()) for m in messages]


def _system_messages(messages: Sequence[Message]) -> int:
    """How many system messages open a conversation."""
    return next((i for i, m in enumerate(messages) if m["role"] not in ("system", "developer")), len(messages))


def _with_system(messages: list[Message], given: Mapping[str, Any], places: Mapping[str, Place]) -> list[Message]:
    texts = [as_text(given[part], places[part]) for part in SYSTEM if given.get(part)]
    there = {m["content"].strip() for m in messages if m["role"] in ("system", "developer")}
    wanted = {text.strip() for text in texts} - {""}
    if wanted <= there:
        return messages
    if there or len(wanted) > 1:
        raise UnreadableRowError("two system messages that differ")
    return [{"role": "system", "content": next(text for text in texts if text.strip())}, *messages]


def _with_reasoning(messages: list[Message], given: Mapping[str, Any], places: Mapping[str, Place]) -> list[Message]:
    """The same with what a column says of the reasoning before the last response."""
    if "reasoning" not in given:
        return messages
    column, text = places["reasoning"][1], as_text(given["reasoning"], places["reasoning"])
    last = next((i for i in reversed(range(len(messages))) if _is_learnt(messages[i])), None)
    if last is None or not text.strip():
        return messages
    there = {messages[last][other].strip() for other in REASONING if other in messages[last]}
    if there - {text.strip()}:
        raise UnreadableRowError("two reasonings of one response that differ")
    thought = {} if there else {column if column in REASONING else REASONING[0]: text}
    return [*messages[:last], {**messages[last], **thought}, *messages[last + 1 :]]


def _read_tools(given: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    found: list[list[dict[str, Any]]] = []
    for part in TOOLS:
        value = given.get(part)
        if is_empty(value):
            continue
        tools = parse_json(value) if isinstance(value, str) else without_nulls(value)
        if isinstance(tools, list):
            tools = [parse_json(tool) if isinstance(tool, str) else tool for tool in tools]
        if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
            raise UnreadableRowError("tools that are no JSON list of definitions")
        # The older name for a list of functions alone, which templates know as one kind of tool.
        wrap = part == "functions"
        found.append([{"type": "function", "function": t} if wrap and "function" not in t else dict(t) for t in tools])
    if len(found) > 1 and found[0] != found[1]:
        raise UnreadableRowError("tools and functions that differ")
    return found[0] or None if found else None


def _read_template_kwargs(given: Mapping[str, Any]) -> dict[str, Any]:
    value = given.get("chat_template_kwargs")
    if is_empty(value):
        return {}
    found = parse_json(value) if isinstance(value, str) else without_nulls(value)
    if not isinstance(found, Mapping):
        raise UnreadableRowError("chat_template_kwargs that are no JSON object")
    reserved = sorted(RESERVED_KWARGS & found.keys())
    if reserved:
        raise UnreadableRowError(f"chat_template_kwargs that set '{reserved[0]}', which is not for a row to say")
    return dict(found)


def _is_learnt(message: Message) -> bool:
    return message["role"] == "assistant" and "weight" not in message


def _split_turns(
    messages: list[Message],
    tools: list[dict[str, Any]] | None = None,
    template_kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> list[Conversation]:
    masked = [i for i, m in enumerate(messages) if "weight" in m]  # the reader of messages leaves it on no others
    clean = [{name: value for name, value in m.items() if name != "weight"} for m in messages] if masked else messages
    beside: dict[str, Any] = {"tools": tools, "template_kwargs": dict(template_kwargs)}
    turns = []
    for i, message in enumerate(clean):
        if not _is_learnt(messages[i]):
            continue
        extras = {name: value for name, value in message.items() if name not in ("role", "content")}
        writes = message["content"].strip() or "tool_calls" in extras or any(name in extras for name in REASONING)
        problem = None if writes else "empty response"
        before = tuple(j for j in masked if j < i)
        turns.append(Conversation(clean[:i], message["content"], problem, extras, masked=before, **beside))
    problem = "every assistant turn is masked" if masked else "missing response"
    return turns or [Conversation(clean, "", problem, masked=tuple(masked), **beside)]
