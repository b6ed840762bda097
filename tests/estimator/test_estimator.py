"""The rule as its users meet it: published, built by hand, saved and read back."""

import json

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError, LossEstimator
from hf_instructmine.data.provenance import set_provenance


OASST = {"model": "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5", "dtype": "float32"}


@pytest.fixture
def scored() -> Dataset:
    columns = {
        "reward": [-4.0, 0.25, 1.0],
        "output_length": [10, 200, None],
        "knn_6": [0.5, 0.25, 0.125],
        "understandability": [0.9, 0.5, 0.1],
        "naturalness": [0.8, 0.4, 0.2],
        "coherence": [0.7, 0.3, 0.1],
    }
    return Dataset.from_dict(columns)


def test_published_v1_is_the_papers_formula(scored):
    rule = LossEstimator.from_published("instructmining-v1")
    assert rule.indicators == ["reward", "output_length", "knn_6"]
    predicted = rule.predict(scored, allow_mismatch=True)
    by_hand = [1.0694 - 0.1498 * -4 + 8.257e-5 * 10 - 0.935 * 0.5, 1.0694 - 0.1498 * 0.25 + 8.257e-5 * 200 - 0.935 / 4]
    np.testing.assert_allclose(predicted[:2], by_hand, rtol=1e-12)


def test_published_v2_is_the_papers_formula(scored):
    predicted = LossEstimator.from_published("instructmining-v2").predict(scored, allow_mismatch=True)
    by_hand = [
        0.0274 - 0.0078 * r + 0.4421 * u - 0.3212 * n - 0.1520 * c
        for r, u, n, c in [(-4, 0.9, 0.8, 0.7), (0.25, 0.5, 0.4, 0.3), (1, 0.1, 0.2, 0.1)]
    ]
    np.testing.assert_allclose(predicted, by_hand, rtol=1e-12)


def test_a_missing_indicator_value_predicts_nan_and_keeps_its_place(scored):
    predicted = LossEstimator.from_published("instructmining-v1").predict(scored, allow_mismatch=True)
    assert np.isnan(predicted).tolist() == [False, False, True]


def test_rows_are_read_in_the_order_of_a_selection(scored):
    rule = LossEstimator.from_published("instructmining-v2")
    shuffled = scored.select([2, 0, 1])
    np.testing.assert_array_equal(
        rule.predict(shuffled, allow_mismatch=True), rule.predict(scored, allow_mismatch=True)[[2, 0, 1]]
    )


def test_a_data_frame_and_a_mapping_predict_as_a_dataset_does(scored):
    rule = LossEstimator.from_coefficients({"intercept": 1, "reward": -0.5, "output_length": 0.01})
    expected = rule.predict(scored)
    np.testing.assert_array_equal(rule.predict(scored.to_pandas()), expected)
    np.testing.assert_array_equal(rule.predict({name: scored[name][:] for name in rule.indicators}), expected)


def test_logs_and_squares_are_named_as_terms():
    rule = LossEstimator.from_coefficients({"intercept": 1.0, "log(perplexity)": 0.5, "mtld^2": 2.0})
    assert rule.indicators == ["perplexity", "mtld"]
    assert rule.coefficients == {"intercept": 1.0, "log(perplexity)": 0.5, "mtld^2": 2.0}
    predicted = rule.predict({"perplexity": [np.e, 0.0], "mtld": [3.0, 3.0]})
    assert predicted[0] == pytest.approx(1 + 0.5 + 18)
    assert np.isnan(predicted[1]), "a perplexity of 0 has no logarithm"


@pytest.mark.parametrize(
    ("coefficients", "complaint"),
    [
        ({"intercept": 1.0}, "at least one term"),
        ({"mtld": float("nan")}, "finite"),
        ({"mtld": "0.1"}, "finite"),
        ({"exp(mtld)": 1.0}, "not a term"),
    ],
)
def test_coefficients_that_make_no_rule_are_refused(coefficients, complaint):
    with pytest.raises(InstructMineError, match=complaint):
        LossEstimator.from_coefficients(coefficients)


def test_missing_columns_are_named_with_the_indicators_that_make_them(scored):
    rule = LossEstimator.from_coefficients({"reward": 1.0, "knn_4": 1.0, "naturalness": 1.0, "my_score": 1.0})
    with pytest.raises(InstructMineError) as refusal:
        rule.predict(scored.remove_columns(["naturalness"]))
    message = str(refusal.value)
    assert "'knn_4', 'naturalness', 'my_score'" in message
    assert "NeighborDistance(i=4), UniEval" in message
    assert "\n" not in message


