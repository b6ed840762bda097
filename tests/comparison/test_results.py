"""Evidence is of a rule: it joins the card of that rule's selection, at the top, and of no other's."""

import copy
import warnings

import numpy as np
import pytest
from datasets import Dataset
from hostile import HOSTILE, acted_on, cells, stated

from hf_instructmine import InstructMineError, LossEstimator, Selection, Selector, StrategyComparison
from hf_instructmine.comparison.request import chosen_by
from hf_instructmine.estimator.file import rule_digest
from hf_instructmine.outputs.markdown import escape


RULE = LossEstimator.from_coefficients({"mtld": 1.0}, name="mine")
OTHER = LossEstimator.from_coefficients({"mtld": -1.0}, name="other")


def selection() -> Selection:
    return Selector(RULE).select(Dataset.from_dict({"mtld": [1.0, 2.0, 3.0]}), size=2)


def compared(
    chosen_by: dict[str, str], strategies: tuple[str, ...] = ("mine", "other"), eval_set: str = "tests"
) -> StrategyComparison:
    """A comparison whose finetunes are made up: each strategy is better than random by 0.1 nats."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 60, 20)
    rows = []
    for name in (*strategies, "random"):
        for seed in range(10 if name == "random" else 5):
            shift = 0.0 if name == "random" else -0.1
            nll = (2.5 + shift + rng.normal(0, 0.002) + rng.normal(0, 0.02, 20)) * tokens
            rows.append(
                {
                    "mixture_id": f"{name}-{seed}", "seed": seed, "strategy": name, "amount": "tokens=100",
                    "status": "done", "reason": "", "subset_size": 3, "subset_tokens": 99, "steps": 4,
                    "seconds": 1.0, "base_model": "tiny",
                    f"example_nll_{eval_set}": nll.tolist(), f"example_tokens_{eval_set}": tokens.tolist(),
                }
            )  # fmt: skip
    return StrategyComparison(Dataset.from_list(rows), [*strategies, "random"], chosen_by=chosen_by)


KNOWN = {"mine": rule_digest(RULE), "other": rule_digest(OTHER), "random": "random"}


def test_evidence_of_this_rule_joins_and_its_verdict_stands_at_the_top():
    made = selection()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.attach_evidence(compared(KNOWN))
    top = made.card.text.split("![Distributions")[0]
    assert "tests, tokens=100: mine is better than random by 0.09" in top
    assert "No comparison" not in top and "checked" not in made.card.text


def test_the_verdict_is_of_the_strategy_that_is_this_rule_be_it_the_first_or_not():
    made = selection()
    made.attach_evidence(compared(KNOWN, ("other", "mine")))
    told = [line for line in made.card.text.splitlines() if "better than random" in line]
    assert told and all("mine is" in line for line in told)


@pytest.mark.parametrize("chosen_by", [{**KNOWN, "mine": rule_digest(OTHER)}, {**KNOWN, "mine": "highest:reward"}])
def test_evidence_of_another_rule_is_refused(chosen_by):
    made = selection()
    with pytest.raises(InstructMineError, match="no strategy of the comparison is the rule 'mine' of this") as told:
        made.attach_evidence(compared(chosen_by))
    assert "\n" not in str(told.value) and not made.sections


@pytest.mark.parametrize("chosen_by", [{}, {"other": rule_digest(OTHER)}])
def test_where_the_rules_are_not_recorded_a_line_says_so_here_and_in_the_card(chosen_by):
    made = selection()
    unchecked = "It cannot be checked that the comparison is of this rule: it does not record its rules."
    with pytest.warns(UserWarning, match=f"the rule 'mine': {unchecked}"):
        made.attach_evidence(compared(chosen_by))
    assert unchecked in made.card.text.split("![Distributions")[0]
    assert f"## Does it beat a random choice?\n\n{unchecked}" in made.card.text


def test_evidence_can_be_attached_to_a_selection_that_is_opened_again(tmp_path):
    selection().save_to_disk(tmp_path / "curated")
    made = Selection.load(tmp_path / "curated")
    made.attach_evidence(compared(KNOWN))
    made.save_to_disk(tmp_path / "curated", overwrite=True)
    again = Selection.load(tmp_path / "curated")
    assert again.sections == made.sections and str(again.card) == (tmp_path / "curated/README.md").read_text("utf-8")
    again.attach_evidence(compared(KNOWN))
    assert len(again.sections) == 1


def test_what_a_comparison_records_of_its_rules():
    def by_hand(scored, **budget):
        return [0]

    fresh = {"strategies": [], "fitted_on": {}}
    rules = {"mine": RULE, "longest": "highest:output_length", "own": by_hand}
    told = chosen_by(rules, fresh)
    assert told == {"mine": rule_digest(RULE), "longest": "highest:output_length"}
    before = {"strategies": ["mine", "longest", "own"], "chosen_by": told}
    assert chosen_by(rules, before) == told
    # Finetunes of two rules under one name are of neither; those of an earlier version are not recorded later.
    assert chosen_by({"mine": OTHER}, before) == {"longest": "highest:output_length"}
    assert chosen_by({"mine": RULE}, {"strategies": ["mine"], "fitted_on": {}}) == {}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_stay_text_in_the_card_and_on_the_screen(hostile):
    calm, made = selection(), selection()
    calm.attach_evidence(compared(KNOWN))
    comparison = compared({hostile: rule_digest(RULE)}, (hostile,), hostile)
    comparison.runs = Dataset.from_list(
        [{**row, "base_model": hostile} for row in copy.deepcopy(list(comparison.runs))]
    )
    made.attach_evidence(comparison)
    text = made.card.text
    assert acted_on(text) == [] and stated(made.card) == stated(calm.card)
    assert set(cells(text.split("## Does it beat")[1].split("## How to reproduce")[0])) == {13}
    assert text.count("\n") == calm.card.text.count("\n") - 1  # which has a strategy more
    assert not {"\x1b", "\u202e"} & set(str(comparison))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_baseline_of_any_name_breaks_no_table(hostile):
    calm, comparison = (compared({}, ("mine", name), "tests") for name in ("calm", hostile))
    told = [c.summary(name, show=escape) for c, name in ((calm, "calm"), (comparison, hostile))]
    assert acted_on(told[1]) == [] and cells(told[1]) == cells(told[0])
    assert not {"\x1b", "\u202e"} & set(comparison.summary(hostile))
