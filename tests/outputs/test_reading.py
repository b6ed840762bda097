"""A damaged file is one line that names it, what is wrong and the mend."""

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.outputs.reading import parse_json, read_array, read_json, read_parquet, read_yaml, typed


BILLION_LAUGHS = "a: &a [x]\n" + "".join(
    f"{q}: &{q} [{', '.join([f'*{p}'] * 9)}]\n" for p, q in zip("abcdefghi", "bcdefghij")
)


@pytest.mark.parametrize(
    "content, what",
    [
        ("{}".encode("utf-16"), r"is not UTF-8 text \(byte 0xff at 0\)"),
        (b'{"a": "\xff"}', r"is not UTF-8 text \(byte 0xff at 7\)"),
        (b"", "is not JSON"),
        (b'{"a": 1', "is not JSON"),
        (b'{"a": NaN}', r"is not JSON \(NaN is no number of JSON\)"),
        (b'{"a": -Infinity}', "is not JSON"),
        (b'{"a": 1e999}', r"is not JSON \(1e999 is too large a number\)"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is not JSON"),
        (b'{"a": ' * 70 + b"1" + b"}" * 70, "is nested more than 64 deep"),
        (b"[" * 200_000, "is nested more than 64 deep"),
        (b"[]", r"is not what it should be \(it is no mapping\)"),
    ],
)
def test_json_that_cannot_be_read_is_one_line(tmp_path, content, what):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InstructMineError, match=rf"^'{path}' {what}.*: make it again$") as error:
        read_json(path, "make it again")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_what_is_no_file_is_one_line(tmp_path):
    for path in (tmp_path / "absent", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(InstructMineError, match=r"^cannot read '.*; make it again$"):
            read_json(path, "make it again")
        with pytest.raises(InstructMineError, match=r"^cannot read '.*; make it again$"):
            read_parquet(path, "make it again")


def test_the_mark_that_some_editors_begin_a_file_with_is_no_damage(tmp_path):
    (tmp_path / "x").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "x", "") == read_yaml(tmp_path / "x", "x") == {"a": 1}


def test_records_that_python_wrote_may_hold_nan():
    assert str(parse_json('{"a": [NaN, -Infinity]}', "it", "mend it", nan=True)) == "{'a': [nan, -inf]}"


@pytest.mark.parametrize(
    "text, what",
    [
        ("a: [", "while parsing"),
        ("- a", "must hold 'option: value' lines"),
        ("5", "must hold 'option: value' lines"),
        ("null: 5", "it has the option None, which is no name"),
        ("5: a", "it has the option 5"),
        ("a: 1\nb: 2\na: 3", "'a' stands there twice"),
        ("a: 2024-02-31", "day is out of range"),
        ("? [a]\n: b", "unhashable"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: " + "[" * 100_000, "nested too deep"),
        ("a: &a [*a]", "nested too deep"),
        (BILLION_LAUGHS, "or holds too much"),
    ],
)
def test_yaml_that_cannot_be_read_is_one_line(tmp_path, text, what):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InstructMineError, match=f"^(cannot read )?the recipe.*{what}") as error:
        read_yaml(tmp_path / "x.yaml", "the recipe")
    assert "\n" not in str(error.value)


def test_yaml_of_another_encoding_is_one_line(tmp_path):
    (tmp_path / "x.yaml").write_bytes("a: é".encode("latin-1"))
    with pytest.raises(InstructMineError, match=r"^the recipe is not UTF-8 text \(byte 0xe9 at 3\): give a file"):
        read_yaml(tmp_path / "x.yaml", "the recipe")


def test_parquet_that_cannot_be_read_is_one_line(tmp_path):
    path = tmp_path / "mtld=1.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), path)
    assert read_parquet(path, "").column_names == ["a"]
    with pytest.raises(InstructMineError, match=r"has no column 'b': score again$"):
        read_parquet(path, "score again", ["a", "b"])
    for content in (b"", b"PAR1", path.read_bytes()[:60]):
        path.write_bytes(content)
        with pytest.raises(InstructMineError, match=r"^cannot read .*; score again$") as error:
            read_parquet(path, "score again")
        assert "\n" not in str(error.value)


def test_an_array_that_cannot_be_read_is_one_line(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(100.0))
    whole = path.read_bytes()
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    for content in (b"", whole[:7], whole[:300], b"x" * 300, (tmp_path / "objects.npy").read_bytes()):
        path.write_bytes(content)
        for mode in (None, "r"):
            with pytest.raises(InstructMineError, match=r"^cannot read '.*x\.npy': .*; remove it$") as error:
                read_array(path, "remove it", mode)
            assert "\n" not in str(error.value)


@dataclass
class Point:
    x: float
    label: str | None = None


class Record(TypedDict):
    points: list[Point]
    note: NotRequired[str]


@pytest.mark.parametrize(
    "value, kind, fault",
    [
        ("a", float, "is 'a', not a number"),
        (True, float, "is True, not a number"),
        (10**400, float, "not a number"),
        (float("nan"), float, "is nan, not a number"),
        (None, float, "is None, not a number"),
        (1.0, int, "is 1.0, not a whole number"),
        (True, int, "is True, not a whole number"),
        (5, str, "is 5, not text"),
        (5, str | None, "is 5, not text"),
        ([1], dict[str, Any], r"is \[1\], not a mapping"),
        ([1, "a"], list[int], r"'it\[1\]' is 'a'"),
        ({"a": {"b": "c"}}, dict[str, dict[str, int]], "'it.a.b' is 'c'"),
        ({"points": [{"x": 1}, {"x": "1"}]}, Record, r"'it.points\[1\].x' is '1'"),
        ({"points": [{}]}, Record, r"'it.points\[0\].x' is missing"),
        ({"points": [{"x": 1, "y": 2}]}, Record, r"'it.points\[0\].y' is not known"),
        ({"points": [], "note": 5}, Record, "'it.note' is 5, not text"),
        ({}, Record, "'it.points' is missing"),
    ],
)
def test_a_value_of_another_kind_is_named(value, kind, fault):
    with pytest.raises(TypeError, match=fault):
        typed(value, kind, "it")


def test_a_value_of_its_kind_stays_what_it_is():
    found = typed({"points": [{"x": 1}, {"x": 0.1, "label": "a"}], "more": [None]}, Record)
    assert found == {"points": [Point(1), Point(0.1, "a")], "more": [None]}
    assert type(found["points"][0].x) is int
    assert typed(None, str | None) is None
    assert str(typed([None, 1.5], list[float], nan=True)) == "[nan, 1.5]"
