"""What a selection says of itself: what its rule is worth stands before all counts, on the screen and in the card."""

import pytest
from datasets import Dataset
from hostile import HOSTILE, acted_on, stated
from simulated_runs import simulated_runs

from hf_instructmine import LossEstimator, Selector


def scored(sources: list[str] | None = None) -> Dataset:
    rows = len(sources or range(6))
    columns = {"reward": [1.0 + 0.1 * i for i in range(rows)], "mtld": [60.0] * rows}
    return Dataset.from_dict({**columns, **({"source": sources} if sources else {})})


def fitted(effect: float, name: str = "mine") -> LossEstimator:
    return LossEstimator.fit(
        simulated_runs(n=40, seed=1, effect=effect),
        indicators=["reward", "mtld"], select="none", name=name, permutations=50, bootstraps=20,
    )  # fmt: skip


def on_one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def worthless() -> LossEstimator:
    return fitted(effect=0.0)


def test_a_rule_that_is_not_to_be_selected_by_is_told_in_the_first_lines(worthless):
    selection = Selector(worthless).select(scored(), size=3)
    lines = str(selection).splitlines()
    assert lines[0].startswith("Selected 3 of 6 rows with mine (size=3)")
    assert lines[1].startswith("The rule mine: Do not select by it: a random choice of the same size is as good a bet")
    assert max(map(len, lines[1:])) <= 100
    assert on_one_line(selection.verdict()) in on_one_line(str(selection))


def test_the_card_says_it_on_its_first_screen_before_any_table(worthless):
    text = Selector(worthless).select(scored(), size=3).card.text
    screen = "\n".join(text.strip().splitlines()[:9])
    assert "> **How far to trust it**\n>\n> The rule mine: Do not select by it: a random choice of " in screen
    assert f"Its held-out R² is {worthless.diagnostics.nested_cv_r2:.2f} (95 \\% " in screen
    assert "> No comparison of this choice with a random one is attached." in screen
    assert "|" not in screen and "![" not in screen


def test_of_a_hand_set_rule_both_say_that_nothing_is_known():
    selection = Selector(LossEstimator.from_coefficients({"mtld": 1.0})).select(scored(), size=3)
    assert "hand-set: nothing is known of how well it predicts." in on_one_line(str(selection))
    assert "> The rule hand-set is hand-set: nothing is known of how well it predicts." in selection.card.text


def test_whether_the_selection_extrapolates_is_part_of_it():
    rule = fitted(effect=1.0)
    inside = Selector(rule).select(scored().select([0, 0, 1, 1]), size=2)
    far = Dataset.from_dict({"reward": [90.0, 91.0], "mtld": [60.0, 60.0]})
    with pytest.warns(UserWarning, match="the rule extrapolates"):
        outside = Selector(rule).select(far, size=1)
    assert "The selection lies within the runs (leverage " in inside.card.text
    assert "The selection lies beyond the runs (leverage " in outside.card.text
    assert "the rule extrapolates" in on_one_line(str(outside))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_stay_text_on_the_screen_and_in_the_card(hostile, worthless):
    rule = LossEstimator(**{**vars(worthless), "name": hostile})
    calm = Selector(worthless, quotas={"calm": (None, 1.0)}).select(scored(["calm", "b", "calm", "b"]), size=2)
    selection = Selector(rule, quotas={hostile: (None, 1.0)}).select(scored([hostile, "b", hostile, "b"]), size=2)
    assert not {"\x1b", "\u202e"} & set(str(selection))
    assert not any(line.startswith(("---", "license")) for line in str(selection).splitlines())
    assert acted_on(Selector(rule).select(scored(), size=3).card.text) == []
    assert stated(selection.card) == stated(calm.card)


def test_of_very_many_sources_the_largest_are_listed():
    sources = [f"s{i}" for i in range(100)] + ["large"] * 2
    lines = str(Selector(LossEstimator.from_coefficients({"mtld": 1.0})).select(scored(sources), size=3)).splitlines()
    assert len(lines) < 40 and any(line.split() == ["large", "0", "of", "2"] for line in lines)
    assert lines[-1] == "  The 20 largest of 101 sources are listed."
