"""A fitted rule kept, shown and shared: its file, its card and figures, the Hub, and rules side by side."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from huggingface_hub import ModelCard, metadata_load
from PIL import Image
from simulated_runs import simulated_runs

from hf_instructmine import InstructMineError, LossEstimator
from hf_instructmine.comparison.rules import compare
from hf_instructmine.estimator.figures import CAPTIONS, draw


@pytest.fixture(scope="module")
def runs():
    return simulated_runs(n=40, seed=1)


@pytest.fixture(scope="module")
def rule(runs) -> LossEstimator:
    return LossEstimator.fit(
        runs, logged=["output_length"], covariates=["subset_size"], permutations=20, bootstraps=50
    )


def test_a_fitted_rule_comes_back_whole(rule, runs, tmp_path):
    rule.save_pretrained(tmp_path)
    again = LossEstimator.from_pretrained(tmp_path)
    assert again == rule
    assert again.predict(runs).tobytes() == rule.predict(runs).tobytes()
    assert again.predict_subset(runs, [1, 2], {"subset_size": 900}) == rule.predict_subset(
        runs, [1, 2], {"subset_size": 900}
    )
    assert again.summary() == rule.summary()
    assert again.to_json() == rule.to_json()


def test_the_file_is_plain_json_with_what_the_schema_promises(rule, tmp_path):
    rule.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "estimator.json").read_text("utf-8"), parse_constant=pytest.fail)  # no NaN
    assert content["schema_version"] == 1
    assert content["fit"]["runs"]["n"] == len(content["fit"]["runs"]["ids"]) == 40
    assert len(content["fit"]["covariance"]) == 1 + len(content["terms"]) + len(content["covariates"])
    assert {"hf-instructmine", "statsmodels", "numpy"} <= set(content["versions"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c["diagnostics"].update(nested_cv_r2=0.99),
        lambda c: c["fit"]["covariance"][0].__setitem__(0, 0.0),
        lambda c: c["terms"][0].update(coefficient=-1.0),
        lambda c: c["provenance"].update(reward={"model": "mine"}),
    ],
)
def test_whatever_is_changed_by_hand_the_file_is_refused(rule, tmp_path, damage):
    rule.save_pretrained(tmp_path)
    path = tmp_path / "estimator.json"
    content = json.loads(path.read_text("utf-8"))
    damage(content)
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(InstructMineError, match="was changed after it was saved"):
        LossEstimator.from_pretrained(tmp_path)


def test_a_file_with_a_right_checksum_and_a_wrong_content_is_refused(rule, tmp_path):
    from hf_instructmine.estimator import file as estimator_file

    for damage in ({"intercept": "high"}, {"intercept": None}, {"terms": [{"column": "mtld"}]}, {"fit": {"mean": []}}):
        content = {**estimator_file.content_of(rule), **damage}
        (tmp_path / "estimator.json").write_text(estimator_file.dumps(content), "utf-8")
        with pytest.raises(InstructMineError, match="does not hold a rule"):
            LossEstimator.from_pretrained(tmp_path)


def test_the_card_is_valid_and_shows_every_figure(rule, tmp_path):
    rule.save_pretrained(tmp_path)
    assert metadata_load(tmp_path / "README.md")["library_name"] == "hf-instructmine"
    text = (tmp_path / "README.md").read_text("utf-8")
    for name in CAPTIONS:
        assert f"(figures/{name}.png)" in text
        with Image.open(tmp_path / f"figures/{name}.png") as image:
            assert image.width == 700
    assert "LossEstimator.from_pretrained" in text and "nested 10-fold CV" in text


def test_names_from_elsewhere_are_inert_in_card_and_figures(runs, tmp_path):
    name = "</script><b>$x_1$ | `code` ---\nlicense: mit {{ 7*7 }}"
    hostile = runs.rename(columns={"mtld": "<img src=x>|$\\frac{1$", "reward": "{{ config }}"})
    rule = LossEstimator.fit(
        hostile,
        indicators=["<img src=x>|$\\frac{1$", "{{ config }}", "naturalness"],
        name=name,
        permutations=0,
        bootstraps=10,
    )
    rule.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert "license" not in card.data.to_dict()
    prose = card.text.split("## Summary")[0]
    assert "<b>" not in prose and "<img" not in prose and "{{" not in prose
    assert LossEstimator.from_pretrained(tmp_path).name == name


def test_a_rule_without_a_fit_has_a_card_without_figures(tmp_path):
    LossEstimator.from_published("instructmining-v2").save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert "unieval-dialog" in text and "figures/" not in text


def test_a_rule_of_one_regressor_and_a_ridge_can_be_drawn(runs, tmp_path):
    one = LossEstimator.fit(runs, indicators=["reward"], select="none", permutations=0, bootstraps=10)
    assert [p.stem for p in draw(one, tmp_path / "one")] == [n for n in CAPTIONS if n != "correlation"]
    ridge = LossEstimator.fit(runs, model="ridge", bootstraps=10)
    assert {p.stem for p in draw(ridge, tmp_path / "ridge")} == set(CAPTIONS) - {"leverage", "added_variable"}


def test_a_folder_that_cannot_be_written_is_one_line(rule, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InstructMineError, match="cannot be written"):
        rule.save_pretrained(tmp_path / "file")


def test_a_readme_of_something_else_stays(rule, tmp_path):
    (tmp_path / "README.md").write_text("my project")
    with pytest.raises(InstructMineError, match=r"holds a README\.md that is of no rule: name another folder"):
        rule.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "my project"


def test_a_rule_whose_saving_is_killed_leaves_the_earlier_rule_and_its_card(rule, tmp_path):
    rule.save_pretrained(tmp_path / "rule")
    before = {path: path.read_bytes() for path in (tmp_path / "rule").rglob("*") if path.is_file()}
    script = (
        "import os, signal\nfrom huggingface_hub import ModelCard\nfrom hf_instructmine import LossEstimator\n"
        "rule = LossEstimator.from_published('instructmining-v2')\n"
        "ModelCard.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # the last file\n"
        f"rule.save_pretrained({str(tmp_path / 'rule')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert {path: path.read_bytes() for path in before} == before
    assert LossEstimator.from_pretrained(tmp_path / "rule").to_json() == rule.to_json()


def test_a_rule_takes_the_place_of_another_beside_the_users_own_files(runs, rule, tmp_path):
    one = LossEstimator.fit(runs, indicators=["reward"], select="none", permutations=0, bootstraps=10)
    rule.save_pretrained(tmp_path)
    (tmp_path / "figures/own.png").write_text("mine")
    one.save_pretrained(tmp_path)  # which has fewer figures
    assert LossEstimator.from_pretrained(tmp_path).to_json() == one.to_json()
    assert (tmp_path / "figures/own.png").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


def test_pushed_to_the_hub_in_one_commit_and_read_back_bit_identical(rule, runs, hub):
    assert rule.push_to_hub("me/my-rule", private=True) == "me/my-rule"
    assert hub.commits_made("me/my-rule") == 1
    repo = hub.model("me/my-rule")
    assert repo.private
    assert set(repo.files) == {"README.md", "estimator.json", *(f"figures/{name}.png" for name in CAPTIONS)}
    assert b"from_pretrained('me/my-rule')" in repo.files["README.md"]
    again = LossEstimator.from_pretrained("me/my-rule")
    assert again == rule and again.predict(runs).tobytes() == rule.predict(runs).tobytes()


def test_what_cannot_be_kept_is_refused_before_a_repository_is_made(rule, hub):
    with pytest.raises(InstructMineError, match="an AutoML rule cannot be kept"):
        replace(rule, regressor=object()).push_to_hub("me/my-rule")
    assert not hub.repos


def test_another_process_reads_the_rule_from_the_hub(hub):
    rule = LossEstimator.from_published("instructmining-v1")
    rule.push_to_hub("me/v1")
    code = (
        "from hf_instructmine import LossEstimator; rule = LossEstimator.from_pretrained('me/v1');"
        "print(rule.predict({'reward': [0.1], 'output_length': [33], 'knn_6': [0.7]}, allow_mismatch=True)[0].hex())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    here = rule.predict({"reward": [0.1], "output_length": [33], "knn_6": [0.7]}, allow_mismatch=True)[0]
    assert found == here.hex()


def test_what_the_hub_does_not_have_is_one_line(hub):
    from huggingface_hub import HfApi

    HfApi().create_repo("me/empty")
    with pytest.raises(InstructMineError, match=r"'me/empty' on the Hub has no estimator\.json"):
        LossEstimator.from_pretrained("me/empty")
    with pytest.raises(InstructMineError, match="refused the model 'me/nothing'"):
        LossEstimator.from_pretrained("me/nothing")
    with pytest.raises(InstructMineError, match="neither a folder nor a repository id"):
        LossEstimator.from_pretrained("no/such/folder")


def test_without_a_token_nothing_is_drawn_or_sent(rule, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InstructMineError, match="no Hugging Face token"):
        rule.push_to_hub("me/my-rule")
    assert not hub.repos


def test_without_the_hub_an_unknown_id_is_one_line():
    with pytest.raises(InstructMineError, match="not a folder here, and the Hub could not be reached"):
        LossEstimator.from_pretrained("me/not-cached")


def test_rules_side_by_side_on_runs_that_none_has_seen(rule, runs):
    fresh = simulated_runs(n=30, seed=1, replicates=0).assign(mixture_id=[f"new-{i}" for i in range(30)])
    fresh["loss_self_instruct"] *= np.exp(0.02 * np.random.default_rng(9).normal(size=30))
    v1, v2 = (LossEstimator.from_published(f"instructmining-{v}") for v in ("v1", "v2"))
    mean, first, second, ours = compare([v1, v2, rule], fresh).rules
    assert mean.r2 == pytest.approx(1 - (30 / 29) ** 2)  # leaving one out of a mean
    assert first.r2 is None and first.why_not == "the runs have no knn_6"
    assert second.why_not == "the runs have no understandability"
    y = np.log(fresh["loss_self_instruct"])
    predicted = rule.predict(fresh)
    assert ours.seen == 0
    assert ours.r2 == pytest.approx(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    assert ours.shifted_r2 >= ours.r2 and ours.scaled_r2 == pytest.approx(np.corrcoef(y, predicted)[0, 1] ** 2)


def test_a_rule_is_not_compared_on_runs_it_was_fitted_on(rule, runs):
    table = compare([rule], runs)
    ours = table.rules[1]
    assert ours.seen == 40
    y, held_out = np.array(rule.diagnostics.measured), np.array(rule.diagnostics.held_out)
    assert ours.r2 == pytest.approx(1 - ((y - held_out) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    assert ours.r2 < rule.diagnostics.r2
    assert "cross-validated on 40 runs it was fitted on" in str(table)


def test_a_published_rule_is_compared_where_its_columns_are(runs):
    table = runs.assign(knn_6=0.5, understandability=runs["coherence"])
    result = compare([LossEstimator.from_published(f"instructmining-{v}") for v in ("v1", "v2")], table)
    assert all(not found.why_not and found.shifted_r2 is not None for found in result.rules)
    assert len(str(result).splitlines()) == 5


def test_a_rule_for_loss_is_not_compared_with_rules_for_log_loss(runs):
    rule = LossEstimator.fit(runs, log_target=False, permutations=0, bootstraps=0)
    with pytest.raises(InstructMineError, match="predicts loss, not log loss"):
        compare([rule], runs)
