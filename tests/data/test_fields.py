"""Fields beside any layout, and the mapping of parts to columns: each is honoured, or refused in one line."""

import json

import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError
from hf_instructmine.data.conversation import check_text_columns, read_conversations, read_turns
from hf_instructmine.data.fields import find_layouts
from hf_instructmine.data.inputs import parse_mapping


USER = {"role": "user", "content": "And of Norway?"}
ANSWER = {"role": "assistant", "content": "Oslo."}
LAYOUTS = {
    "Alpaca": {"instruction": "And of Norway?", "input": "", "output": "Oslo."},
    "Dolly": {"instruction": "And of Norway?", "context": "", "response": "Oslo."},
    "question/answer": {"question": "And of Norway?", "answer": "Oslo."},
    "prompt/completion": {"prompt": "And of Norway?", "completion": "Oslo."},
    "prompt/completion of messages": {"prompt": [USER], "completion": [ANSWER]},
    "messages": {"messages": [USER, ANSWER]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "And of Norway?"}, {"from": "gpt", "value": "Oslo."}]},
    "MT-Bench": {"turns": ["And of Norway?"], "reference": ["Oslo."]},
}
every_layout = pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS)


def read(row, columns=None):
    """The last turn of one row, stored as Arrow stores it."""
    dataset = Dataset.from_list([row])
    check_text_columns(dataset, columns)
    return read_conversations(dataset[:], columns)[0]


@every_layout
@pytest.mark.parametrize("name", ["system", "system_prompt"])
def test_a_system_column_is_a_message_before_all_others(row, name):
    assert read({**row, name: "Be brief."}).prompt == [{"role": "system", "content": "Be brief."}, USER]
    assert read({**row, name: ""}).prompt == [USER]


def test_a_system_message_that_is_there_already_is_not_written_twice():
    talk = {"messages": [{"role": "system", "content": "Be brief."}, USER, ANSWER]}
    assert read({**talk, "system": "Be brief.\n"}).prompt == talk["messages"][:2]
    assert read({**talk, "system": "Be long."}).problem == "two system messages that differ"
    two = {**LAYOUTS["Alpaca"], "system": "Be brief.", "system_prompt": "Be long."}
    assert read(two).problem == "two system messages that differ"


@every_layout
def test_history_comes_between_the_system_message_and_the_prompt(row):
    pairs = [["Capital of Finland?", "Helsinki."]]
    for history in (pairs, json.dumps(pairs)):
        stored = Dataset.from_list([{**row, "system": "Be brief.", "history": history}])
        (turns,) = read_turns(stored[:])
        assert [turn.response for turn in turns] == ["Helsinki.", "Oslo."]
        assert [m["content"] for m in turns[-1].prompt] == [
            "Be brief.", "Capital of Finland?", "Helsinki.", "And of Norway?",
        ]  # fmt: skip
        assert turns[-1].masked == ()


def test_history_that_is_none():
    problem = "a history that is no list of [question, answer] pairs"
    for history in (["a", "b"], [["a"]], "none", '{"a": 1}'):
        assert read({**LAYOUTS["Alpaca"], "history": history}).problem == problem
    assert read({**LAYOUTS["Alpaca"], "history": []}).problem is None


TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"properties": {"city": {"type": "string"}}}}},
    {"type": "function", "function": {"name": "g", "parameters": {"properties": {"day": {"type": "integer"}}}}},
]


@every_layout
def test_tools_are_a_list_of_definitions_however_they_are_stored(row):
    for tools in (TOOLS, json.dumps(TOOLS), [json.dumps(tool) for tool in TOOLS]):
        assert read({**row, "tools": tools}).tools == TOOLS
    assert read({**row, "functions": [tool["function"] for tool in TOOLS]}).tools == TOOLS
    assert read({**row, "tools": "[]"}).tools is None
    assert read({**row, "tools": "null", "history": "null", "chat_template_kwargs": " "}).problem is None


@pytest.mark.parametrize("tools", ["a hammer", '{"name": "f"}', '["f"]'])
def test_tools_that_are_none_are_a_problem_of_the_row(tools):
    row = {**LAYOUTS["Alpaca"], "tools": tools}
    assert read(row).problem == "tools that are no JSON list of definitions"
    assert read(row, {"tools": None}).problem is None


