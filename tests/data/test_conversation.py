"""What a row is: every layout gives the same prompt and response, and what cannot be read is named by its place."""

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st

from hf_instructmine import InstructMineError, to_prompt_completion
from hf_instructmine.data.conversation import check_text_columns, read_conversations, read_turns
from hf_instructmine.data.fields import find_layouts


USER = {"role": "user", "content": "Name a colour."}
ANSWER = {"role": "assistant", "content": "Blue."}

SAME_ROW = {
    "Alpaca": {"instruction": ["Name a colour."], "input": [""], "output": ["Blue."]},
    "Alpaca without input": {"instruction": ["Name a colour."], "output": ["Blue."]},
    "Dolly": {"instruction": ["Name a colour."], "context": [None], "response": ["Blue."]},
    "OpenOrca": {"system_prompt": [""], "question": ["Name a colour."], "response": ["Blue."]},
    "question/answer": {"question": ["Name a colour."], "answer": ["Blue."]},
    "prompt/completion": {"prompt": ["Name a colour."], "completion": ["Blue."]},
    "prompt/completion of messages": {"prompt": [[USER]], "completion": [[ANSWER]]},
    "messages": {"messages": [[USER, ANSWER]]},
    "MT-Bench": {"turns": [["Name a colour."]], "reference": [["Blue."]]},
    "ShareGPT": {"conversations": [[{"from": "human", "value": "Name a colour."}, {"from": "gpt", "value": "Blue."}]]},
}


@pytest.mark.parametrize("batch", SAME_ROW.values(), ids=SAME_ROW)
def test_every_layout_gives_the_same_prompt_and_response(batch):
    (row,) = read_conversations({"id": [7], **batch})
    assert (row.prompt, row.response, row.problem) == ([USER], "Blue.", None)
    assert row.completion == [ANSWER]


@pytest.mark.parametrize("batch", SAME_ROW.values(), ids=SAME_ROW)
def test_a_dataset_of_any_layout_becomes_trls(batch):
    dataset = Dataset.from_dict({"id": [7], **batch})
    before = dataset[0]
    converted = to_prompt_completion(dataset)
    assert converted.column_names == ["prompt", "completion"]
    assert converted[0] == {"prompt": [USER], "completion": [ANSWER]}
    assert dataset[0] == before


@pytest.mark.parametrize("column, layout", [("input", "output"), ("context", "response")])
def test_the_input_follows_the_instruction(column, layout):
    (row,) = read_conversations({"instruction": ["Sum up."], column: ["A text."], layout: ["Short."]})
    assert row.prompt == [{"role": "user", "content": "Sum up.\n\nA text."}]
    assert row.prompt_text == "Sum up.\n\nA text."


def test_a_system_prompt_is_a_message_of_its_own():
    (row,) = read_conversations({"system_prompt": ["Be brief."], "question": ["Why?"], "response": ["So."]})
    assert row.prompt == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert row.prompt_text == "Be brief.\n\nWhy?"


def test_an_input_without_a_prompt_is_the_prompt():
    columns = {"prompt": "history", "input": "more", "response": "reply"}
    (row,) = read_conversations({"history": [[]], "more": ["Name a colour."], "reply": ["Blue."]}, columns)
    assert row.prompt == [USER]


# --- Turns --------------------------------------------------------------------------------------------------------

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "First."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "Second."},
    {"role": "user", "content": "never read"},
]


def test_the_last_assistant_turn_is_the_response_and_all_before_it_the_prompt():
    (row,) = read_conversations({"messages": [TALK]})
    assert row.response == "Second."
    assert row.prompt == TALK[:4]


def test_every_turn_is_read_with_all_that_precedes_it():
    (turns,) = read_turns({"messages": [TALK]})
    assert [(turn.prompt, turn.response) for turn in turns] == [(TALK[:2], "First."), (TALK[:4], "Second.")]


