"""What is sorted no further than it is asked for comes in the order of a full sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_instructmine.selection import order
from hf_instructmine.selection.order import Ascending, lowest


few = st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, float("nan"), float("inf")]), max_size=60)


@settings(max_examples=200, deadline=None)
@given(few, st.integers(1, 8))
def test_the_heads_together_are_a_stable_sort(values, first):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_FIRST", first)
        patch.setattr(order, "_GROWTH", 2)
        heads = list(Ascending(np.array(values)).heads())
    assert [place for head in heads for place in head.tolist()] == np.argsort(values, kind="stable").tolist()


@settings(max_examples=200, deadline=None)
@given(few, st.integers(0, 9))
def test_equal_numbers_come_in_the_order_of_the_second(values, seed):
    second = np.random.default_rng(seed).integers(0, 3, len(values)).astype(float)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_FIRST", 2)
        ranking = Ascending(np.array(values), second)
        heads = [head.tolist() for head in ranking.heads()]
    by_second = np.argsort(second, kind="stable")
    expected = by_second[np.argsort(np.array(values)[by_second], kind="stable")] if values else []
    assert [place for head in heads for place in head] == list(expected)
    assert [head.tolist() for head in ranking.heads()] == heads, "a second walk goes the same way"


@settings(max_examples=200, deadline=None)
@given(few, st.integers(1, 5))
def test_the_lowest_are_the_beginning_of_a_stable_sort(values, size):
    assert lowest(np.array(values), size).tolist() == np.argsort(values, kind="stable")[:size].tolist()


def test_no_more_is_sorted_than_is_asked_for():
    values = np.random.default_rng(0).normal(size=1_000_000)
    first = next(Ascending(values).heads())
    assert order._FIRST <= len(first) < 2 * order._FIRST
    assert (np.diff(values[first]) >= 0).all()