@every_layout
def test_arguments_of_the_chat_template_are_the_rows_own(row):
    for value in ({"enable_thinking": False}, '{"enable_thinking": false}'):
        assert read({**row, "chat_template_kwargs": value}).template_kwargs == {"enable_thinking": False}
    assert read({**row, "chat_template_kwargs": "fast"}).problem == "chat_template_kwargs that are no JSON object"


@pytest.mark.parametrize(
    "name", ["chat_template", "tokenize", "add_generation_prompt", "tools", "continue_final_message"]
)
def test_a_row_does_not_say_what_is_rendered_and_by_which_template(name):
    row = {**LAYOUTS["Alpaca"], "chat_template_kwargs": json.dumps({name: "{{ hostile }}"})}
    assert read(row).problem == f"chat_template_kwargs that set '{name}', which is not for a row to say"


# --- Which column is which -----------------------------------------------------------------------------------------


@every_layout
def test_parts_beside_the_layout_may_be_mapped_alone(row):
    row = {**row, "persona": "Be brief.", "apis": json.dumps(TOOLS), "past": '[["a", "b"]]', "kwargs": '{"x": 1}',
           "trace": "It is north."}  # fmt: skip
    columns = {"system": "persona", "tools": "apis", "history": "past", "chat_template_kwargs": "kwargs",
               "reasoning": "trace"}  # fmt: skip
    found = read(row, columns)
    assert [m["content"] for m in found.prompt] == ["Be brief.", "a", "b", "And of Norway?"]
    assert (found.response, found.tools, found.template_kwargs) == ("Oslo.", TOOLS, {"x": 1})
    assert found.extras == {"reasoning_content": "It is north."}


def test_a_mapped_layout_has_its_fields_beside_it_too():
    row = {"turns": [USER, ANSWER], "system": "Be brief.", "thinking": "North."}
    assert read(row, {"messages": "turns", "system": "system"}).prompt[0]["content"] == "Be brief."
    assert read(row, {"messages": "turns"}).prompt[0]["content"] == "Be brief."
    assert read(row, {"messages": "turns", "system": None}).prompt == [USER]
    assert read(row, {"messages": "turns", "reasoning": "thinking"}).extras == {"thinking": "North."}


def test_a_column_that_plays_one_part_plays_no_other():
    assert read({"history": "Why?", "reply": "So."}, {"prompt": "history", "response": "reply"}).prompt == [
        {"role": "user", "content": "Why?"}
    ]


def test_one_system_column_mapped_leaves_others_alone():
    row = {"system_prompt": "Be long.", "question": "Why?", "response": "So.", "persona": "Be brief."}
    assert read(row, {"system": "persona"}).prompt[0]["content"] == "Be brief."


def test_reasoning_in_a_message_and_in_a_column():
    row = {"messages": [USER, {**ANSWER, "thinking": "North."}], "trace": "North."}
    assert read(row, {"reasoning": "trace"}).extras == {"thinking": "North."}
    assert (
        read({**row, "trace": "South."}, {"reasoning": "trace"}).problem
        == "two reasonings of one response that differ"
    )


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"messages": "a", "prompt": "b"}, "columns maps 'messages', 'prompt'; it must map"),
        ({"turns": "a", "input": "b", "response": "b"}, "columns maps 'turns', 'input', 'response'"),
        ({"images": "a"}, "columns maps 'images'"),
        ({"prompt": "a", "response": None}, "columns names 'None'"),
        ({"messages": "a", "roles": "teacher"}, "columns['roles'] is 'teacher'; write {'teacher': 'assistant'}"),
        (
            {"messages": "a", "roles": {"teacher": "boss"}},
            "columns['roles'] takes 'teacher' for 'boss'; known roles are",
        ),
    ],
)
def test_a_part_that_would_not_be_used_is_refused(columns, message):
    with pytest.raises(InstructMineError) as error:
        find_layouts(["a", "b"], columns)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_the_command_line_maps_roles_too():
    columns = parse_mapping("messages=turns,roles={teacher: assistant, pupil: user}")
    talk = [{"role": "pupil", "content": "And of Norway?"}, {"role": "teacher", "content": "Oslo."}]
    assert read({"turns": talk}, columns).prompt == [USER]
    assert parse_mapping("tools=null") == {"tools": None}


def test_a_system_column_of_numbers_is_refused_with_both_mends():
    with pytest.raises(InstructMineError, match=r"cast it to string .* \(None: not read") as error:
        read({**LAYOUTS["Alpaca"], "system": 3})
    assert "columns={'system': …}" in str(error.value)