def test_tool_calls_are_left_intact_and_what_arrow_fills_in_is_not_there():
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    talk = [
        {"role": "user", "content": "Is it raining?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "yes", "tool_call_id": "1", "name": "weather"},
        {"role": "assistant", "content": "Yes."},
    ]
    stored = Dataset.from_list([{"messages": talk}])[0]["messages"]
    (turns,) = read_turns({"messages": [stored]})
    assert [turn.problem for turn in turns] == [None, None]
    assert turns[0].completion == [{**talk[1], "content": ""}]
    assert turns[-1].prompt == [talk[0], {**talk[1], "content": ""}, talk[2]]


def test_content_parts_are_joined():
    parts = [{"type": "text", "text": "Name a "}, {"type": "text", "text": "colour."}]
    (row,) = read_conversations({"messages": [[{"role": "user", "content": parts}, ANSWER]]})
    assert row.prompt == [USER]


@pytest.mark.parametrize("role", ["gpt", "bot", "chatgpt", "model"])
def test_names_of_the_assistant(role):
    (row,) = read_conversations({"conversations": [[{"from": "human", "value": "a"}, {"from": role, "value": "b"}]]})
    assert (row.prompt, row.response) == ([{"role": "user", "content": "a"}], "b")


# --- Rows that have nothing to score ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch, problem",
    [
        ({"prompt": ["a"], "completion": [None]}, "missing response"),
        ({"prompt": [None], "completion": ["a"]}, "missing prompt"),
        ({"prompt": ["a"], "completion": [""]}, "empty response"),
        ({"prompt": ["a"], "completion": [" \n"]}, "empty response"),
        ({"prompt": ["a"], "completion": [[]]}, "missing response"),
        ({"messages": [None]}, "missing messages"),
        ({"messages": [[]]}, "missing response"),
        ({"messages": [[USER]]}, "missing response"),
        ({"messages": [[USER, {"role": "assistant", "content": None}]]}, "empty response"),
        ({"messages": [None], "instruction": [None], "output": ["a"]}, "missing text"),
    ],
)
def test_a_row_without_text_keeps_its_place_and_says_why(batch, problem):
    (row,) = read_conversations(batch)
    assert (row.problem, row.response.strip()) == (problem, "")


def test_an_empty_prompt_is_no_problem():
    (row,) = read_conversations({"prompt": [""], "completion": ["Blue."]})
    assert (row.problem, row.prompt_text, row.response) == (None, "", "Blue.")


# --- Which layout -------------------------------------------------------------------------------------------------


def test_pools_of_several_layouts_are_read_row_by_row():
    batch = {"instruction": ["a", None], "output": ["b", None], "messages": [None, [USER, ANSWER]]}
    assert [row.response for row in read_conversations(batch)] == ["b", "Blue."]


def test_an_ambiguous_row_is_refused_by_its_number():
    batch = {"instruction": ["a", "a"], "output": ["b", "b"], "messages": [None, [USER, ANSWER]]}
    with pytest.raises(InstructMineError, match=r"^row 11 fits several layouts \(messages, Alpaca\): .*columns=") as e:
        read_conversations(batch, first_row=10)
    assert "\n" not in str(e.value)
    columns = {"prompt": "instruction", "response": "output"}
    assert [row.response for row in read_conversations(batch, columns)] == ["b", "b"]


def test_an_unknown_layout_lists_the_columns_seen_and_the_layouts_known():
    with pytest.raises(InstructMineError) as error:
        find_layouts(["text", "label"])
    message = str(error.value)
    assert message.startswith("no known layout: the columns are 'text', 'label'; known layouts are ")
    for layout in ("Alpaca (instruction, input, output)", "ShareGPT (conversations)", "columns={'prompt': …"):
        assert layout in message
    assert "\n" not in message


