"""What a message is: a speaker, a text, and all that it carries beside them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InstructMineError
from .fields import CALL, KNOWN_ROLES, MEDIA, REASONING, role_key


Message = dict[str, Any]
Place = tuple[int, str]  # row and column, for errors

_HEAD = ("role", "content", "from", "value")
# Marks of turns that are not to be learnt (OpenAI, axolotl, ms-swift), and what says that a turn is one to learn.
_MARKS = {"weight": True, "train": True, "training": True, "loss": True, "mask": False}
_MARKS_OF_PARTS = ("train_detail", "training_detail")
# JSON text in a row may be nested so deep that no program writes it again.
_DEEPEST = 100
# Kinds of a content's parts that are no text, by the beginning or end of their names.
_MEDIA_PARTS = {"image": "an image", "video": "a video", "audio": "a sound", "file": "a file"}


class UnreadableRowError(Exception):
    """Why a row cannot be read; becomes its `problem`. Few kinds: rows are counted by it."""


def read_messages(value: Any, place: Place, roles: Mapping[str, str]) -> list[Message]:
    """Reads a list of messages, or JSON text of one, as `role`, `content` and whatever else each carries.

    An assistant's message that is not to be learnt has a `weight` of 0; no other has one.

    Args:
        value (`Any`): Messages of `role` and `content`, or of `from` and `value`.
        place (`tuple[int, str]`): Row and column, for errors.
        roles (`Mapping[str, str]`): The roles by the names of their speakers.

    Raises:
        [`InstructMineError`]: Where it holds no messages, or a speaker is not known.
        [`UnreadableRowError`]: Where a message holds what cannot be read.
    """
    if isinstance(value, str):
        turns = parse_json(value)
        if not isinstance(turns, list):
            raise not_text(value, place, "text or a list of messages")
    else:
        turns = without_nulls(value)
    if not isinstance(turns, Sequence) or isinstance(turns, bytes):
        raise not_text(turns, place, "text or a list of messages")
    return [_read_message(turn, place, roles) for turn in turns]


def as_messages(value: Any, role: str, place: Place, roles: Mapping[str, str]) -> list[Message]:
    """Text as one message of `role`; messages, or one message, as they are."""
    if isinstance(value, str):
        return [{"role": role, "content": as_text(value, place)}]
    if isinstance(value, Mapping) and (value.get("role") or value.get("from")):
        value = [value]
    return read_messages(value, place, roles)


def as_text(value: Any, place: Place) -> str:
    """Text, or the joined texts of OpenAI's content parts."""
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        kinds = [str(part.get("type") or next(iter(part), "")).lower() for part in value]
        for kind in kinds:
            media = next((told for name, told in _MEDIA_PARTS.items() if name in kind), None)
            if media is not None:
                raise UnreadableRowError(f"{media}, which no text model reads")
        # Arrow, and some services, write null for a part without text.
        texts = ["" if part.get("text") is None else part["text"] for part in value]
        if all(kind.endswith("text") for kind in kinds) and all(isinstance(text, str) for text in texts):
            value = "".join(texts)
    if not isinstance(value, str):
        raise not_text(value, place, "text")
    if value.isascii():
        return value
    # Half of a surrogate pair is no character: no tokenizer takes it. Read as U+FFFD, as a browser would show it.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_calls(value: Any) -> list[dict[str, Any]] | None:
    """One call of a tool or a list of them, given as JSON text or not, as `tool_calls`; None where it is neither.

    A call's `arguments` that are JSON text of an object become the object, as chat templates take them.
    """
    found = parse_json(value) if isinstance(value, str) else value
    calls = [found] if isinstance(found, Mapping) else found
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        return None
    if not all(isinstance(call.get("function"), Mapping) or isinstance(call.get("name"), str) for call in calls):
        return None
    return [_read_call(call) for call in calls]


def parse_json(text: str) -> Any:
    """What a JSON text holds; None where it is no JSON, or nested deeper than anyone means it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        level = [inner for outer in level for inner in _inside(outer)]
        depth += 1
    return None if level else value


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def without_nulls(value: Any) -> Any:
    """The same without the fields of null, at every depth: Arrow adds them for fields that other rows have."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def is_empty(value: Any) -> bool:
    """Whether a field is not there: null (JSON's as text, too), or a list, text or structure without content."""
    value = value.strip() if isinstance(value, str) else without_nulls(value)
    return value is None or (hasattr(value, "__len__") and len(value) == 0) or value == "null"


