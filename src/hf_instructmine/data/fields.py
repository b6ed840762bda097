"""The known fields of a row: which column plays which part, in any layout, and by which names a speaker goes."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InstructMineError


# So many names are listed in an error.
_TOLD = 12
# A layout says which column plays which part. Parts in `_OPTIONAL` need no column.
LAYOUTS: dict[str, dict[str, str]] = {
    "messages": {"messages": "messages"},
    "ShareGPT": {"messages": "conversations"},
    "prompt/completion": {"prompt": "prompt", "response": "completion"},
    "Alpaca": {"prompt": "instruction", "input": "input", "response": "output"},
    "Dolly": {"prompt": "instruction", "input": "context", "response": "response"},
    "OpenOrca": {"system_prompt": "system_prompt", "prompt": "question", "response": "response"},
    "question/answer": {"prompt": "question", "response": "answer"},
    "MT-Bench": {"turns": "turns", "response": "reference"},
    "xLAM": {"prompt": "query", "calls": "answers", "tools": "tools"},
}
_OPTIONAL = {"input", "system_prompt"}
# A row without one of these has nothing to learn from.
REQUIRED = {"messages", "prompt", "response", "turns", "calls"}
PARTS = {*REQUIRED, "input"}

# What no text model reads; a row that has some is no row of text.
MEDIA = {
    "images": "an image",
    "image": "an image",
    "videos": "a video",
    "video": "a video",
    "audios": "a sound",
    "audio": "a sound",
}
# Read beside any layout, under these names. A part may go by several: rows of joined pools have one or the other.
SYSTEM, TOOLS = ("system", "system_prompt"), ("tools", "functions")
BESIDE = {*SYSTEM, *TOOLS, "history", "chat_template_kwargs", *MEDIA}
# Mapped parts: which sets of them make a layout, and what may be mapped besides, whatever the layout.
_MAPPED_LAYOUTS = ({"messages"}, {"prompt", "response"}, {"prompt", "input", "response"}, {"turns", "response"})
_MAPPED_BESIDE = {"system", "tools", "history", "chat_template_kwargs", "reasoning"}

# What the assistant thought before it wrote its response; templates read one of these names.
REASONING = ("reasoning_content", "thinking", "reasoning")
# Columns that mean something to someone who trains, and are not read by themselves.
_NOT_READ = {
    *REASONING, "thought", "thoughts", "reasoning_trace", "chain_of_thought", "cot", "rationale", "explanation",
    "text", "problem", "solution", "chosen", "rejected", "completions", "responses", "generations",
    "label", "labels", "kto_tag", "weight", "mask", "documents", "tool_calls", "function_call", "tool_choice",
    "parallel_tool_calls",
}  # fmt: skip
# Every column that carries text or meaning in some format; whichever of them a pool has is read, or named.
KNOWN_COLUMNS = {column for layout in LAYOUTS.values() for column in layout.values()} | BESIDE | _NOT_READ

# Names of speakers, lower-case and with "_" for "-". A turn of `CALL` is an assistant's whose text is a tool call.
CALL = "call"
ROLES = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("developer",), "developer"),
    **dict.fromkeys(("user", "human", "prompter", "instruction"), "user"),
    **dict.fromkeys(("assistant", "gpt", "ai", "bot", "chatgpt", "model"), "assistant"),
    **dict.fromkeys(
        (
            "tool", "function", "observation", "function_response", "tool_response", "function_result", "tool_result",
            "environment", "ipython",
        ),
        "tool",
    ),
    **dict.fromkeys(("function_call", "tool_call"), CALL),
}  # fmt: skip
# Those that an error names.
KNOWN_ROLES = "system, developer, user, human, assistant, gpt, model, tool, observation, function_call"


def find_layouts(names: Sequence[str], columns: Mapping[str, Any] | None = None) -> dict[str, dict[str, str]]:
    """Finds the layouts whose columns are all among `names`; more than one where pools of several were joined.

    Args:
        names (`Sequence[str]`): Columns of the pool.
        columns (`Mapping[str, Any]`, *optional*): Which column plays which part. Parts that make no layout of
            themselves (`system`, `tools`, `history`, `chat_template_kwargs`, `reasoning`) and `roles` leave it
            detected. A part that is None is not read.

    Returns:
        `dict[str, dict[str, str]]`: For each layout the columns that are read, by part; those beside it by their name.

    Raises:
        [`InstructMineError`]: Where there is none, or `columns` names an unknown part or an absent column.
    """
    mapped = {} if columns is None else _checked_mapping(names, columns)
    own = {part: column for part, column in mapped.items() if column is not None and part not in BESIDE}
    if set(own) - {"reasoning"}:
        found = {"columns": own}
    else:
        found = {
            name: {part: column for part, column in layout.items() if column in names} | own
            for name, layout in LAYOUTS.items()
            if all(column in names for part, column in layout.items() if part not in _OPTIONAL)
        }
        _check_found(names, found)
    return {name: _with_beside(layout, names, mapped) for name, layout in found.items()}


def read_columns(names: Sequence[str], columns: Mapping[str, Any] | None = None) -> list[str]:
    """The columns that are read, sorted; see [`find_layouts`] for arguments and errors."""
    layouts = find_layouts(names, columns)
    return sorted({column for layout in layouts.values() for column in layout.values()})


def read_roles(columns: Mapping[str, Any] | None) -> dict[str, str]:
    """The roles by the names of their speakers: the known names, and those of `columns["roles"]`."""
    own = {} if columns is None else columns.get("roles") or {}
    return {**ROLES, **{role_key(name): ROLES[role_key(role)] for name, role in own.items()}}


def role_key(name: str) -> str:
    """A speaker's name as the table of roles has it."""
    return name.strip().lower().replace("-", "_")


def listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    """Names in quotes; the first few of many, and how many there are."""
    told = ", ".join(f"'{name}'" for name in list(names)[:_TOLD])
    return f"{told}, … ({len(names)} in all)" if len(names) > _TOLD else told or "none"


def _with_beside(layout: Mapping[str, str], names: Sequence[str], mapped: Mapping[str, str | None]) -> dict[str, str]:
    # One who maps `system` says what the system message is: no column of a like name is read then.
    groups = (SYSTEM, TOOLS, *((name,) for name in BESIDE))
    said = {alias for part in mapped if part in BESIDE for alias in next(g for g in groups if part in g)}
    kept = {part: column for part, column in layout.items() if part not in said}
    given = {part: column for part, column in mapped.items() if column is not None and part in BESIDE}
    taken = {*kept.values(), *given.values(), *said}
    return {**kept, **{name: name for name in names if name in BESIDE and name not in taken}, **given}


def _checked_mapping(names: Sequence[str], columns: Mapping[str, Any]) -> dict[str, str | None]:
    mapped = {part: column for part, column in columns.items() if part != "roles"}
    left_out = {part for part, column in mapped.items() if column is None and part in BESIDE}
    layout = mapped.keys() - _MAPPED_BESIDE - left_out
    if not columns or (layout and layout not in _MAPPED_LAYOUTS):
        raise InstructMineError(
            f"columns maps {listed(columns)}; it must map 'messages', or 'prompt' and 'response' (and may map 'input')"
            ", or 'turns' and 'response', to column names; beside them or alone it may map "
            f"{listed(sorted(_MAPPED_BESIDE))} and 'roles'"
        )
    absent = [column for part, column in mapped.items() if column not in names and part not in left_out]
    if absent:
        raise InstructMineError(f"columns names {listed(absent)}, but the dataset has {listed(names)}")
    roles = columns.get("roles")
    if roles is not None and not (isinstance(roles, Mapping) and all(isinstance(name, str) for name in roles)):
        raise InstructMineError(f"columns['roles'] is {roles!r:.60}; write {{'teacher': 'assistant'}}, say")
    for name, role in (roles or {}).items():
        if not isinstance(role, str) or role_key(role) not in ROLES:
            raise InstructMineError(
                f"columns['roles'] takes {name!r:.40} for {role!r:.40}; known roles are {KNOWN_ROLES}"
            )
    return mapped


def _check_found(names: Sequence[str], found: Mapping[str, Any]) -> None:
    """Refuses a pool of no known layout; where it is one that another kind of training takes, with that one's mend."""
    pair = {"chosen", "rejected"} <= set(names)
    # A pair stands beside a conversation that ends before either answer; `messages` beside a pair hold an answer.
    if found and not (pair and set(found) == {"ShareGPT"}):
        return
    if pair:
        prompts = [name for name in ("prompt", "question", "instruction", "conversations") if name in names]
        extra = ", 'input': 'input'" if prompts[:1] == ["instruction"] and "input" in names else ""
        mend = f"'prompt': '{prompts[0]}'{extra}, 'response': 'chosen'" if prompts else "'messages': 'chosen'"
        raise InstructMineError(
            "the pool holds preference pairs ('chosen', 'rejected'), of which one is to be learnt from: say which, "
            f"with columns={{{mend}}}"
        )
    if {"prompt", "completions", "labels"} <= set(names):
        raise InstructMineError(
            "the pool holds stepwise supervision ('prompt', 'completions', 'labels'): join the steps of each row into "
            "one text, and name its column with columns={'prompt': 'prompt', 'response': …}"
        )
    known = "; ".join(f"{name} ({', '.join(layout.values())})" for name, layout in LAYOUTS.items())
    hint = "; of whole texts ('text') nothing says where a response starts: split them" if "text" in names else ""
    raise InstructMineError(
        f"no known layout: the columns are {listed(names)}; known layouts are {known}; "
        f"or say which is which with columns={{'prompt': …, 'response': …}}{hint}"
    )
