"""One reader of numeric columns: what is no number is refused in the same line wherever a column is read."""

import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_instructmine import (
    InstructMineError,
    LossEstimator,
    Selector,
    compare_strategies,
    design_mixtures,
    design_report,
    size_report,
)
from hf_instructmine import compare as compare_rules
from hf_instructmine.cli.main import main
from hf_instructmine.comparison.strategies import choose_rows
from hf_instructmine.data.columns import Column, indicator_columns, numeric_column


RULE = LossEstimator.from_coefficients({"mtld": 1.0})
NO_NUMBERS = {
    "numbers as text": ([str(i) for i in range(20)], "string"),
    "words": (["long", "short"] * 10, "string"),
    "booleans": ([True, False] * 10, "bool"),
}


def pool(**columns) -> Dataset:
    rows = {
        "prompt": [f"question {i}" for i in range(20)],
        "completion": [f"answer {i}" for i in range(20)],
        "source": ["a", "b"] * 10,
        "output_length": list(range(1, 21)),
        "mtld": np.linspace(1, 2, 20),
    }
    return Dataset.from_dict(rows | columns)


# --- What every entrance refuses ----------------------------------------------------------------------------------


def fit(values, folder, options=None, **columns):
    runs = {"mtld": values, "mixture_id": list(range(20)), "loss_x": np.linspace(1, 2, 20), **columns}
    LossEstimator.fit(runs, target="loss_x", indicators=["mtld"], **(options or {}))


def trials(losses) -> Dataset:
    told = {"kind": "grid", "strategy": "selected", "status": "done"}
    return Dataset.from_list([{**told, "size": 2 + i, "loss_x": loss} for i, loss in enumerate(losses)])


def compare(scored, strategies, folder):
    compare_strategies(scored, strategies, {}, {}, folder, tokens=[30], parts=3)