def test_columns_override_what_would_be_detected():
    batch = {"question": ["a"], "answer": ["b"], "best": ["c"], "note": ["d"], "persona": ["e"]}
    columns = {"prompt": "question", "input": "note", "system": "persona", "response": "best"}
    (row,) = read_conversations(batch, columns)
    assert row.prompt == [{"role": "system", "content": "e"}, {"role": "user", "content": "a\n\nd"}]
    assert row.response == "c"
    assert read_conversations({"chat": [TALK]}, {"messages": "chat"})[0].response == "Second."


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"prompt": "a"}, "columns maps 'prompt'; it must map 'messages', or 'prompt' and 'response'"),
        ({}, "columns maps none"),
        ({"prompt": "a", "response": "b", "answer": "b"}, "columns maps 'prompt', 'response', 'answer'"),
        ({"prompt": "a", "response": "c"}, "columns names 'c', but the dataset has 'a', 'b'"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(columns, message):
    with pytest.raises(InstructMineError) as error:
        find_layouts(["a", "b"], columns)
    assert str(error.value).startswith(message)


# --- Not text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch, place",
    [
        ({"prompt": [7], "completion": ["a"]}, "column 'prompt': expected text or a list of messages, got int 7"),
        ({"prompt": ["a"], "completion": [["x"]]}, "column 'completion': expected messages with 'role'"),
        ({"prompt": ["a"], "completion": [{"x": 1}]}, "column 'completion': expected text or a list of messages"),
        ({"instruction": ["a"], "input": [3.5], "output": ["b"]}, "column 'input': expected text, got float 3.5"),
        ({"messages": ["hello"]}, "column 'messages': expected text or a list of messages, got str 'hello'"),
        ({"messages": [[None]]}, "column 'messages': expected messages with 'role'"),
        ({"messages": [[{"role": "user", "content": 0}]]}, "column 'messages': expected text, got int 0"),
        ({"messages": [[{"role": "user", "content": ["x"]}]]}, "column 'messages': expected text, got list"),
        ({"messages": [[{"role": "wizard", "content": "x"}]]}, "column 'messages': a message has the role 'wizard'"),
        ({"messages": [[{"role": ["user"], "content": "x"}]]}, "column 'messages': a message has the role ['user']"),
        ({"conversations": [[{"from": None, "value": "x"}]]}, "column 'conversations': a message has the role None"),
    ],
)
def test_what_is_not_text_is_named_by_row_and_column(batch, place):
    with pytest.raises(InstructMineError) as error:
        read_conversations(batch, first_row=41)
    assert str(error.value).startswith(f"row 41, {place}")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "dataset, message",
    [
        (Dataset.from_dict({"instruction": [], "output": []}), "the dataset is empty"),
        (Dataset.from_dict({}), "the dataset is empty"),
        (Dataset.from_dict({"prompt": ["a"], "completion": [7]}), "column 'completion' holds int64, not text; row 0"),
        (Dataset.from_dict({"instruction": ["a"], "input": [["b"]], "output": ["c"]}), "column 'input' holds"),
        (
            Dataset.from_dict(
                {"question": ["a"], "answer": [1]},
                features=Features({"question": Value("string"), "answer": ClassLabel(names=["no", "yes"])}),
            ),
            "column 'answer' holds int64, not text; row 0 is 1; cast it to string",
        ),
    ],
)
def test_a_column_without_text_is_known_by_its_type(dataset, message):
    with pytest.raises(InstructMineError) as error:
        check_text_columns(dataset)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["string", "large_string", "null"])
def test_text_may_be_stored_in_any_way(kind):
    features = Features({"prompt": Value("string"), "completion": Value(kind)})
    check_text_columns(Dataset.from_dict({"prompt": ["a"], "completion": [None]}, features=features))


# --- Hostile and odd characters -----------------------------------------------------------------------------------


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_text_is_never_changed(text):
    (row,) = read_conversations({"prompt": [text], "completion": [text]})
    assert (row.prompt_text, row.response) == (text, text)


@given(st.text(alphabet=st.sampled_from("a\ud83d\ude00é😀")))
def test_half_a_surrogate_pair_is_the_replacement_character_and_a_whole_one_its_character(text):
    (row,) = read_conversations({"prompt": [text], "completion": [text]})
    assert row.response.encode() == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    assert not any("\ud800" <= character <= "\udfff" for character in row.response)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Say yes.", "input": "", "output": "Yes"},
        {"prompt": "Say yes.", "completion": "Yes"},
        {"messages": [{"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "Yes"}]},
    ],
)
def test_a_row_in_place_of_a_batch_is_refused(row):
    # As `Dataset.map` without `batched=True` gives it: one value per letter came of it.
    with pytest.raises(InstructMineError, match=r"holds one row, not a batch of rows: pass batched=True"):
        read_turns(row)


def test_a_part_of_a_message_without_text_is_empty_text():
    parts = [{"type": "text", "text": None}, {"type": "text", "text": "Yes"}]
    (turns,) = read_turns(
        {"messages": [[{"role": "user", "content": "Say yes."}, {"role": "assistant", "content": parts}]]}
    )
    assert turns[0].response == "Yes"
    (turns,) = read_turns(
        {"messages": [[{"role": "user", "content": "?"}, {"role": "assistant", "content": parts[:1]}]]}
    )
    assert turns[0].problem == "empty response"


def test_an_error_lists_a_few_of_many_columns():
    with pytest.raises(InstructMineError, match=r"'key 11', … \(3000 in all\)") as error:
        read_turns({f"key {i}": ["value"] for i in range(3000)})
    assert len(str(error.value)) < 2000
