"""Prompts in any layout, with answers or without; and references from elsewhere."""

import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.evaluation.questions import read_questions


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "And?"},
]


def contents(question) -> list[list[str]]:
    return [[message["content"] for message in turn] for turn in question.turns]


@pytest.mark.parametrize(
    "row, asked, references",
    [
        ({"prompt": "Hi."}, [["Hi."]], [None]),
        ({"prompt": "Hi.", "completion": "Hello!"}, [["Hi."]], ["Hello!"]),
        ({"instruction": "Greet", "input": "Ann"}, [["Greet\n\nAnn"]], [None]),
        ({"instruction": "Greet", "input": "", "output": "Hi"}, [["Greet"]], ["Hi"]),
        ({"question": "Why?"}, [["Why?"]], [None]),
        ({"messages": CHAT}, [["Be brief.", "Hi."], ["And?"]], ["Hello!", None]),
        ({"messages": CHAT[:3]}, [["Be brief.", "Hi."]], ["Hello!"]),
        ({"prompt": CHAT[:2]}, [["Be brief.", "Hi."]], [None]),
        ({"conversations": [{"from": "human", "value": "Hi."}]}, [["Hi."]], [None]),
        ({"turns": ["Hi.", "And?"], "reference": None}, [["Hi."], ["And?"]], [None, None]),
        ({"turns": ["Hi.", "And?"], "reference": ["Hello!"]}, [["Hi."], ["And?"]], ["Hello!", None]),
        ({"turns": ["Hi."]}, [["Hi."]], [None]),
    ],
)
def test_a_row_is_the_turns_that_are_asked_and_their_references(row, asked, references):
    (question,) = read_questions([row])
    assert (contents(question), question.references) == (asked, references)


def test_rows_with_and_without_answers_may_be_mixed():
    found = read_questions([{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": None}])
    assert [question.references for question in found] == [["b"], [None]]


def test_a_column_of_another_name_can_be_mapped():
    (question,) = read_questions([{"q": "Hi.", "best": "Hello!"}], {"prompt": "q"})
    assert (contents(question), question.references) == ([["Hi."]], [None])
    (question,) = read_questions([{"q": "Hi.", "best": "Hello!"}], {"prompt": "q", "response": "best"})
    assert question.references == ["Hello!"]


def test_the_real_sets_are_read(shared_data):
    found = read_questions(str(shared_data / "eval" / "mt_bench.jsonl"))
    assert len(found) == 80 and {len(question.turns) for question in found} == {2}
    assert (found[0].name, found[0].category) == (81, "writing")
    with_reference = {q.category for q in found if any(q.references)}
    assert {"math", "reasoning", "coding"} <= with_reference
    assert len(read_questions(str(shared_data / "eval" / "self_instruct_252.jsonl"))) == 252


@pytest.mark.parametrize(
    "rows, told",
    [
        ([], "the prompts are empty"),
        ([{"prompt": "a"}, {"prompt": " "}], "row 1 of the prompts asks nothing"),
        ([{"prompt": "a"}, {"prompt": None}], "row 1 of the prompts cannot be asked: missing prompt"),
        ([{"nothing": "a"}], "no known layout"),
        ([{"messages": [{"role": "wizard", "content": "a"}]}], "a message has the role 'wizard'"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(rows, told):
    with pytest.raises(InstructMineError, match=told) as error:
        read_questions(rows)
    assert "\n" not in str(error.value)


# --- References from elsewhere ------------------------------------------------------------------------------------

PROMPTS = [{"question_id": 5, "turns": ["a", "b"], "reference": ["own", None]}, {"question_id": 6, "turns": ["c"]}]


@pytest.mark.parametrize(
    "rows, expected",
    [
        ([{"question_id": 6, "reference": "C"}, {"question_id": 5, "reference": "A"}], [["A", None], ["C"]]),
        ([{"question_id": 6, "choices": [{"turns": ["C"]}]}], [["own", None], ["C"]]),
        ([{"reference": ["A", "B"]}, {"reference": ["C"]}], [["A", "B"], ["C"]]),
        ([{"prompt": "a", "completion": "A"}, {"prompt": "c", "completion": "C"}], [["A", None], ["C"]]),
        ([{"reference": None}, {"reference": "C"}], [[None, None], ["C"]]),
    ],
)
def test_references_are_found_by_question_or_in_order(rows, expected):
    assert [question.references for question in read_questions(PROMPTS, references=rows)] == expected


@pytest.mark.parametrize(
    "rows, told",
    [
        ([{"reference": "A"}], "there are 1 references for 2 prompts"),
        ([{"question_id": 99, "reference": "A"}], "the references are of other questions"),
        ([{"reference": 5}, {"reference": 6}], "a reference is a text, or a list of one for each turn, not 5"),
    ],
)
def test_references_of_other_questions_are_refused(rows, told):
    with pytest.raises(InstructMineError, match=told):
        read_questions(PROMPTS, references=rows)
