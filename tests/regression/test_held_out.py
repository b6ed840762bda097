"""What a rule predicts beyond its covariates, and beyond what random splits do, on runs whose law is known."""

import numpy as np
import pytest
from simulated_runs import simulated_runs
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from hf_instructmine import LossEstimator
from hf_instructmine.estimator.summary import beats_the_mean, failing_sources, in_words, verdict
from hf_instructmine.regression import choice
from hf_instructmine.regression.choice import Problem, assign_folds, cross_fit
from hf_instructmine.regression.diagnostics import Diagnostics
from hf_instructmine.regression.held_out import leave_one_source_out, skill
from hf_instructmine.regression.runs import RunTable


def grouped_runs(effect: float, seed: int = 0, n: int = 40) -> dict:
    """Two groups of runs half a nat apart, and three indicators, of which the first has an effect."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    log_loss = 0.5 * (np.arange(n) % 2) + effect * x[:, 0] + 0.03 * rng.normal(size=n)
    return {
        **dict(zip(("mtld", "reward", "nll"), x.T)),
        "base": [f"m{i % 2}" for i in range(n)],
        "steps": (np.arange(n) % 2 + 0.01 * rng.normal(size=n)).tolist(),
        "loss_a": np.exp(log_loss),
    }


def fitted(effect: float, seed: int = 0, **options) -> Diagnostics:
    options = {"group": "base", "permutations": 99, "bootstraps": 0, **options}
    rule = LossEstimator.fit(grouped_runs(effect, seed), target="loss_a", **options)
    assert rule.diagnostics is not None
    return rule.diagnostics


@pytest.mark.parametrize("options", [{}, {"group": None, "covariates": ["steps"]}])
def test_what_groups_and_covariates_explain_is_no_merit_of_the_indicators(options):
    noise = [fitted(0.0, seed, **options) for seed in range(8)]
    assert min(d.nested_cv_r2 for d in noise) > 0.95
    assert max(d.partial_r2 for d in noise) < 0.15
    assert sum(beats_the_mean(d) for d in noise) <= 1
    strong = fitted(0.1, **options)
    assert strong.partial_r2 > 0.7 and strong.partial_r2_interval[0] > 0.5
    assert verdict(strong).startswith("It can be used")


def test_a_weak_effect_beside_a_strong_group_is_used_with_care_alone():
    weak = fitted(0.01)
    words = in_words(
        LossEstimator.fit(grouped_runs(0.01), target="loss_a", group="base", permutations=99, bootstraps=0)
    )
    assert "better than group=m1 alone (held-out partial R² 0.28, 95 % -0.02 to 0.50; permutation p 0.010)." in words
    assert all(len(sentence) < 200 for sentence in words.split(". ")), "a card cuts what is longer"
    assert weak.nested_cv_r2 > 0.95 and weak.nested_cv_r2_interval[0] > 0.9
    assert 0.1 < weak.partial_r2 < 0.5 and weak.partial_r2_interval[0] < 0
    assert verdict(weak).startswith("Use it with care")


def test_the_partial_r2_is_over_the_groups_means_in_the_same_folds():
    runs = grouped_runs(0.1)
    y, group = np.log(runs["loss_a"]), np.arange(40)[:, None] % 2
    x = np.column_stack([np.ones(40), group, runs["mtld"]])
    folds = assign_folds(np.arange(40), 10, np.random.default_rng(0))
    both, alone = (
        cross_val_predict(LinearRegression(), columns, y, cv=PredefinedSplit(folds)) for columns in (x[:, 1:], group)
    )
    problem = Problem(x, y, np.ones(40), np.arange(40), 2, [None], select="none")
    predicted, baseline = (
        cross_fit(choice.held_out, p, y[:, None], [folds], np.random.default_rng(0))[0]
        for p in (problem, problem.without_candidates())
    )
    expected = 1 - ((y - both) ** 2).sum() / ((y - alone) ** 2).sum()
    assert skill(y[:, None], predicted, baseline, np.ones(40)) == pytest.approx(expected)


def test_without_covariates_the_worth_is_the_nested_r2():
    d = fitted(0.1, group=None)
    assert d.partial_r2 is None and d.in_every == []
    assert d.worth == (d.nested_cv_r2, d.nested_cv_r2_interval)


def test_a_rule_saved_without_the_partial_r2_says_that_it_is_not_known():
    content = fitted(0.1).to_dict()
    for name in ("partial_r2", "partial_r2_interval"):
        del content[name]
    old = Diagnostics.from_dict(content)
    assert old.worth is None and old.in_every == ["group=m1"]
    assert verdict(old).startswith("Use it with care: how much its indicators add to group=m1 is not known")
    assert verdict(Diagnostics.from_dict({**content, "permutation_p": 0.5})).startswith("Do not select by it")


def sourced(seed: int, flipped: bool = False) -> tuple[Problem, RunTable]:
    """28 runs of seven sources. A source is a label; or, in runs of the first one, the effect has the other sign."""
    rng = np.random.default_rng(seed)
    z, shares = rng.normal(size=(28, 4)), rng.dirichlet(np.ones(7), 28)
    sign = np.ones(28)
    if flipped:
        shares[:22, 0], shares[22:, 0] = 0.0, 0.5
        sign[22:] = -1
    y = sign * z[:, 0] + (0.1 if flipped else 1.0) * rng.normal(size=28)
    x = np.column_stack([np.ones(28), (z - z.mean(0)) / z.std(0)])
    problem = Problem(x, y, np.ones(28), np.arange(28), 1, [None] * 4)
    table = RunTable(y[:, None], {}, [], problem.mixtures, problem.weights, np.arange(28), sources=list("abcdefg"))
    table.shares = shares
    return problem, table


def test_sources_that_do_not_matter_are_not_said_to_fail():
    negative = named = 0
    for seed in range(12):
        found = leave_one_source_out(choice.held_out, *sourced(seed), seed=0, compare=True)
        negative += any(f["skill"] < 0 for f in found.values())
        named += any(f["skill"] < 0 and f["as_bad"] * 7 <= 0.05 for f in found.values())
    assert negative >= 9, "the half without a source fits badly, whatever the source"
    assert named <= 2


def test_a_source_with_another_law_is_said_to_fail():
    found = leave_one_source_out(choice.held_out, *sourced(0, flipped=True), seed=0, compare=True)
    assert found["a"]["skill"] < -0.5 and found["a"]["as_bad"] * 7 <= 0.05
    again = leave_one_source_out(choice.held_out, *sourced(0, flipped=True), seed=0)
    assert again["a"] == {**found["a"], "as_bad": None}, "the comparison changes nothing else"


def test_only_a_source_that_does_worse_than_chance_gates_the_verdict():
    rule = LossEstimator.fit(simulated_runs(n=60, replicates=6, seed=2), permutations=99, bootstraps=0)
    d = rule.diagnostics
    assert d is not None and verdict(d).startswith("It can be used")
    assert all(0 < found["as_bad"] <= 1 for found in d.leave_one_source_out_r2.values())
    for as_bad, failing in ((0.14, []), (0.005, ["a"]), (None, ["a"])):
        d.leave_one_source_out_r2["a"] |= {"skill": -1.12, "as_bad": as_bad}
        assert failing_sources(d) == failing
        assert verdict(d).startswith("Use it with care" if failing else "It can be used")


def test_two_indicators_that_act_together_look_like_a_curve_and_a_square_is_not_promised_to_mend_it():
    runs = simulated_runs(n=60, replicates=0, seed=6, effect=0.0)
    z = (runs[["reward", "mtld"]] - runs[["reward", "mtld"]].mean()) / runs[["reward", "mtld"]].std()
    log_loss = 0.05 * (z["reward"] + z["mtld"] + z["reward"] * z["mtld"])
    runs["loss_self_instruct"] = np.exp(log_loss + 0.01 * np.random.default_rng(0).normal(size=60))
    runs["both"] = z["reward"] * z["mtld"]
    line, square, product = (
        LossEstimator.fit(runs, indicators=["reward", "mtld", *more], squared=squared, permutations=0, bootstraps=0)
        for more, squared in (([], []), ([], ["mtld"]), (["both"], []))
    )
    assert line.diagnostics.reset_p < 0.05
    assert square.diagnostics.nested_cv_r2 < line.diagnostics.nested_cv_r2 + 0.1 < product.diagnostics.nested_cv_r2
    advice = line.summary().split("\n\n")[-1].replace("\n", " ")
    assert "signs of curvature" in advice and "neither is the product of two indicators" in advice
    assert "keep one only where the nested R² rises" in advice
