"""Public formats, field by field: whichever field changes, what is read of the row changes, or the field is named.

A row of each format is written as its documentation shows it. `METADATA` lists the fields that say nothing of the
conversation. No others may change unseen.
"""

import copy
import json

import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError
from hf_instructmine.data.conversation import check_text_columns, read_turns
from hf_instructmine.data.inputs import load_pool
from hf_instructmine.data.unread import unread_columns


METADATA = {"id", "prompt_id", "source", "dataset", "category", "uuid"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
LEGACY = WEATHER["function"]
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"town": "Turku"}'}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


def said(role, text, **more):
    return {"from": role, "value": text, **more}


FORMATS = {
    "TRL messages": {"messages": [system("Be brief."), user("Sky?"), assistant("Blue.")]},
    "TRL prompt/completion": {"prompt": "The sky is", "completion": " blue."},
    "TRL prompt/completion, conversational": {"prompt": [user("Sky?")], "completion": [assistant("Blue.")]},
    "TRL tool calling": {
        "messages": [
            user("Weather?"),
            assistant("", tool_calls=[{"type": "function", "function": {"name": "f", "arguments": {"town": "T"}}}]),
            {"role": "tool", "name": "f", "content": "Rain."},
            assistant("It rains."),
        ],
        "tools": [WEATHER],
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "TRL Harmony": {
        "messages": [{"role": "developer", "content": "Be kind."}, user("Why?"), assistant("So.", thinking="Deep.")]
    },
    "LLaMA-Factory alpaca": {
        "instruction": "And of Norway?", "input": "In one word.", "output": "Oslo.", "system": "Be brief.",
        "history": [["Capital of Finland?", "Helsinki."], ["Of Sweden?", "Stockholm."]],
    },
    "LLaMA-Factory sharegpt": {
        "conversations": [
            said("human", "Weather?"), said("function_call", '{"name": "f", "arguments": {"town": "Turku"}}'),
            said("observation", "Rain."), said("gpt", "It rains."),
        ],
        "system": "Be brief.", "tools": json.dumps([LEGACY]),
    },
    "LLaMA-Factory openai": {"messages": [system("Be brief."), user("Sky?"), assistant("Blue.")]},
    "axolotl chat_template": {
        "conversations": [
            said("system", "Be kind.", train=False), said("human", "Hello", train=False),
            said("assistant", "Hello", train=True), said("human", "How are you?", train=False),
            said("assistant", "Well.", train=False), said("human", "Good.", train=False),
            said("assistant", "Bye!", train=True),
        ]
    },
    "axolotl chat_template, roles and contents": {"conversations": [user("Sky?"), assistant("Blue.")]},
    "OpenAI": {
        "messages": [
            system("Be brief."), user("Weather?"), assistant(None, tool_calls=[CALL], weight=0),
            {"role": "tool", "tool_call_id": "c1", "content": "Rain."}, assistant("It rains.", weight=1),
        ],
        "tools": [WEATHER], "parallel_tool_calls": False,
    },
    "OpenAI, calls alone": {"messages": [user("Weather?"), assistant(None, tool_calls=[CALL])], "tools": [WEATHER]},
    "OpenAI, legacy functions": {
        "messages": [
            user("Weather?"),
            assistant(None, function_call={"name": "get_weather", "arguments": '{"town": "Turku"}'}),
            {"role": "function", "name": "get_weather", "content": "Rain."}, assistant("It rains."),
        ],
        "functions": [LEGACY],
    },
    "ShareGPT": {"id": "7", "conversations": [said("human", "Sky?"), said("gpt", "Blue.")]},
    "Tülu": {"id": "tulu_7", "source": "ai2", "messages": [user("Sky?"), assistant("Blue.")]},
    "UltraChat": {
        "prompt": "Sky?", "prompt_id": "7",
        "messages": [user("Sky?"), assistant("Blue."), user("Sea?"), assistant("Green.")],
    },
    "OpenOrca": {"id": "7", "system_prompt": "Be brief.", "question": "Sky?", "response": "Blue."},
    "Dolly": {"instruction": "Sky?", "context": "By day.", "response": "Blue.", "category": "open_qa"},
    "MT-Bench": {"turns": ["Sky?", "Sea?"], "reference": ["Blue.", "Green."], "category": "writing"},
    "xLAM": {
        "id": 7, "query": "Weather in Turku?", "tools": json.dumps([{"name": "f", "description": "Weather."}]),
        "answers": json.dumps([{"name": "f", "arguments": {"town": "Turku"}}, {"name": "f", "arguments": {"day": 2}}]),
    },
    "R1, thought in the content": {
        "uuid": "7", "problem": "17 times 3?", "solution": "Multiply.", "answer": "51",
        "messages": [user("17 times 3?"), assistant("<think>\n30 and 21.\n</think>\n\n51")],
    },
    "R1, thought in a field": {"messages": [user("17 times 3?"), assistant("51", reasoning_content="30 and 21.")]},
    "R1, thought in a column": {"prompt": "17 times 3?", "completion": "51", "thinking": "30 and 21.", "weight": 0.5},
    "preference beside messages": {
        "prompt": "Sky?", "messages": [user("Sky?"), assistant("Blue.")], "chosen": "Blue.", "rejected": "Red.",
    },
}  # fmt: skip


def leaves(value, path=()):
    """The places of all single values in a structure; JSON text is one."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from leaves(item, (*path, i))
    elif value is not None:
        yield path, value


OTHER_ROLE = {
    **dict.fromkeys(("system", "developer", "assistant", "tool", "function"), "user"),
    **dict.fromkeys(("gpt", "function_call", "observation"), "human"),
    **dict.fromkeys(("user", "human"), "system"),
}


def other(path, value):
    """Another value of the same kind."""
    if path[-1] in ("role", "from"):
        return OTHER_ROLE[value]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return 1 - value if value in (0, 1) else 1 + value
    try:
        parsed = json.loads(value)
        place, inner = next(iter(leaves(parsed)))
    except (ValueError, TypeError, StopIteration):
        return f"{value} changed"
    return json.dumps(replaced(parsed, place, other(("text", *place), inner))) if place else f"{value} changed"


def replaced(structure, path, value):
    changed = copy.deepcopy(structure)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def seen(row):
    """All that is read of a row, and which columns are named as not read."""
    dataset = Dataset.from_list([row])
    check_text_columns(dataset)
    (turns,) = read_turns(dataset[:])
    return [(turn.identity, turn.problem, turn.masked) for turn in turns], unread_columns(dataset)


CHANGES = [
    pytest.param(row, path, id=f"{name}: {'.'.join(map(str, path))}")
    for name, row in FORMATS.items()
    for path, _ in leaves(row)
    if path[0] not in METADATA
]


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_a_row_of_each_format_has_a_response(row):
    turns, _ = seen(row)
    assert turns[-1][1] is None


@pytest.mark.parametrize("row, path", CHANGES)
def test_each_field_is_read_or_named(row, path):
    (value,) = (value for place, value in leaves(row) if place == path)
    changed = seen(replaced(row, path, other(path, value)))
    assert changed != seen(row) or path[0] in changed[1]


def test_columns_that_are_not_read_are_those_of_no_layout():
    unread = {name: seen(row)[1] for name, row in FORMATS.items()}
    assert {name: columns for name, columns in unread.items() if columns} == {
        "OpenAI": ["parallel_tool_calls"],
        "R1, thought in the content": ["solution"],
        "R1, thought in a column": ["thinking", "weight"],
        "preference beside messages": ["rejected"],
    }


# --- What other kinds of training take ------------------------------------------------------------------------------

PAIR = {"chosen": [user("Sky?"), assistant("Blue.")], "rejected": [user("Sky?"), assistant("Red.")]}
REFUSED = {
    "text": ({"text": "The sky is blue."}, "nothing says where a response starts", None),
    "prompt-only": ({"prompt": "The sky is"}, "no known layout: the columns are 'prompt'", None),
    "preference": (
        {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Red."},
        "preference pairs", {"prompt": "prompt", "response": "chosen"},
    ),
    "preference, conversational": (
        {"prompt": [user("Sky?")], "chosen": [assistant("Blue.")], "rejected": [assistant("Red.")]},
        "preference pairs", {"prompt": "prompt", "response": "chosen"},
    ),
    "preference, the prompt in both": (
        {"prompt": "Sky?", **PAIR}, "preference pairs", {"prompt": "prompt", "response": "chosen"},
    ),
    "preference, the prompt as messages in both": (
        {"prompt": [user("Sky?")], **PAIR}, "preference pairs", {"prompt": "prompt", "response": "chosen"},
    ),
    "preference, implicit prompt": (PAIR, "preference pairs", {"messages": "chosen"}),
    "preference, LLaMA-Factory alpaca": (
        {"instruction": "Sky?", "input": "", "chosen": "Blue.", "rejected": "Red."},
        "preference pairs", {"prompt": "instruction", "input": "input", "response": "chosen"},
    ),
    "preference, LLaMA-Factory sharegpt": (
        {"conversations": [said("human", "Sky?")], "chosen": said("gpt", "Blue."), "rejected": said("gpt", "Red.")},
        "preference pairs", {"prompt": "conversations", "response": "chosen"},
    ),
    "unpaired preference": (
        {"prompt": "Sky?", "completion": "Blue.", "label": True},
        "'label' says of each answer whether it is a good one", {"prompt": "prompt", "response": "completion"},
    ),
    "unpaired preference, LLaMA-Factory": (
        {"instruction": "Sky?", "input": "", "output": "Blue.", "kto_tag": False},
        "'kto_tag' says of each answer", {"prompt": "instruction", "input": "input", "response": "output"},
    ),
    "stepwise supervision": (
        {"prompt": "Sky?", "completions": ["Look up.", "Blue."], "labels": [True, True]}, "join the steps", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("row, message, mend", REFUSED.values(), ids=REFUSED)
def test_rows_of_another_kind_of_training_are_refused_with_a_mend_that_works(row, message, mend):
    dataset = Dataset.from_list([row])
    with pytest.raises(InstructMineError, match=message) as error:
        check_text_columns(dataset)
    assert "\n" not in str(error.value)
    if mend is not None:
        assert f"columns={mend}" in str(error.value)
        check_text_columns(dataset, mend)
        ((turn,),) = read_turns(dataset[:], mend)
        assert (turn.prompt, turn.response, turn.problem) == ([user("Sky?")], "Blue.", None)


def test_a_label_beside_messages_may_say_anything():
    pool = Dataset.from_list([{"messages": [user("Sky?"), assistant("Blue.")], "label": False}])
    check_text_columns(pool)
    assert unread_columns(pool) == ["label"]


def test_real_pools_are_read_whole(shared_data):
    for file in sorted((shared_data / "pool").glob("*.jsonl")):
        pool = load_pool([str(file)])
        assert unread_columns(pool) == [], file.name
        assert all(turns[-1].extras == {} and not turns[-1].tools for turns in read_turns(pool[:500])), file.name
