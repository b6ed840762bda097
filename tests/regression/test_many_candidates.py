"""A rule fitted to more candidates than every subset of which could be compared."""

import numpy as np
import pandas as pd
import pytest

from hf_instructmine import InstructMineError, LossEstimator


QUICK = {"target": "loss_mine", "permutations": 19, "bootstraps": 20}


def runs_of(n: int, candidates: int, seed: int = 0) -> pd.DataFrame:
    """Runs of which the losses follow x00 and x02."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, candidates))
    loss = np.exp(1 + 0.1 * z[:, 0] - 0.1 * z[:, 2] + 0.03 * rng.normal(size=n))
    return pd.DataFrame(dict(zip(names(candidates), z.T)) | {"loss_mine": loss})


def names(candidates: int) -> list[str]:
    return [f"x{k:02d}" for k in range(candidates)]


@pytest.fixture(scope="module")
def rule() -> LossEstimator:
    return LossEstimator.fit(runs_of(60, 20), indicators=names(20), **QUICK)


def test_what_matters_is_found_and_the_summary_says_how(rule):
    d = rule.diagnostics
    assert {"x00", "x02"} <= set(rule.indicators) and len(rule.indicators) < 6
    assert d.nested_cv_r2 > 0.8 and d.permutation_p == 0.05
    assert d.subsets == 1 + 15  # sizes: a quarter of the mixtures is the largest
    assert d.chosen_share["x00"] == d.chosen_share["x02"] == 1
    assert "20 candidates have too many subsets to compare each" in " ".join(rule.summary().split())


def test_it_is_kept_and_read_as_any_other(rule, tmp_path):
    rule.save_pretrained(tmp_path)
    again = LossEstimator.from_pretrained(tmp_path)
    assert again.summary() == rule.summary()
    assert again.predict(runs_of(5, 20)).tobytes() == rule.predict(runs_of(5, 20)).tobytes()


def test_fewer_runs_than_candidates_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="30 mixtures are fewer than 40 regressors need") as noted:
        rule = LossEstimator.fit(runs_of(30, 40), indicators=names(40), **QUICK)
    assert noted[0].filename == __file__
    assert {"x00", "x02"} <= set(rule.indicators) and rule.diagnostics.subsets == 1 + 7
    rule.save_pretrained(tmp_path)
    assert LossEstimator.from_pretrained(tmp_path).summary() == rule.summary()


def test_a_square_comes_with_its_linear_term():
    runs = runs_of(60, 12, seed=1)
    runs["loss_mine"] *= np.exp(0.2 * runs["x05"] ** 2)
    rule = LossEstimator.fit(runs, indicators=names(12), squared=names(12)[:6], **QUICK)
    assert {"x00", "x02", "x05", "x05^2"} <= {term.name for term in rule.terms}


@pytest.mark.parametrize(
    ("n", "candidates", "options", "message"),
    [
        (60, 41, {}, "41 candidate regressors are too many"),
        (60, 13, {"select": "p-value"}, "select='p-value' looks at every subset"),
        (60, 13, {"max_vif": 5.0}, "max_vif looks at every subset"),
        (30, 40, {"select": "none"}, "30 runs of 30 different mixtures are too few for 40 regressors"),
        (2, 13, {}, "2 runs of 2 different mixtures are too few for 13 regressors: at least 3"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(n, candidates, options, message):
    with pytest.raises(InstructMineError, match=message) as raised:
        LossEstimator.fit(runs_of(n, candidates), indicators=names(candidates), **{**QUICK, **options})
    assert "\n" not in str(raised.value)


def test_a_copy_of_a_column_is_refused_also_where_runs_are_few():
    runs = runs_of(30, 40)
    runs["x07"] = 2 * runs["x03"] + 1
    with pytest.warns(UserWarning), pytest.raises(InstructMineError, match=r"'x07' is an exact .* of 'x03'"):
        LossEstimator.fit(runs, indicators=names(40), **QUICK)
