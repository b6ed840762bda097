"""The paragraph that stands wherever a rule is used: may it be used, how well does it predict, of what was it made."""

import copy
import dataclasses

import pytest
from hostile import HOSTILE
from simulated_runs import simulated_runs

from hf_instructmine import LossEstimator
from hf_instructmine.estimator.file import rule_digest
from hf_instructmine.estimator.summary import verdict
from hf_instructmine.estimator.verdict import advises_against, in_a_title, paragraph


def fitted(effect: float) -> LossEstimator:
    runs = simulated_runs(n=40, seed=1, effect=effect)
    runs["steps"] = 50
    return LossEstimator.fit(
        runs, indicators=["reward", "mtld"], select="none", name="mine", permutations=50, bootstraps=20
    )


@pytest.fixture(scope="module")
def rule() -> LossEstimator:
    return fitted(effect=1.0)


@pytest.fixture(scope="module")
def worthless() -> LossEstimator:
    return fitted(effect=0.0)


def test_a_fitted_rule_says_all_that_decides_whether_to_use_it(rule):
    d = rule.diagnostics
    low, high = d.nested_cv_r2_interval
    assert paragraph(rule, leverage=0.01) == (
        f"The rule mine: {verdict(d)} Its held-out R² is {d.nested_cv_r2:.2f} (95 % {low:.2f} to {high:.2f}): the "
        "share of the variance in log loss between unseen mixtures that it explains, below 0 where their mean does "
        f"better. The selection lies within the runs (leverage 0.01, theirs at most {rule.max_leverage:.3g}). It was "
        "fitted to 40 finetunes of tiny (36 mixtures), on 520 to 1,496 rows and 50 optimiser steps each, measured on "
        "self_instruct."
    )
    assert not advises_against(rule)


def test_a_rule_that_is_not_to_be_used_says_so_first(worthless):
    assert advises_against(worthless)
    assert paragraph(worthless).startswith("The rule mine: Do not select by it: a random choice of the same size ")


def test_a_warning_is_given_for_those_rules_whose_words_are_do_not(rule, worthless):
    for known in (rule, worthless):
        assert advises_against(known) == verdict(known.diagnostics).startswith("Do not")


def test_beside_covariates_it_is_what_the_indicators_add_that_counts():
    rule = LossEstimator.fit(
        simulated_runs(n=40, seed=1), indicators=["reward"], covariates=["subset_size"], permutations=0, bootstraps=20
    )
    d = rule.diagnostics
    assert f"Its held-out partial R² is {d.partial_r2:.2f} (95 % " in paragraph(rule)
    assert "that it explains beyond subset_size, below 0 where these alone do better." in paragraph(rule)
    rule.diagnostics = dataclasses.replace(d, partial_r2=None)  # as earlier versions saved it
    assert "How much it explains beyond subset_size is not known." in paragraph(rule)


def test_a_selection_beyond_the_runs_extrapolates(rule):
    assert "The selection lies beyond the runs (leverage 9, " in paragraph(rule, leverage=9.0)
    assert "the rule extrapolates" in paragraph(rule, leverage=9.0)
    assert "selection lies" not in paragraph(rule)  # where there is no selection


def test_what_the_runs_do_not_record_is_not_made_up():
    runs = simulated_runs(n=40, seed=1).drop(columns=["base_model", "subset_size"])
    told = paragraph(LossEstimator.fit(runs, indicators=["reward"], select="none", permutations=0, bootstraps=20))
    assert "40 finetunes of a model that is not recorded" in told and "on amounts that are not recorded" in told


def test_of_a_model_without_least_squares_it_is_not_known_whether_it_extrapolates():
    rule = LossEstimator.fit(simulated_runs(n=40, seed=1), indicators=["reward", "mtld"], model="ridge", bootstraps=5)
    assert "Whether a selection lies beyond the runs is not known of such a rule." in paragraph(rule)


def test_of_a_rule_that_was_not_fitted_nothing_is_known():
    by_hand = LossEstimator.from_coefficients({"mtld": 1.0})
    assert paragraph(by_hand).startswith("The rule hand-set is hand-set: nothing is known of how well it predicts. ")
    published = LossEstimator.from_published("instructmining-v2")
    assert "is published with the paper, not fitted here: nothing is known" in paragraph(published)
    assert not advises_against(by_hand) and not advises_against(published)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_are_one_line_without_control_characters(rule, hostile):
    changed = copy.deepcopy(rule)
    changed.name = changed.target = hostile
    changed.fitted.runs["base_model"] = [hostile]
    told = paragraph(changed)
    assert not {"\n", "\x1b", "\u202e"} & set(told) and len(told) < 1500


def test_the_digest_is_of_what_a_rule_predicts(rule, worthless, tmp_path):
    rule.save_pretrained(tmp_path)
    again = LossEstimator.from_pretrained(tmp_path)
    again.name, again.origin = "another name", "elsewhere"
    assert rule_digest(again) == rule_digest(rule) != rule_digest(worthless)
    made = {"mtld": {"indicator": "MTLD", "threshold": 0.7}}
    by_hand = [
        LossEstimator.from_coefficients({"mtld": 1.0}),
        LossEstimator.from_coefficients({"mtld": 2.0}),
        LossEstimator.from_coefficients({"mtld": 1.0}, provenance=made),
    ]
    assert len(set(map(rule_digest, by_hand))) == 3


def test_a_figure_of_predictions_says_what_they_are_worth(rule, worthless):
    assert in_a_title(worthless).endswith("): no difference in its predictions is a finding.")
    assert in_a_title(rule).startswith("The rule's held-out R² is ") and "finding" not in in_a_title(rule)
    assert in_a_title(LossEstimator.from_published("instructmining-v2")).startswith(
        "How well this rule predicts is not"
    )
