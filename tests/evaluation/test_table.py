"""One table of losses and benchmarks: values with intervals, paired differences, and a section of a card."""

import numpy as np
import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.evaluation.table import Evaluation


EXAMPLES = 60


def loss(shift: float = 0.0, seed: int = 1, tokens: int = 50) -> dict:
    """The record of a model whose loss is above the others' by about so much."""
    rng, own = np.random.default_rng(0), np.random.default_rng(seed)
    nll = tokens * (2 + rng.normal(0, 0.5, EXAMPLES) + shift + own.normal(0, 0.01, EXAMPLES))
    return {
        "nll": nll.tolist(), "tokens": [tokens] * EXAMPLES, "bytes": [200] * EXAMPLES, "skipped": 3, "truncated": 0,
        "categories": ["maths", "writing"] * (EXAMPLES // 2),
    }  # fmt: skip


def score(right: int, clusters: list | None = None, of: int = EXAMPLES) -> dict:
    """The record of a model that has the first so many questions right."""
    return {
        "questions": [f"task:{n}" for n in range(of)], "digests": ["d"] * of, "clusters": clusters,
        "scores": [float(n < right) for n in range(of)], "unit": "acc", "lm_eval": "0.4.13",
    }  # fmt: skip


def evaluation(**changes) -> Evaluation:
    given = {
        "models": ["base", "rule"], "baseline": "base",
        "losses": {"mine": {"base": loss(seed=1), "rule": loss(-0.1, seed=2)}},
        "benchmarks": {"task": {"base": score(30), "rule": score(33)}},
        "shots": {"task": "5-shot acc"}, "how": "all questions, without the chat template",
    }  # fmt: skip
    return Evaluation(**{**given, **changes})


def test_the_first_line_says_what_the_intervals_are_about():
    assert evaluation().summary().startswith("One training of each model: intervals are over questions and examples")


def test_a_paired_difference_is_seen_where_the_intervals_of_the_values_overlap():
    base, rule = evaluation().lines()[:2]
    assert base.low < rule.high  # the examples differ by much more than the models
    assert rule.difference.estimate == pytest.approx(-0.1, abs=0.01) and rule.difference.high < -0.09
    assert evaluation().verdict() == [
        f"mine loss: rule is better than base: {rule.difference.estimate:+.4f} nats/token, interval "
        f"{rule.difference.low:+.4f} to {rule.difference.high:+.4f}, over 60 examples.",
        evaluation().verdict()[1],
    ]


def test_a_higher_score_is_better_and_a_higher_loss_is_worse():
    found = evaluation(
        losses={"mine": {"base": loss(seed=1), "rule": loss(+0.1, seed=2)}},
        benchmarks={"task": {"base": score(10), "rule": score(50)}},
    )
    assert ["worse than base" in found.verdict()[0], "better than base" in found.verdict()[1]] == [True, True]


def test_few_discordant_questions_show_nothing_and_p_is_mcnemars():
    line = evaluation().lines()[3]
    assert (line.value, line.difference.only_a, line.difference.only_b) == (0.55, 3, 0)
    assert line.difference.mcnemar == 0.25 and "| 0.25 |" in evaluation().table()
    found = evaluation(benchmarks={"task": {"base": score(30), "rule": score(30)}})
    difference = found.lines()[3].difference
    assert "task: rule is not shown to differ from base" in found.verdict()[1]
    assert difference.low < 0 < difference.high  # that none of these questions tells them apart is no certainty


def test_the_interval_is_over_groups_where_questions_come_in_groups():
    clusters = [str(n // 12) for n in range(EXAMPLES)]
    alone, grouped = (
        evaluation(benchmarks={"task": {"base": score(30, c), "rule": score(42, c)}}).lines()[3].difference
        for c in (None, clusters)
    )
    assert (alone.clusters, grouped.clusters, grouped.mcnemar) == (60, 5, None)
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_a_question_without_a_group_is_one_of_its_own():
    clusters = ["a", "a", *[None] * (EXAMPLES - 2)]
    found = evaluation(benchmarks={"task": {"base": score(30, clusters), "rule": score(42, clusters)}})
    assert found.lines()[3].difference.clusters == 59


def test_models_of_other_tokenizers_are_compared_in_bits_per_byte():
    line = evaluation(losses={"mine": {"base": loss(), "rule": loss(tokens=25)}}).lines()[1]
    assert line.unit == "bits/byte" and line.value == line.bits
    assert line.difference.estimate == pytest.approx(-0.36, abs=0.02)  # half the nats over the same bytes


def test_losses_by_category():
    table = evaluation().by_category("mine")
    assert "| maths | 30 |" in table and "| writing | 30 |" in table
    records = {name: loss() | {"categories": [None] * EXAMPLES} for name in ("base", "rule")}
    assert evaluation(losses={"mine": records}).by_category("mine") == ""


def test_how_it_was_asked_is_under_the_table():
    told = evaluation().summary()
    assert "Benchmarks by lm-eval 0.4.13: all questions, without the chat template. task: 5-shot acc." in told
    assert "mine: 3 rows without a reference left out, 0 texts cut." in told
    assert "p is of each line alone" in told


def test_models_that_were_asked_other_questions_are_not_compared():
    other = score(30) | {"digests": ["other"] * EXAMPLES}
    with pytest.raises(InstructMineError, match="'rule' and 'base' were asked other questions"):
        evaluation(benchmarks={"task": {"base": score(30), "rule": other}}).summary()


def test_one_question_has_no_interval():
    found = evaluation(losses={}, benchmarks={"task": {"base": score(1, of=1), "rule": score(0, of=1)}})
    assert found.verdict() == [] and "| task (acc) | rule | 1 | 0.0000 |  |" in found.table()


def test_another_baseline():
    found = evaluation(baseline="rule")
    assert "to rule" in found.table() and "base is worse than rule" in found.verdict()[0]


def test_as_a_section_of_a_card_names_are_inert():
    names = ["base", "<b>_x_"]
    records = dict(zip(names, (loss(seed=1), loss(-0.1, seed=2))))
    section = evaluation(models=names, losses={"mine": records}, benchmarks={}).section()
    assert section.title == "Losses, benchmarks and a judge" and len(section.verdict) == 1
    assert "<b>" not in section.markdown and "&lt;b&gt;\\_x\\_" in section.markdown
    assert "One training of each model" in section.markdown
