"""The errors of every subset, all at once, against those of one fold at a time."""

import numpy as np
import pytest

from hf_instructmine.regression import all_subsets
from hf_instructmine.regression.choice import FOLDS, PARTITIONS, Problem, fold_errors, subset_scores


@pytest.mark.parametrize("block", [1, 100, 100_000])
@pytest.mark.parametrize("requires", [[None] * 5, [None, None, None, 0, 2]], ids=["free", "squares"])
def test_sums_over_the_folds_are_those_of_single_folds_however_the_work_is_cut(monkeypatch, block, requires):
    monkeypatch.setattr(all_subsets, "_BLOCK", block)
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(40), rng.normal(size=(40, 7))])
    x[:, 6] = np.eye(40)[7] + 1e-12 * x[:, 6]  # vanishes in a fold
    y = x[:, [4]] + rng.normal(size=(40, 3))
    problem = Problem(x, y[:, 0], np.ones(40), np.arange(40), 3, requires)
    training = np.where(rng.random((4, 40)) < 0.8, rng.integers(1, 3, (4, 40)), 0).astype(float)
    found = subset_scores(problem, y, training, np.random.default_rng(3))
    single = np.stack(list(fold_errors(problem, y, training, np.random.default_rng(3))))
    assert single.shape == (len(problem.subsets), 4, FOLDS * PARTITIONS, 3)
    np.testing.assert_allclose(found, single.sum(axis=2), rtol=1e-9)