def check_media(name: str, value: Any) -> None:
    """Refuses a row that has a picture or the like in the field `name`."""
    if not is_empty(value):
        raise UnreadableRowError(f"{MEDIA[name]}, which no text model reads")


def not_text(value: Any, place: Place, wanted: str) -> InstructMineError:
    """The error for a value of another kind than `wanted`."""
    return InstructMineError(
        f"{_where(place)}: expected {wanted}, got {type(value).__name__} {value!r:.60}; "
        "mend or drop the row, or name another column with columns={…}"
    )


def _where(place: Place) -> str:
    return f"row {place[0]}, column '{place[1]}'"


def _read_message(turn: Any, place: Place, roles: Mapping[str, str]) -> Message:
    if not isinstance(turn, Mapping):
        raise not_text(turn, place, "messages with 'role' and 'content' (or 'from' and 'value')")
    role = _read_role(turn.get("role") or turn.get("from"), place, roles)
    first, second = ("content", "value") if turn.get("role") else ("value", "content")
    content = turn.get(second) if turn.get(first) is None else turn[first]
    content = "" if content is None else as_text(content, place)  # a tool call has no content
    kept = {name: value for name, value in turn.items() if value is not None and name not in _HEAD}
    learnt = not kept or _take_marks(kept, role)
    if role == CALL:
        role, calls = "assistant", read_calls(content)
        if calls is not None:
            content, kept["tool_calls"] = "", calls
    if role == "assistant":
        _read_extras(kept, place)
    message = {"role": role, "content": content, **kept}
    return message if learnt or role != "assistant" else {**message, "weight": 0}


def _read_role(name: Any, place: Place, roles: Mapping[str, str]) -> str:
    role = (roles.get(name) or roles.get(role_key(name))) if isinstance(name, str) else None
    if role is None:
        mend = f"say which it is with columns={{'roles': {{{name!r:.40}: 'assistant'}}}}"
        raise InstructMineError(
            f"{_where(place)}: a message has the role {name!r:.40}; known roles are {KNOWN_ROLES}; "
            f"{mend if isinstance(name, str) else 'mend or drop the row'}"
        )
    return role


def _take_marks(kept: dict[str, Any], role: str) -> bool:
    """Takes pictures' empty fields and the marks of training off a message, and says whether it is one to learn."""
    for name in MEDIA.keys() & kept.keys():
        check_media(name, kept.pop(name))
    for name in _MARKS_OF_PARTS:
        if not is_empty(kept.pop(name, None)):
            raise UnreadableRowError(f"{name}, which marks parts of a turn: only whole turns are left out")
    marked = []
    for name, to_learn in _MARKS.items():
        mark = kept.pop(name, None)
        if mark is not None and (not isinstance(mark, bool | int | float) or mark not in (0, 1)):
            raise UnreadableRowError(f"a {name} of {mark!r:.20}, which is neither 0 nor 1")
        marked += [] if mark is None else [bool(mark) == to_learn]
    if role not in ("assistant", CALL) and True in marked:
        raise UnreadableRowError("another's turn than the assistant's is marked to be learnt")
    return all(marked)


def _read_extras(kept: dict[str, Any], place: Place) -> None:
    """Brings an assistant's reasoning and calls into the form that chat templates read."""
    for name in REASONING:
        if name in kept:
            kept[name] = as_text(kept[name], place)
            if not kept[name].strip():
                del kept[name]
    if not is_empty(kept.pop("refusal", None)):
        raise UnreadableRowError("a refusal beside the content, which no chat template writes")
    called = kept.pop("function_call", None)  # the older form of one tool call
    if not is_empty(called):
        if not is_empty(kept.get("tool_calls")):
            raise UnreadableRowError("both tool_calls and function_call")
        kept["tool_calls"] = called
    if is_empty(kept.get("tool_calls")):
        kept.pop("tool_calls", None)
        return
    calls = read_calls(kept["tool_calls"])
    if calls is None:
        raise UnreadableRowError("tool calls that are no list of calls")
    if calls:
        kept["tool_calls"] = calls
    else:
        del kept["tool_calls"]


def _read_call(call: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _with_arguments(call["function"])}
    function = {name: call[name] for name in ("name", "arguments") if name in call}
    rest = {name: value for name, value in call.items() if name not in function}
    return {"type": "function", **rest, "function": _with_arguments(function)}


def _with_arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    parsed = parse_json(arguments) if isinstance(arguments, str) else None
    return {**function, "arguments": parsed} if isinstance(parsed, dict) else dict(function)
