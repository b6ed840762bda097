"""A message is read whole: its speaker, its text, its reasoning and calls, and whether it is to be learnt."""

import json

import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError
from hf_instructmine.data.conversation import read_conversations, read_turns


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def read(*messages, **columns):
    """The last turn of one row, stored as Arrow stores it."""
    return read_conversations(Dataset.from_list([{"messages": list(messages), **columns}])[:])[0]


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Turku"}}}


# --- What the assistant writes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["thinking", "reasoning_content", "reasoning"])
def test_reasoning_keeps_its_name_and_is_part_of_what_is_written(name):
    row = read(user("17 times 3?"), assistant("51", **{name: "30 and 21."}))
    assert (row.response, row.extras, row.problem) == ("51", {name: "30 and 21."}, None)
    assert row.completion == [assistant("51", **{name: "30 and 21."})]
    assert row.written == "30 and 21.\n\n51"


def test_a_call_alone_is_a_response():
    row = read(user("Weather?"), assistant(None, tool_calls=[CALL]))
    assert (row.response, row.extras, row.problem) == ("", {"tool_calls": [CALL]}, None)
    assert row.written == '{"name": "weather", "arguments": {"city": "Turku"}}'


def test_a_turn_with_neither_text_nor_reasoning_nor_call_is_empty():
    row = read(user("Weather?"), assistant("", tool_calls=[], thinking=" ", reasoning_content=None))
    assert (row.problem, row.extras) == ("empty response", {})


@pytest.mark.parametrize(
    "message",
    [
        assistant(None, tool_calls=json.dumps([CALL])),
        assistant(None, tool_calls=[{**CALL, "function": {**CALL["function"], "arguments": '{"city": "Turku"}'}}]),
        assistant(None, function_call={"name": "weather", "arguments": '{"city": "Turku"}'}),
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Turku"}}'},
        {"from": "function-call", "value": '[{"name": "weather", "arguments": "{\\"city\\": \\"Turku\\"}"}]'},
    ],
)  # fmt: skip
def test_calls_have_one_form_however_they_are_written(message):
    row = read(user("Weather?"), message)
    assert (row.response, row.extras) == ("", {"tool_calls": [CALL]})


@pytest.mark.parametrize("text", ["I call weather(Turku).", '{"city": "Turku"}', "[1, 2]", ""])
def test_a_calls_text_that_is_no_call_stays_its_content(text):
    row = read({"from": "human", "value": "Weather?"}, {"from": "tool_call", "value": text})
    assert (row.response, row.extras) == (text, {})


def test_arguments_that_are_no_object_stay_text():
    calls = [{"type": "function", "function": {"name": "f", "arguments": text}} for text in ("[1]", "x = 1", "7")]
    assert read(user("?"), assistant("", tool_calls=calls)).extras == {"tool_calls": calls}


def test_what_arrow_adds_to_one_call_for_anothers_sake_is_taken_away_at_every_depth():
    calls = [
        {"function": {"name": "f", "arguments": {"city": "Turku", "when": {"day": "Monday"}}}},
        {"function": {"name": "g", "arguments": {"when": {"hour": "nine"}, "list": [None, "x"]}}},
    ]
    stored = Dataset.from_list([{"messages": [user("?"), assistant("", tool_calls=calls)]}])
    assert "None" in str(stored[0])
    assert read_conversations(stored[:])[0].extras == {"tool_calls": calls}


def test_json_text_keeps_its_own_nulls():
    row = read(user("?"), assistant("", tool_calls=[{"function": {"name": "f", "arguments": '{"day": null}'}}]))
    assert row.extras["tool_calls"][0]["function"]["arguments"] == {"day": None}


def test_json_text_nested_deeper_than_anyone_means_it_is_no_json():
    deep = "[" * 900 + "]" * 900
    called = {"function": {"name": "f", "arguments": f'{{"a": {deep}}}'}}
    row = read(user("?"), assistant("", tool_calls=[called]))
    assert row.extras == {"tool_calls": [called]} and deep in row.written
    assert read(user("?"), assistant("!"), tools=f"[{deep}]").problem == "tools that are no JSON list of definitions"


