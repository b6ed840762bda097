"""Columns that carry text or meaning are read, or named once."""

import pytest
from datasets import Dataset

from hf_instructmine.data.unread import describe_unread, unread_columns


ROW = {"prompt": "17 times 3?", "completion": "Multiplied: 51."}


@pytest.mark.parametrize(
    "column, value",
    [("reasoning", "30 and 21."), ("thinking", "30 and 21."), ("rejected", "52."), ("weight", 0.5), ("label", "good"),
     ("answer", "fifty-one"), ("documents", [{"title": "t", "text": "x"}])],
)  # fmt: skip
def test_a_column_of_a_known_meaning_is_named(column, value):
    assert unread_columns(Dataset.from_list([{**ROW, column: None}, {**ROW, column: value}])) == [column]


@pytest.mark.parametrize(
    "column, value",
    [("id", "7"), ("source", "web"), ("category", "maths"), ("mtld", 3.5), ("reward", 0.1), ("images", []),
     ("rejected", ""), ("thinking", None), ("answer", "51"), ("system", "Be brief."), ("tools", "[]"),
     ("text", "Q: 17 times 3? A: Multiplied: 51.")],
)  # fmt: skip
def test_metadata_empty_columns_and_what_is_said_already_are_not(column, value):
    assert unread_columns(Dataset.from_list([{**ROW, column: None}, {**ROW, column: value}])) == []


def test_a_column_that_is_mapped_is_read_and_one_left_out_is_named():
    pool = Dataset.from_list([{**ROW, "thinking": "30 and 21.", "system": "Be brief."}])
    assert unread_columns(pool) == ["thinking"]
    assert unread_columns(pool, {"reasoning": "thinking"}) == []
    assert unread_columns(pool, {"system": None}) == ["thinking", "system"]


def test_a_row_far_down_counts():
    pool = Dataset.from_list([{**ROW, "solution": "51"}] * 2500 + [{**ROW, "solution": "Add three times."}])
    assert unread_columns(pool) == ["solution"]


def test_the_line_on_the_screen_has_a_mend():
    assert describe_unread(["rejected", "thinking"]) == (
        "not read, though they may carry text or meaning: 'rejected', 'thinking'; read the reasoning with "
        "columns={'reasoning': 'thinking'}, or drop them"
    )
    assert "columns={…}" in describe_unread(["rejected"])
