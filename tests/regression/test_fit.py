"""Fitting a rule to runs whose law is known, and refusing runs that cannot carry one."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, Features, Value
from simulated_runs import INDICATORS, simulated_runs

from hf_instructmine import InstructMineError, LossEstimator
from hf_instructmine.data.provenance import set_provenance


QUICK = {"permutations": 0, "bootstraps": 0}


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return simulated_runs(n=60, replicates=6, seed=2)


@pytest.fixture(scope="module")
def rule(runs) -> LossEstimator:
    return LossEstimator.fit(runs, permutations=200, bootstraps=200)


@pytest.fixture(scope="module")
def noise_rule() -> LossEstimator:
    return LossEstimator.fit(simulated_runs(n=40, effect=0.0, seed=6), permutations=200, bootstraps=100)


def test_the_law_is_found_again(rule):
    assert {"reward", "mtld"} <= set(rule.indicators)
    table = {c.name: c for c in rule.diagnostics.coefficients}
    assert table["reward"].low < -0.08 < table["reward"].high
    assert table["mtld"].low < 0.002 < table["mtld"].high
    d = rule.diagnostics
    assert d.candidates == list(INDICATORS)
    assert d.subsets == 32 and 1 <= d.rivals <= 32
    assert d.chosen_share["reward"] > 0.95 and table["reward"].sign_stability == 1.0
    assert 0 < d.nested_cv_r2 < d.loo_r2 < d.r2
    assert d.nested_cv_r2_interval[0] < d.nested_cv_r2 < d.nested_cv_r2_interval[1]
    assert d.permutation_p == pytest.approx(1 / 201)


def test_the_same_seed_gives_the_same_rule_and_another_seed_other_folds(runs):
    first, again, other = (LossEstimator.fit(runs, seed=seed, permutations=20, bootstraps=20) for seed in (3, 3, 4))
    assert first == again
    assert first.diagnostics.nested_cv_r2 != other.diagnostics.nested_cv_r2


def test_a_rule_does_not_hang_on_the_order_or_the_form_of_the_table(runs, rule):
    mixed = runs.sample(frac=1, random_state=0)
    for table in (mixed, Dataset.from_pandas(mixed, preserve_index=False), mixed.to_dict(orient="list")):
        again = LossEstimator.fit(table, indicators=["reward", "mtld"], select="none", **QUICK)
        first = LossEstimator.fit(runs, indicators=["reward", "mtld"], select="none", **QUICK)
        assert again.coefficients == pytest.approx(first.coefficients)
        assert again.fitted.runs["hash"] == first.fitted.runs["hash"]


def test_units_do_not_matter_to_the_predictions(runs, rule):
    rescaled = runs.assign(mtld=runs["mtld"] * 1e6 + 3e7, reward=runs["reward"] / 1e5)
    again = LossEstimator.fit(rescaled, **QUICK)
    np.testing.assert_allclose(again.predict(rescaled), rule.predict(runs), rtol=1e-6)


def test_standardizing_changes_the_coefficients_and_not_the_predictions(runs, rule):
    again = LossEstimator.fit(runs, standardize=True, **QUICK)
    np.testing.assert_allclose(again.predict(runs), rule.predict(runs), rtol=1e-9)
    sd = runs["mtld"].std(ddof=1)
    assert again.coefficients["mtld"] == pytest.approx(rule.coefficients["mtld"] * sd)


def test_predictions_are_logs_of_logged_columns():
    runs = simulated_runs(seed=4)
    rule = LossEstimator.fit(
        runs, indicators=["reward", "output_length"], logged=["output_length"], select="none", **QUICK
    )
    assert list(rule.coefficients) == ["intercept", "reward", "log(output_length)"]
    b = rule.coefficients
    by_hand = b["intercept"] + b["reward"] * runs["reward"] + b["log(output_length)"] * np.log(runs["output_length"])
    np.testing.assert_allclose(rule.predict(runs), by_hand, rtol=1e-12)


def test_a_square_finds_a_curve_that_a_line_misses():
    runs = simulated_runs(n=60, replicates=0, seed=6, effect=0.0)
    bend = ((runs["mtld"] - runs["mtld"].mean()) / runs["mtld"].std()) ** 2
    runs["loss_self_instruct"] = np.exp(0.05 * bend + 0.02 * np.random.default_rng(0).normal(size=60))
    line = LossEstimator.fit(runs, indicators=["reward", "mtld"], select="none", **QUICK).diagnostics
    curve = LossEstimator.fit(runs, indicators=["reward", "mtld"], squared=["mtld"], **QUICK)
    assert line.reset_p < 0.01
    assert "mtld^2" in curve.coefficients and curve.diagnostics.nested_cv_r2 > line.nested_cv_r2 + 0.3
    z = np.linspace(runs["mtld"].min(), runs["mtld"].max(), 9)
    predicted = curve.predict({"reward": np.zeros(9), "mtld": z})
    assert predicted[4] < predicted[0] and predicted[4] < predicted[-1]


def test_covariates_are_adjusted_for_and_held_at_their_mean():
    runs = simulated_runs(n=60, seed=7)
    runs["loss_self_instruct"] *= np.exp(-0.3 * np.log(runs["subset_size"] / 1000))
    options = {"indicators": ["reward", "mtld"], "select": "none", "logged": ["subset_size"], **QUICK}
    rule = LossEstimator.fit(runs, covariates=["subset_size"], **options)
    assert rule.covariate_weights == pytest.approx([-0.3], abs=0.05)
    assert rule.indicators == ["reward", "mtld"]
    assert rule.coefficients["reward"] == pytest.approx(-0.08, abs=0.03)
    pool = {name: runs[name].to_numpy() for name in rule.indicators}
    few, many = (rule.predict_subset(pool, covariates={"subset_size": size}) for size in (600, 1200))
    assert many.log_loss - few.log_loss == pytest.approx(rule.covariate_weights[0] * np.log(2))
    with pytest.warns(UserWarning, match="extrapolating"):  # 60 examples, where the runs have 500 and more
        assert rule.predict_subset(pool).extrapolates
    with pytest.raises(InstructMineError, match="no covariate 'epochs'"):
        rule.predict_subset(pool, covariates={"epochs": 3})


def test_a_joint_rule_is_least_squares_with_an_effect_per_set(runs):
    import statsmodels.formula.api as smf

    targets = ["loss_self_instruct", "loss_mt_bench"]
    rule = LossEstimator.fit(runs, targets, indicators=["reward", "mtld"], select="none", **QUICK)
    stacked = pd.concat([runs.assign(y=np.log(runs[t]), which=t) for t in targets])
    result = smf.ols("y ~ reward + mtld + C(which)", stacked).fit()
    assert rule.coefficients["reward"] == pytest.approx(result.params["reward"])
    effects = rule.diagnostics.set_effects
    assert effects["loss_self_instruct"] - effects["loss_mt_bench"] == pytest.approx(
        result.params["C(which)[T.loss_self_instruct]"]
    )
    assert set(rule.diagnostics.other_evaluation_sets) == set(targets)
    assert all(0 <= p <= 1 for p in rule.diagnostics.set_slopes_p.values())


def test_another_evaluation_set_is_told_apart_from_noise(runs):
    noisy = runs.assign(loss_unrelated=np.exp(np.random.default_rng(0).normal(size=len(runs))))
    found = LossEstimator.fit(noisy, **QUICK).diagnostics.other_evaluation_sets
    assert found["loss_mt_bench"]["r2"] > 0.4 and found["loss_mt_bench"]["spearman"] > 0.6
    assert abs(found["loss_unrelated"]["spearman"]) < 0.35


def test_a_source_is_left_out_whole_where_enough_runs_are_free_of_it(runs):
    found = LossEstimator.fit(runs, **QUICK).diagnostics.leave_one_source_out_r2
    assert set(found) == set("abcd")
    assert all(f["largest_training_share"] < 0.4 for f in found.values())  # every Dirichlet run has some of each
    free = runs.copy()
    free["proportions"] = [{"a": 1.0, "b": None} if row % 2 else {"a": 0.4, "b": 0.6} for row in range(len(runs))]
    without = LossEstimator.fit(free, **QUICK).diagnostics.leave_one_source_out_r2["b"]
    assert without["largest_training_share"] == 0 and without["train_runs"] == without["test_runs"] == 30
    assert LossEstimator.fit(free, without_sources=["b"], **QUICK).diagnostics.n == 30


def test_failed_runs_are_left_out_and_counted(runs):
    broken = runs.copy()
    broken.loc[[3, 7], "status"] = "failed"
    broken.loc[[3, 7], "loss_self_instruct"] = np.nan
    d = LossEstimator.fit(broken, **QUICK).diagnostics
    assert (d.n, d.failed) == (58, 2)


def test_runs_of_the_same_mixture_are_replicates_by_either_column():
    runs = simulated_runs(n=40, replicates=4, seed=8)
    renamed = runs.copy()
    renamed["replicate_of"] = [None] * 36 + runs["mixture_id"].tolist()[36:]
    renamed["mixture_id"] = [*runs["mixture_id"].tolist()[:36], "again-1", "again-2", "again-3", "again-4"]
    by_id, by_reference = (LossEstimator.fit(table, **QUICK).diagnostics for table in (runs, renamed))
    assert by_id.num_mixtures == by_reference.num_mixtures == 36
    assert by_id.noise_ceiling == pytest.approx(by_reference.noise_ceiling)
    assert by_id.covariance_type == "CR3"


def test_groups_have_their_own_level(runs):
    shifted = pd.concat([runs, runs.assign(base_model="large", loss_self_instruct=runs["loss_self_instruct"] * 0.5)])
    shifted["mixture_id"] = [f"m{i}" for i in range(len(shifted))]
    with pytest.raises(InstructMineError, match=r"mix 2 values of 'base_model' \(large, tiny\).*group='base_model'"):
        LossEstimator.fit(shifted, **QUICK)
    rule = LossEstimator.fit(shifted, group="base_model", indicators=["reward", "mtld"], select="none", **QUICK)
    small, large = (rule.predict_subset(runs, covariates={"group": name}).log_loss for name in ("tiny", "large"))
    assert large - small == pytest.approx(np.log(0.5))


@pytest.mark.parametrize("model", ["ridge", "elastic-net", "pls"])
def test_penalised_models_come_as_linear_rules(runs, model, tmp_path):
    rule = LossEstimator.fit(runs, model=model, bootstraps=20)
    d = rule.diagnostics
    assert rule.indicators == list(INDICATORS) and d.p == 5
    assert 0.3 < d.nested_cv_r2 < 1 and d.permutation_p is None and d.aic is None
    assert rule.coefficients["reward"] < 0 < rule.coefficients["mtld"]
    rule.save_pretrained(tmp_path)
    assert LossEstimator.from_pretrained(tmp_path).predict(runs).tobytes() == rule.predict(runs).tobytes()
    assert "nested 10-fold CV" in rule.summary()


def test_ridge_is_scikit_learns():
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    runs = simulated_runs(n=50, replicates=0, seed=9)
    rule = LossEstimator.fit(runs, model="ridge", bootstraps=5)
    z = StandardScaler().fit_transform(runs[list(INDICATORS)])
    # The same grid, by generalised cross-validation: the penalty may differ by a step, the predictions hardly do.
    expected = RidgeCV(np.logspace(-2, 4, 13)).fit(z, np.log(runs["loss_self_instruct"])).predict(z)
    assert np.corrcoef(rule.predict(runs), expected)[0, 1] > 0.995


def test_automl_compares_and_is_not_kept(tmp_path):
    pytest.importorskip("lightgbm", reason="pip install 'flaml[automl]'")
    runs = simulated_runs(n=40, seed=10)
    rule = LossEstimator.fit(runs, model="automl", indicators=["reward", "mtld"])
    assert np.isfinite(rule.diagnostics.nested_cv_r2)
    assert rule.predict(runs).shape == (40,) and rule.coefficients.keys() == {"intercept"}
    assert "FLAML" in rule.summary()
    with pytest.raises(InstructMineError, match="cannot be kept"):
        rule.save_pretrained(tmp_path)
    with pytest.raises(InstructMineError, match="not a sum"):
        rule.contributions(runs)


def test_automl_without_its_packages_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "flaml.automl", None)
    with pytest.raises(InstructMineError, match=r"pip install 'flaml\[automl\]'"):
        LossEstimator.fit(simulated_runs(), model="automl")


def test_the_papers_way_is_marked_as_such(runs):
    rule = LossEstimator.fit(runs, select="p-value", **QUICK)
    assert "in-sample p-values, as in the paper" in " ".join(rule.summary().split())


def test_the_summary_ends_in_plain_words(rule, noise_rule):
    paragraph = rule.summary().split("\n\n")[-1].replace("\n", " ")
    assert paragraph.startswith("The rule rests on reward (loss falls with it)")
    assert "better than their mean" in paragraph and "Replicate noise lets a perfect rule reach" in paragraph
    assert "still compare its choice with a random one" in paragraph
    paragraph = noise_rule.summary().split("\n\n")[-1].replace("\n", " ")
    assert "Do not select by it" in paragraph
    assert noise_rule.diagnostics.nested_cv_r2 < 0.1 and noise_rule.diagnostics.permutation_p > 0.05


def test_interchangeable_indicators_are_named():
    runs = simulated_runs(n=50, replicates=0, noise=0.03, seed=11)
    follower = runs["naturalness"] + 0.002 * np.random.default_rng(0).normal(size=50)
    runs = runs.drop(columns=["output_length", "mtld"]).assign(coherence=follower)
    runs["loss_self_instruct"] *= np.exp(-2 * (runs["naturalness"] - 0.8))
    rule = LossEstimator.fit(runs, **QUICK)
    assert rule.diagnostics.interchangeable in ([["naturalness", "coherence"]], [["coherence", "naturalness"]])
    assert "these runs cannot tell them apart" in " ".join(rule.summary().split())


def test_a_subset_is_predicted_with_intervals_and_leverage(rule, runs):
    mean = runs[rule.indicators].mean()
    pool = {name: np.full(10, mean[name]) for name in rule.indicators}
    at_mean = rule.predict_subset(pool)
    log_loss = np.log(runs["loss_self_instruct"]).mean()
    assert at_mean.log_loss == pytest.approx(log_loss)
    assert at_mean.leverage == pytest.approx(1 / len(runs))
    low, high = at_mean.mean_interval
    far_low, far_high = at_mean.observation_interval
    assert far_low < low < log_loss < high < far_high
    assert rule.leverage(pool) == at_mean.leverage
    assert at_mean.after_choice and "The regressors were chosen on the same runs" in str(at_mean)
    kept = LossEstimator.fit(runs, indicators=["reward", "mtld"], select="none", **QUICK).predict_subset(runs)
    assert not kept.after_choice and "chosen" not in str(kept)
    as_run = [rule.leverage(runs, [i]) for i in range(len(runs))]
    np.testing.assert_allclose(as_run, rule.diagnostics.leverage, rtol=1e-8)
    assert rule.max_leverage == pytest.approx(max(as_run))


def test_beyond_the_runs_it_warns(rule, runs):
    far = {name: np.full(3, runs[name].mean() + 10 * runs[name].std()) for name in rule.indicators}
    with pytest.warns(UserWarning, match="above the runs' largest"):
        assert rule.predict_subset(far).extrapolates
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not rule.predict_subset(runs.assign(), None).extrapolates


def test_a_subset_is_its_rows_and_says_what_they_lack(rule, runs):
    gapped = runs.assign(mtld=runs["mtld"].where(runs.index != 2))
    part = rule.predict_subset(gapped, [1, 2, 3])
    assert part.missing == {"mtld": 1} and part.size == 3
    for indices, complaint in [([], "empty"), ([60], "no row 60"), ([-1], "no row -1"), ([0.5], "row numbers")]:
        with pytest.raises(InstructMineError, match=complaint):
            rule.predict_subset(runs, indices)


def test_contributions_add_up_to_the_prediction(rule, runs):
    parts = rule.contributions(runs)
    predicted = rule.predict(runs)
    assert set(parts) == set(rule.indicators)
    np.testing.assert_allclose(sum(parts.values()), predicted - predicted.mean(), atol=1e-12)


def test_a_rule_without_runs_has_no_intervals_and_no_leverage(runs):
    rule = LossEstimator.from_coefficients({"intercept": 1.0, "mtld": 0.1})
    prediction = rule.predict_subset(runs, [0, 1])
    assert prediction.mean_interval is None and prediction.leverage is None and not prediction.extrapolates
    assert "was not fitted here" in " ".join(rule.summary().split())
    with pytest.raises(InstructMineError, match="has no leverage"):
        rule.leverage(runs)


def test_a_rule_that_keeps_no_indicator_predicts_the_mean_and_says_so():
    runs = simulated_runs(n=40)
    x = np.column_stack([np.ones(40), runs[["reward", "mtld"]]])
    noise = np.random.default_rng(0).normal(size=40)
    runs["loss_self_instruct"] = np.exp(noise - x @ np.linalg.lstsq(x, noise)[0])  # unrelated to both, exactly
    rule = LossEstimator.fit(runs, select="p-value", indicators=["reward", "mtld"], **QUICK)
    assert rule.coefficients.keys() == {"intercept"}
    with pytest.warns(UserWarning, match="keeps no indicator"):
        predicted = rule.predict(runs)
    np.testing.assert_allclose(predicted, np.log(runs["loss_self_instruct"]).mean(), atol=1e-12)
    assert "No indicator was worth keeping" in rule.summary()
    assert rule.predict_subset(runs, [0]).log_loss == pytest.approx(predicted[0])


def test_provenance_goes_with_the_rule(runs):
    made = {"reward": {"model": "tiny/reward", "dtype": "float32"}, "mtld": {"threshold": 0.72}}
    table = set_provenance(Dataset.from_pandas(runs), made)
    rule = LossEstimator.fit(table, indicators=["reward", "mtld"], select="none", **QUICK)
    assert rule.provenance == made
    rule.predict(table)
    other = set_provenance(table, {"reward": {"model": "other/reward", "dtype": "float32"}})
    with pytest.raises(InstructMineError, match=r"tiny/reward.*other/reward"):
        rule.predict(other)
    with pytest.raises(InstructMineError, match=r"tiny/reward.*other/reward"):
        rule.predict_subset(other, [0])
    # What the rule's configuration did not have counts too: the indicator was scored with another option.
    newer = set_provenance(table, {"reward": {"model": "tiny/reward", "dtype": "float32", "turns": "all"}})
    with pytest.raises(InstructMineError, match=r"turns=None.*turns='all'"):
        rule.predict(newer)


def test_a_pool_level_neighbour_distance_is_read_from_the_pools_column(runs):
    table = runs.rename(columns={"output_length": "pool_knn_6"}).assign(knn_6=runs["output_length"] * 0.5)
    rule = LossEstimator.fit(table, indicators=["reward", "pool_knn_6"], select="none", **QUICK)
    pool = {"reward": runs["reward"].to_numpy(), "knn_6": runs["output_length"].to_numpy()}
    np.testing.assert_array_equal(rule.predict(pool), rule.predict(table))
    assert "fit on pool_knn_6" in " ".join(LossEstimator.fit(table, **QUICK).diagnostics.notes)


def test_the_option_columns_of_a_sweep_are_not_taken_for_indicators():
    runs = simulated_runs().assign(train_tokens=1000.0, seconds=1.5, steps=30, knn_6=np.linspace(0, 1, 40))
    assert LossEstimator.fit(runs, **QUICK).diagnostics.candidates == [*INDICATORS, "knn_6"]


def _with(**columns):
    return lambda runs: runs.assign(**columns)


BAD_RUNS = {
    "no such target": (_with(), {"target": "loss_other"}, r"no column 'loss_other'; the losses there are: loss_self"),
    "no indicator": (lambda r: r.drop(columns=list(INDICATORS)), {}, "no indicator column"),
    "unknown indicator": (_with(), {"indicators": ["mtld", "rouge"]}, "no column 'rouge'"),
    "too few runs": (lambda r: r.iloc[:6], {}, "6 runs of 6 different mixtures are too few for 5 regressors"),
    "too few mixtures": (
        _with(mixture_id=lambda r: [f"m{i % 5}" for i in range(len(r))]),
        {},
        "40 runs of 5 different mixtures are too few",
    ),
    "one mixture": (_with(mixture_id="m"), {}, "all 40 runs are of one mixture"),
    "constant indicator": (_with(mtld=55.0), {}, "'mtld' is 55 in every run"),
    "missing indicator": (
        _with(mtld=lambda r: r["mtld"].where(r.index != 4)),
        {},
        "'mtld' has no finite value in run 4",
    ),
    "text for an indicator": (_with(mtld="high"), {}, "'mtld' holds (large_)?string"),
    "missing loss": (
        _with(loss_self_instruct=lambda r: r["loss_self_instruct"].where(r.index > 6)),
        {},
        "in run 0, 1, 2, 3, 4 and others",
    ),
    "collinear": (
        _with(coherence=lambda r: 2 * r["naturalness"] - r["reward"] + 1),
        {},
        "'coherence' is an exact linear combination of 'reward', 'naturalness'",
    ),
    "loss at 0": (
        _with(loss_self_instruct=lambda r: r["loss_self_instruct"] - r["loss_self_instruct"].min()),
        {},
        "≤ 0",
    ),
    "constant loss": (_with(loss_self_instruct=1.5), {}, "the same in every run"),
    "mixed recipes": (_with(recipe_hash=["a", "b"] * 20), {}, "mix 2 values of 'recipe_hash'"),
    "groups that mix": (
        _with(recipe_hash=["a", "b"] * 20, base_model=["x"] * 20 + ["y"] * 20),
        {"group": "base_model"},
        "even within a value of 'base_model'",
    ),
    "provenance differs": (
        _with(provenance=[json.dumps({"reward": {"model": m}}) for m in ["x"] * 39 + ["y"]]),
        {},
        r"'reward' of run 39 was made by \{'model': 'y'\}, that of run 0 by \{'model': 'x'\}",
    ),
    "all failed": (_with(status="failed"), {}, "no finished run"),
    "unknown status": (_with(status="running"), {}, "run 0 has status 'running'"),
    "no rows": (lambda r: r.iloc[:0], {}, "no finished run"),
    "unknown source": (_with(), {"without_sources": ["z"]}, "no run has a source 'z': there are a, b, c, d"),
    "log of a negative": (_with(reward=lambda r: r["reward"] - 5), {"logged": ["reward"]}, "has no logarithm"),
    "log of nothing": (_with(), {"logged": ["perplexity"]}, "logged names 'perplexity'"),
    "square of nothing": (_with(), {"squared": ["subset_size"]}, "squared names 'subset_size'"),
    "unknown criterion": (_with(), {"select": "r2"}, "no criterion 'r2'"),
    "unknown model": (_with(), {"model": "forest"}, "no model 'forest'"),
    "negative weight": (_with(w=-1.0), {"weights": "w"}, "'w' of run 0 is not above 0"),
    "one run's weight": (_with(w=[1e12] + [1.0] * 39), {"weights": "w"}, "make 40 runs as good as 1.0, too few for 5"),
    "large numbers": (
        _with(mtld=lambda r: r["mtld"] * 1e200),
        {},
        "of 'mtld' are too large to compute with",
    ),
    "small numbers": (
        _with(mtld=lambda r: r["mtld"] * 1e-200),
        {},
        "of 'mtld' are too small to compute with",
    ),
    "square of large numbers": (
        _with(mtld=lambda r: r["mtld"] * 1e90),
        {"squared": ["mtld"]},
        r"the values of 'mtld\^2' are too large",
    ),
    "the target as an indicator": (
        _with(),
        {"indicators": ["mtld", "loss_self_instruct"]},
        "'loss_self_instruct' is what is to be explained",
    ),
    "weights for PLS": (_with(w=1.0), {"weights": "w", "model": "pls"}, "takes no weights"),
    "VIF without a choice": (_with(), {"max_vif": 5.0, "model": "ridge"}, "makes none"),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_runs_that_cannot_carry_a_rule_are_refused_in_one_line(case):
    change, options, complaint = BAD_RUNS[case]
    table = change(simulated_runs(n=40, replicates=0))
    with pytest.raises(InstructMineError, match=complaint) as refusal:
        LossEstimator.fit(table, **{**QUICK, **options})
    assert "\n" not in str(refusal.value)


def test_an_empty_dataset_is_refused():
    features = Features({"mtld": Value("float64"), "loss_self_instruct": Value("float64")})
    with pytest.raises(InstructMineError, match="no finished run"):
        LossEstimator.fit(Dataset.from_dict({"mtld": [], "loss_self_instruct": []}, features=features))