@pytest.mark.parametrize("values", [["high", "low"], [[1.0], [2.0]], [True, False]])
def test_an_indicator_that_is_not_a_number_is_refused(values):
    rule = LossEstimator.from_coefficients({"mtld": 1.0})
    for table in (Dataset.from_dict({"mtld": values}), pd.DataFrame({"mtld": values}), {"mtld": values}):
        with pytest.raises(InstructMineError, match="column 'mtld' holds"):
            rule.predict(table)


def test_a_column_made_by_another_model_is_refused_unless_allowed(scored):
    rule = LossEstimator.from_published("instructmining-v1")
    with pytest.warns(UserWarning, match="nothing records which model made the column 'reward'"):
        rule.predict(scored)
    with pytest.raises(InstructMineError, match=r"pythia-1\.4b.*Skywork"):
        rule.predict(set_provenance(scored, {"reward": {"model": "Skywork/Skywork-Reward-V2"}}))
    rule.predict(set_provenance(scored, {"reward": {"model": "Skywork/Skywork-Reward-V2"}}), allow_mismatch=True)


def test_a_column_made_by_the_papers_model_is_accepted_silently(scored, recwarn):
    LossEstimator.from_published("instructmining-v1").predict(set_provenance(scored, {"reward": OASST}))
    assert not recwarn.list


def test_an_unknown_published_rule_is_refused():
    with pytest.raises(InstructMineError, match="known are instructmining-v1, instructmining-v2"):
        LossEstimator.from_published("instructmining-v3")


def test_saving_and_reading_back_gives_bit_identical_predictions(tmp_path):
    rng = np.random.default_rng(0)
    columns = ["mtld", "perplexity", "reward"]
    rule = LossEstimator.from_coefficients(
        dict(zip(["intercept", "mtld", "log(perplexity)", "reward^2"], rng.normal(size=4))), name="odd 'name' <é>"
    )
    rule.save_pretrained(tmp_path)
    again = LossEstimator.from_pretrained(tmp_path)
    pool = {name: rng.uniform(0.1, 50, 1000) for name in columns}
    assert rule.predict(pool).tobytes() == again.predict(pool).tobytes()
    assert again == rule


def _edited(folder, **changes):
    path = folder / "estimator.json"
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"intercept": 0.5}, "changed after it was saved"),
        ({"schema_version": 2}, "schema version 2"),
        ({"terms": ...}, "lacks the field 'terms'"),
        ({"checksum": ...}, "lacks the field 'checksum'"),
        ({"format": "something/else"}, "not a rule"),
    ],
)
def test_a_file_that_is_not_what_was_saved_is_refused(tmp_path, changes, complaint):
    LossEstimator.from_published("instructmining-v2").save_pretrained(tmp_path)
    _edited(tmp_path, **changes)
    with pytest.raises(InstructMineError, match=complaint) as refusal:
        LossEstimator.from_pretrained(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "estimator.json").write_text("{'intercept': 1}")
    with pytest.raises(InstructMineError, match="is not JSON"):
        LossEstimator.from_pretrained(tmp_path)


def test_a_folder_without_a_rule_is_refused(tmp_path):
    with pytest.raises(InstructMineError, match=r"has no estimator\.json"):
        LossEstimator.from_pretrained(tmp_path)


def test_contributions_by_term_add_up_to_the_prediction():
    from hf_instructmine.estimator.rule import contributions_of

    rule = LossEstimator.from_coefficients({"intercept": 1.0, "mtld": 2.0, "mtld^2": -1.0, "reward": 3.0})
    scored = Dataset.from_dict({"mtld": [1.0, 2.0, 3.0, None], "reward": [0.0, 1.0, 5.0, 1.0]})
    parts = contributions_of(rule, rule.read(scored))
    assert list(parts) == ["mtld", "mtld^2", "reward"] and parts["reward"][:3].tolist() == [-6.0, -3.0, 9.0]
    predicted = rule.predict(scored)
    np.testing.assert_allclose(sum(parts.values())[:3], predicted[:3] - predicted[:3].mean())
    np.testing.assert_allclose(rule.contributions(scored)["mtld"], parts["mtld"] + parts["mtld^2"])