ENTRANCES = {
    "fit": ("mtld", fit),
    "predict": ("mtld", lambda values, folder: RULE.predict(pool(mtld=values))),
    "predict a mapping": ("mtld", lambda values, folder: RULE.predict({"mtld": values})),
    "predict a DataFrame": ("mtld", lambda values, folder: RULE.predict(pd.DataFrame({"mtld": values}))),
    "select": ("mtld", lambda values, folder: Selector(RULE).select(pool(mtld=values), size=3)),
    "select by tokens": (
        "output_length",
        lambda values, folder: Selector(RULE).select(pool(output_length=values), tokens=30),
    ),
    "select up to a length": (
        "output_length",
        lambda values, folder: Selector(RULE, max_response_tokens=9).select(pool(output_length=values), size=3),
    ),
    "design": (
        "mtld",
        lambda values, folder: design_mixtures(pool(mtld=values), 4, subset_size=5, indicators=["mtld"]),
    ),
    "design by tokens": (
        "output_length",
        lambda values, folder: design_mixtures(pool(output_length=values), 4, subset_tokens=30, indicators=["mtld"]),
    ),
    "predict a set": ("mtld", lambda values, folder: RULE.predict_subset(pool(mtld=values))),
    "contributions": ("mtld", lambda values, folder: RULE.contributions(pool(mtld=values))),
    "fit to losses": ("loss_x", lambda values, folder: fit(np.linspace(1, 2, 20), folder, loss_x=values)),
    "fit with weights": ("w", lambda values, folder: fit(np.linspace(1, 2, 20), folder, {"weights": "w"}, w=values)),
    "fit with a covariate": (
        "c",
        lambda values, folder: fit(np.linspace(1, 2, 20), folder, {"covariates": ["c"]}, c=values),
    ),
    "compare rules": ("loss_x", lambda values, folder: compare_rules([RULE], pool(loss_x=values), "loss_x")),
    "a design's report": (
        "mtld",
        lambda values, folder: design_report(design_mixtures(pool(), 4, subset_size=5), pool(mtld=values)),
    ),
    "a search's report": ("loss_x", lambda values, folder: size_report(trials(values))),
    "compare": ("output_length", lambda values, folder: compare(pool(output_length=values), {"mine": RULE}, folder)),
    "compare with a column": (
        "mtld",
        lambda values, folder: compare(pool(mtld=values), {"varied": "highest:mtld"}, folder),
    ),
    "a strategy": (
        "mtld",
        lambda values, folder: choose_rows(
            pool(mtld=values), "lowest:mtld", {"size": 3}, np.arange(20), np.ones(20), columns=None
        ),
    ),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_is_no_number_is_refused_alike_everywhere(entrance, kind, tmp_path):
    column, enter = ENTRANCES[entrance]
    values, found = NO_NUMBERS[kind]
    with pytest.raises(InstructMineError) as refused:
        enter(values, tmp_path)
    assert str(refused.value) == f"column '{column}' holds {found}, not numbers: an indicator is one number a row"


def test_a_command_says_it_in_one_line(tmp_path, capsys):
    RULE.save_pretrained(tmp_path / "rule")
    pool(output_length=NO_NUMBERS["words"][0]).to_json(tmp_path / "words.jsonl")
    command = ["select", tmp_path / "words.jsonl", "--rule", tmp_path / "rule", "--tokens", 20]
    assert main([str(word) for word in (*command, "--output-dir", tmp_path / "curated")]) == 1
    error = capsys.readouterr().err
    assert "instructmine select: column 'output_length' holds string, not numbers" in error
    assert "Traceback" not in error


# --- What is missing everywhere -----------------------------------------------------------------------------------

# Not a number, though the column holds numbers: row 4 of 20 is taken for one without a value.
GAPS = {"None": None, "NaN": float("nan"), "infinity": float("inf"), "minus infinity": float("-inf")}
READERS = {
    "predict": lambda scored: RULE.predict(scored),
    "predict a set": lambda scored: str(RULE.predict_subset(scored)),
    "select": lambda scored: Selector(RULE).select(scored, size=15).indices,
    "select by tokens": lambda scored: Selector(RULE).select(scored, tokens=60).indices,
    "select by length": lambda scored: Selector(RULE, length_bins=3).select(scored, size=12).indices,
    "design": lambda scored: str(design_mixtures(scored, 3, subset_size=5, seed=0).to_list()),
    "a strategy": lambda scored: choose_rows(
        scored, "lowest:mtld", {"size": 9}, np.arange(20), np.ones(20), columns=None
    ),
    "another": lambda scored: choose_rows(
        scored, "highest:output_length", {"size": 9}, np.arange(20), np.ones(20), columns=None
    ),
}


def with_gap(gap) -> Dataset:
    values, lengths = list(np.linspace(1, 2, 20)), [float(i) for i in range(1, 21)]
    values[4], lengths[6] = gap, gap
    return pool(mtld=values, output_length=lengths)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("gap", GAPS)
def test_a_gap_and_an_infinite_value_are_the_same_to_every_reader(reader, gap):
    read = READERS[reader]
    np.testing.assert_array_equal(read(with_gap(GAPS[gap])), read(with_gap(None)))


@pytest.mark.parametrize("gap", GAPS.values(), ids=GAPS)
@pytest.mark.parametrize("column", ["mtld", "loss_x"])
def test_a_gap_among_runs_is_refused_and_named(column, gap):
    values = [1.0, 2.0, 4.0, gap, 3.0]
    runs = {"mtld": [1.0, 2.0, 3.0, 4.0, 5.0], "loss_x": [1.0, 2.0, 3.0, 4.0, 5.0], column: values}
    with pytest.raises(InstructMineError, match=rf"the column '{column}' has no finite value in run 3: leave out"):
        LossEstimator.fit(runs, target="loss_x", indicators=["mtld"])


# --- What it reads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Dataset.from_dict, pd.DataFrame, dict])
def test_numbers_are_read_as_they_are_and_gaps_are_nan(make):
    table = make({"whole": [3, 1, 2], "gap": [1.5, None, float("nan")], "nothing": [None, None, None]})
    assert numeric_column(table, "whole").tolist() == [3, 1, 2]
    np.testing.assert_array_equal(numeric_column(table, "gap"), [1.5, np.nan, np.nan])
    assert np.isnan(numeric_column(table, "nothing")).all()
    assert numeric_column(table, "whole").dtype == np.float64


def test_a_column_of_arrays_is_no_numeric_column():
    for values in (np.ones((3, 2)), [[1.0], [2.0], [3.0]], [1.0, "2", 3.0]):
        with pytest.raises(InstructMineError, match=r"column 'x' holds .*, not numbers"):
            numeric_column({"x": values}, "x")


def test_a_whole_number_beyond_the_floats_is_rounded():
    assert numeric_column(Dataset.from_dict({"x": [2**53 + 1]}), "x").tolist() == [2.0**53]


def test_the_rows_of_a_selection_come_in_its_order_with_their_own_values():
    table = Dataset.from_dict({"x": [1.0, 2.0, 3.0], "y": [4, 5, 6], "z": ["a", "b", "c"]}).select([2, 0])
    assert numeric_column(table, "x").tolist() == [3, 1]
    values = indicator_columns(table.with_format("torch"), ["y", "x"])
    assert {name: column[:].tolist() for name, column in values.items()} == {"y": [6, 4], "x": [3, 1]}
    assert list(values) == ["y", "x"]
    assert len(numeric_column(table.select([]), "x")) == 0


def test_no_digit_is_lost_on_the_way():
    table = Dataset.from_dict({"x": [16777217.0, 0.1]})  # 2**24 + 1, which a float32 cannot hold
    assert numeric_column(table, "x").tolist() == [16777217.0, 0.1]
    close = Dataset.from_dict({"x": [1.0, 1.0 + 1e-9]})
    assert choose_rows(close, "highest:x", {"size": 1}, np.arange(2), np.ones(2)).tolist() == [1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from([1.5, -2.0, None, float("inf")]), max_size=4), max_size=5), st.data())
def test_a_column_gives_the_rows_that_are_asked_for(chunks, data):
    table = pa.table({"x": pa.chunked_array(chunks, pa.float64())})
    whole, column = numeric_column(table, "x"), Column(table, "x")
    assert len(column) == len(whole)
    rows = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=8)) if len(whole) else []
    assert np.array_equal(column[rows], whole[rows], equal_nan=True)
    assert np.array_equal(column[1:3], whole[1:3], equal_nan=True)
    mask = np.arange(len(whole)) % 2 == 0
    assert np.array_equal(column[mask], whole[mask], equal_nan=True)


@pytest.mark.parametrize("row", [-1, 3])
def test_a_column_has_no_row_beyond_its_own(row):
    with pytest.raises(IndexError, match=f"there is no row {row}: the column has 3"):
        Column(Dataset.from_dict({"x": [1, 2, 3]}), "x")[[row]]


def test_a_part_of_a_column_on_disk_is_read_without_the_rest(tmp_path):
    rows = 1_000_000
    Dataset.from_dict({"x": np.arange(float(rows))}).save_to_disk(tmp_path / "pool")
    column = Column(Dataset.load_from_disk(str(tmp_path / "pool")), "x")
    tracemalloc.start()
    assert column[[5, rows - 1]].tolist() == [5, rows - 1] and column[10:12].tolist() == [10, 11]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < rows / 2