def test_names_and_ids_of_tools_stay_in_the_prompt():
    result = {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": "Rain."}
    assert read(user("?"), result, assistant("It rains.")).prompt == [user("?"), result]


def test_a_list_of_messages_may_be_json_text():
    talk = [user("Sky?"), assistant("Blue.")]
    (row,) = read_conversations({"messages": [json.dumps(talk)]})
    assert (row.prompt, row.response) == ([user("Sky?")], "Blue.")
    (row,) = read_conversations({"prompt": [json.dumps(talk)], "completion": ["Blue."]})
    assert row.prompt == [user(json.dumps(talk))]  # a prompt is a text, whatever it spells


# --- Who speaks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, role",
    [
        (["user", "User", " HUMAN ", "prompter"], "user"),
        (["system", "System"], "system"),
        (["developer"], "developer"),
        (["tool", "function", "observation", "function_response", "Tool-Response", "environment", "ipython"], "tool"),
        (["assistant", "GPT", "ai", "bot", "chatgpt", "model"], "assistant"),
    ],
)
def test_speakers_go_by_many_names_in_any_case(names, role):
    for name in names:
        (row,) = read_conversations({"conversations": [[{"from": name, "value": "x"}, {"from": "gpt", "value": "y"}]]})
        assert row.prompt == [{"role": role, "content": "x"}]


def test_an_unknown_speaker_is_named_with_the_mend_which_works():
    talk = [{"role": "pupil", "content": "Sky?"}, {"role": "teacher", "content": "Blue."}]
    with pytest.raises(InstructMineError, match=r"columns=\{'roles': \{'pupil': 'assistant'\}\}$"):
        read_conversations({"messages": [talk]})
    columns = {"roles": {"Teacher": "assistant", "pupil": "human"}}
    (row,) = read_conversations({"messages": [talk]}, columns)
    assert (row.prompt, row.response) == ([user("Sky?")], "Blue.")


# --- Which turns are to be learnt ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mark",
    [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}, {"mask": True}, {"loss": False}],
)
def test_a_masked_turn_is_context_and_no_response(mark):
    talk = [user("One?"), assistant("First.", **mark), user("Two?"), assistant("Second."), assistant("Third.", **mark)]
    (turns,) = read_turns({"messages": [talk]})
    assert [turn.response for turn in turns] == ["Second."]
    assert turns[0].prompt == [user("One?"), assistant("First."), user("Two?")]
    assert turns[0].masked == (1,)


@pytest.mark.parametrize("mark", [{"weight": 1}, {"weight": None}, {"train": True}, {"mask": False}])
def test_a_mark_that_says_to_learn_changes_nothing(mark):
    row = read(user("One?"), assistant("First.", **mark), user("Two?"), assistant("Second.", **mark))
    assert (row.response, row.masked, row.extras) == ("Second.", (), {})


@pytest.mark.parametrize(
    "messages, problem",
    [
        ([user("?"), assistant("!", weight=0)], "every assistant turn is masked"),
        ([user("?"), assistant("!", weight=0.5)], "a weight of 0.5, which is neither 0 nor 1"),
        ([user("?"), assistant("!", train="no")], "a train of 'no', which is neither 0 nor 1"),
        ([user("?", train=True), assistant("!")], "another's turn than the assistant's is marked to be learnt"),
        (
            [user("?"), assistant("!", train_detail=[{"begin_offset": 0, "end_offset": 1, "train": False}])],
            "train_detail, which marks parts of a turn: only whole turns are left out",
        ),
        (
            [user("?"), assistant("", refusal="I cannot.")],
            "a refusal beside the content, which no chat template writes",
        ),
        ([user("?"), assistant("", tool_calls="call it")], "tool calls that are no list of calls"),
        (
            [user("?"), assistant("", tool_calls=[CALL], function_call=CALL["function"])],
            "both tool_calls and function_call",
        ),
    ],
)
def test_what_cannot_be_learnt_as_it_is_meant_is_a_problem_of_the_row(messages, problem):
    (row,) = read_conversations({"messages": [messages]})
    assert (row.problem, row.response) == (problem, "")


# --- What is no text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part, told",
    [
        ({"type": "image_url", "image_url": {"url": "data:…"}}, "an image"),
        ({"type": "image"}, "an image"),
        ({"image": "cat.png"}, "an image"),
        ({"type": "input_audio", "input_audio": {"data": "…"}}, "a sound"),
        ({"type": "video", "video": "cat.mp4"}, "a video"),
    ],
)
def test_a_picture_or_sound_in_a_message_is_a_problem_of_the_row(part, told):
    content = [{"type": "text", "text": "What is this?"}, part]
    (row,) = read_conversations({"messages": [[user(content), assistant("A cat.")]]})
    assert row.problem == f"{told}, which no text model reads"


@pytest.mark.parametrize("name, told", [("images", "an image"), ("videos", "a video"), ("audios", "a sound")])
def test_a_picture_or_sound_beside_the_messages_is_a_problem_of_its_row_alone(name, told):
    batch = {"prompt": ["a"] * 3, "completion": ["b"] * 3, name: [["cat.png"], [], None]}
    rows = read_conversations(batch)
    assert [row.problem for row in rows] == [f"{told}, which no text model reads", None, None]
    assert [row.problem for row in read_conversations(batch, {name: None})] == [None] * 3
