"""The stages of a walk, and what a ranking hands back to it."""

import numpy as np
import pytest

from hf_instructmine.selection.budget import Budget
from hf_instructmine.selection.shares import Shares
from hf_instructmine.selection.walk import Account, Stage, Terms


def account(option: str, spent: list[float], least=(4, 4), most=(8, 8)) -> Account:
    share = Shares(option, np.array([0, 1]), ["a", "b"], np.array(least, float), np.array(most, float))
    return Account(share, np.array(spent, float))


@pytest.mark.parametrize(
    "stage, option, spent, cost, left, full",
    [
        (Stage.LEAST, "quotas", [3, 0], 1, 9, False),
        (Stage.LEAST, "quotas", [3, 0], 2, 9, True),  # beyond its least share
        (Stage.LEAST_AND_ONE, "quotas", [3, 4], 2, 9, False),
        (Stage.LEAST_AND_ONE, "quotas", [4, 3], 2, 9, True),  # it lacks nothing
        (Stage.LEAST_AND_ONE, "quotas", [3, 1], 2, 5, False),
        (Stage.LEAST_AND_ONE, "quotas", [3, 1], 2, 4, True),  # the other's least would not be left
        (Stage.LEAST_AND_ONE, "quotas", [3, 4], 6, 9, True),  # beyond its most
        (Stage.MOST, "quotas", [6, 0], 2, 9, False),
        (Stage.MOST, "quotas", [6, 0], 3, 9, True),
        (Stage.MOST, "length_bins", [6, 0], 3, 9, True),
        (Stage.BINS_AND_ONE, "length_bins", [6, 0], 3, 9, False),  # one row more goes over it
        (Stage.BINS_AND_ONE, "length_bins", [8, 0], 1, 9, True),
        (Stage.BINS_AND_ONE, "quotas", [6, 0], 3, 9, True),  # which stay as they are
        (Stage.LEAST, "length_bins", [6, 0], 2, 9, False),
    ],
)
def test_each_stage_has_its_own_rule(stage, option, spent, cost, left, full):
    assert bool(stage.is_full(account(option, spent), 0, cost, left)) is full


class Falling:
    """A ranking that can no longer rank its last two rows."""

    rows = np.arange(5)

    def blocks(self, descent, wanted):
        for row in range(3):
            if wanted[row]:
                yield np.array([row]), None
        yield np.array([3, 4]), "set_level"

    def conclude(self, taken):
        return 7.0, {"knn_1": np.array(taken, float)}


def test_rows_that_a_ranking_hands_back_are_passed_over_for_its_reason():
    with pytest.raises(Exception, match=r"2 have no prediction at their distance inside the set \(set_level\)"):
        Terms(Budget("size", 4), np.ones(5)).walk(Falling())
    walk = Terms(Budget("max_log_loss", 1.0), np.zeros(5)).walk(Falling())
    assert walk.taken == [0, 1, 2]
    passed = {reason: rows.tolist() for reason, rows in walk.passed.items()}
    assert passed == {"duplicates": [], "empty": [], "set_level": [3, 4]}
    assert walk.mean == 7.0 and walk.distances["knn_1"].tolist() == [0, 1, 2]
