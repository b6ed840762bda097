"""Conversations as others take them: TRL's columns carry all that a row has."""

import json

import pytest
from datasets import Dataset

from hf_instructmine import to_prompt_completion


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
