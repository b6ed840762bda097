"""What is sorted no further than it is asked for comes in the order of a full sort."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_instructmine.selection import order
from hf_instructmine.selection.order import Ascending, lowest, quantile, rows_where


few = st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, float("nan"), float("inf")]), max_size=60)


@settings(max_examples=200, deadline=None)
@given(few, st.integers(1, 8))
def test_the_heads_together_are_a_stable_sort(values, first):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_FIRST", first)
        patch.setattr(order, "_GROWTH", 2)
        heads = list(Ascending(np.array(values), np.arange(len(values))).heads())
    assert [place for head in heads for place in head.tolist()] == np.argsort(values, kind="stable").tolist()


@settings(max_examples=200, deadline=None)
@given(few, st.integers(0, 9))
def test_equal_numbers_come_in_the_order_of_the_second(values, seed):
    second = np.random.default_rng(seed).integers(0, 3, len(values)).astype(float)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_FIRST", 2)
        ranking = Ascending(np.array(values), np.arange(len(values)), second)
        heads = [head.tolist() for head in ranking.heads()]
    by_second = np.argsort(second, kind="stable")
    expected = by_second[np.argsort(np.array(values)[by_second], kind="stable")] if values else []
    assert [place for head in heads for place in head] == list(expected)
    assert [head.tolist() for head in ranking.heads()] == heads, "a second walk goes the same way"


@settings(max_examples=200, deadline=None)
@given(few, st.integers(1, 5))
def test_the_lowest_are_the_beginning_of_a_stable_sort(values, size):
    expected = np.argsort(values, kind="stable")[:size].tolist()
    assert lowest(np.array(values), np.arange(len(values)), size).tolist() == expected


def test_no_more_is_sorted_than_is_asked_for():
    values = np.random.default_rng(0).normal(size=1_000_000)
    first = next(Ascending(values, np.arange(len(values))).heads())
    assert order._FIRST <= len(first) < 2 * order._FIRST
    assert (np.diff(values[first]) >= 0).all()


@settings(max_examples=200, deadline=None)
@given(few, st.integers(0, 20))
def test_rows_that_may_be_taken_are_ranked_among_themselves(values, seed):
    rows = np.flatnonzero(np.random.default_rng(seed).random(len(values)) < 0.6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_FIRST", 3)
        patch.setattr(order, "_BLOCK", 4)
        heads = list(Ascending(np.array(values), rows).heads())
    expected = rows[np.argsort(np.array(values)[rows], kind="stable")].tolist() if len(rows) else []
    assert [row for head in heads for row in head.tolist()] == expected


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.995, 1])
@pytest.mark.parametrize("values", [
    np.random.default_rng(0).normal(size=300_001),
    np.random.default_rng(1).integers(0, 3, 300_000).astype(float),
    np.where(np.arange(300_000) % 9 == 6, 1e9, np.arange(300_000.0)),  # behind three others: every ninth is sampled
    np.array([3.0, 1.0]),
], ids=["normal", "few", "misled", "two"])  # fmt: skip
def test_a_quantile_is_that_of_the_finite_values(values, share):
    holed = np.insert(values, [0, 1, 2], [np.nan, np.inf, -np.inf])
    before = holed.copy()
    assert quantile(holed, share) == pytest.approx(np.quantile(values, share), rel=1e-12)
    assert np.array_equal(holed, before, equal_nan=True), "no value changes its place"


def test_rows_are_numbered_in_half_the_room():
    mask = np.random.default_rng(0).random(300_000) < 0.5
    rows = rows_where(mask)
    assert rows.dtype == np.int32 and np.array_equal(rows, np.flatnonzero(mask))
    assert len(rows_where(np.zeros(0, bool))) == 0


def test_ranking_makes_no_array_as_long_as_the_pool():
    values = np.random.default_rng(0).normal(size=4_000_000)
    rows = rows_where(np.ones(len(values), bool))
    tracemalloc.start()
    next(Ascending(values, rows).heads())
    lowest(values, rows, 2)
    quantile(values, 0.5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < values.nbytes / 2
