"""Conversations as others take them: TRL's columns carry all that a row has, and JSON rows are read as they were."""

import json

import pytest
from datasets import Dataset, load_dataset

from hf_instructmine import to_prompt_completion
from hf_instructmine.data.conversation import read_conversations, read_turns
from hf_instructmine.data.conversions import to_json_row


USER = {"role": "user", "content": "Weather?"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CALLS = [{"type": "function", "function": {"name": "f", "arguments": {"city": "Turku"}}}]
CALLING = {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": CALLS}], "tools": TOOLS}
PLAIN = {"messages": [USER, {"role": "assistant", "content": "Rain."}]}


def test_tools_and_template_arguments_are_trls_columns():
    kwargs = {"enable_thinking": False}
    pool = Dataset.from_list(
        [{**CALLING, "chat_template_kwargs": kwargs}, {**CALLING, "chat_template_kwargs": kwargs}]
    )
    converted = to_prompt_completion(pool)
    assert converted.column_names == ["prompt", "completion", "tools", "chat_template_kwargs"]
    assert json.loads(converted[0]["tools"]) == TOOLS
    assert converted[0]["chat_template_kwargs"] == kwargs
    assert converted[0]["completion"] == [{"role": "assistant", "content": "", "tool_calls": CALLS}]


def test_plain_rows_have_trls_two_columns():
    pool = Dataset.from_list([{**PLAIN, "tools": "[]", "chat_template_kwargs": None}])
    assert to_prompt_completion(pool).column_names == ["prompt", "completion"]


@pytest.mark.parametrize("order", [1, -1])
def test_rows_that_differ_in_kind_get_no_nulls_of_each_other(order):
    def calling(**arguments):
        answer = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": arguments}}],
        }
        return {"messages": json.dumps([USER, answer]), "tools": json.dumps(TOOLS)}

    plain = {"messages": json.dumps(PLAIN["messages"]), "tools": None}
    rows = [plain, *[plain] * 1200, calling(city="Turku"), calling(city=7, day=["x"])][::order]
    converted = to_prompt_completion(Dataset.from_list(rows))[:]
    assert converted["completion"] == [json.loads(row["messages"])[1:] for row in rows]
    assert converted["tools"] == [row["tools"] for row in rows]


def test_trl_renders_what_was_converted():
    from tiny_models import byte_tokenizer
    from trl.data_utils import apply_chat_template

    template = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}{{ mood }}"
    )
    pool = Dataset.from_list([{**CALLING, "chat_template_kwargs": {"mood": "kind"}}])
    row = to_prompt_completion(pool)[0]
    rendered = apply_chat_template(
        {**row, "tools": None}, byte_tokenizer(chat_template=template), json.loads(row["tools"])
    )
    assert (
        rendered["prompt"].startswith('[{"type": "function"') and "kind" in rendered["prompt"] + rendered["completion"]
    )
    assert '{"city": "Turku"}' in rendered["completion"]


NULLABLE = [{"name": "g", "parameters": {"d": {"type": ["null", "string"]}, "x": None}}]
NULL_CALL = [{"function": {"name": "g", "arguments": '{"d": null}'}}]
ROWS = [
    PLAIN,
    {"messages": [USER, {"role": "assistant", "content": "2021-03-01"}]},
    {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "null"}]},
    {"messages": [USER, {"role": "assistant", "content": "51", "thinking": "30 and 21."}]},
    CALLING,
    {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": NULL_CALL}], "tools": json.dumps(NULLABLE)},
    {
        "messages": [
            USER, {"role": "assistant", "content": "a", "train": False}, USER, {"role": "assistant", "content": "b"},
        ]
    },
    {
        "prompt": "Q", "completion": "A", "system": "S", "history": [["q", "a"]],
        "chat_template_kwargs": '{"t": null, "d": "2021-03-01"}',
    },
    {"query": "Weather?", "answers": '[{"name": "f", "arguments": {"n": 1}}]', "tools": '[{"name": "f"}]'},
    {"prompt": '[{"role": "user", "content": "hi"}]', "completion": "\ud83d half, <|im_end|>, \x00 and ünïcode 🙂"},
]  # fmt: skip


@pytest.mark.parametrize("number", [None, *range(len(ROWS))])
def test_a_file_of_json_rows_is_read_as_it_was_written(tmp_path, number):
    rows = ROWS if number is None else [ROWS[number]]
    written = [read_conversations({name: [value] for name, value in row.items()})[0] for row in rows]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(to_json_row(row))}\n" for row in written), encoding="utf-8")
    stored = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert read_conversations(stored[:]) == written


def test_earlier_turns_may_be_context_alone():
    talk = [USER, {"role": "assistant", "content": "a"}, USER, {"role": "assistant", "content": "b"}]
    (turns,) = read_turns({"messages": [talk]})
    rows = [to_json_row(turn, last_only=True) for turn in turns]
    again = read_turns({name: [row[name] for row in rows] for name in rows[0]})
    assert [[(turn.prompt, turn.response) for turn in row] for row in again] == [
        [(talk[:1], "a")],
        [(talk[:3], "b")],
    ]
