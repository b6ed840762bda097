"""Rows chosen without a rule: by a column or at random, as a comparison chooses them, and said to be so."""

import heapq
import re

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reproduce import follow

import hf_instructmine as him
from hf_instructmine import InstructMineError
from hf_instructmine.cli.main import main
from hf_instructmine.comparison.strategies import choose_rows
from hf_instructmine.selection.preference import Preference, balance, groups_of


NAN = float("nan")


@pytest.fixture(scope="module")
def scored() -> Dataset:
    values = [0.5, 1.5, np.nan, 0.9, 0.1, 0.7, 1.0, 0.3]
    return Dataset.from_dict(
        {
            "prompt": [f"question number {i}" for i in range(8)],
            "completion": [f"answer number {i}" for i in range(8)],
            "source": ["web"] * 5 + ["human"] * 3,
            "ifd": values,
            "output_length": [3, 8, 2, 9, 4, 7, 1, 6],
            "knn_6": [0.1 * i for i in range(8)],
        }
    )


@pytest.mark.parametrize(
    ("strategy", "rows"),
    [
        ("longest", [3, 1, 5]),
        ("highest:ifd", [1, 6, 3]),
        ("highest-ifd", [3, 5, 0]),
        ("highest:ifd<1", [3, 5, 0]),
        ("lowest:ifd", [4, 7, 0]),
        ("knn-diversity", [7, 6, 5]),
    ],
)
def test_rows_are_taken_from_an_end_of_a_column(scored, strategy, rows):
    selection = him.Selector(strategy).select(scored, size=3)
    assert selection.indices.tolist() == rows
    assert selection.dataset["output_length"] == scored.select(rows)["output_length"]
    assert selection.dataset.column_names == scored.column_names  # nothing is predicted


@pytest.mark.parametrize("strategy", ["random", "longest", "lowest:ifd", "highest-ifd", "balanced-random"])
@pytest.mark.parametrize("budget", [{"size": 3}, {"tokens": 15}])
def test_a_comparison_chooses_the_same_rows_by_the_same_name(scored, strategy, budget):
    chosen = him.Selector(strategy, seed=3).select(scored, **budget).indices
    costs = np.ones(8) if "size" in budget else np.array(scored["output_length"], dtype=float)
    what = him.usual_strategies(scored).get(strategy, strategy)
    assert sorted(chosen.tolist()) == choose_rows(scored, what, budget, np.arange(8), costs, [3]).tolist()


def test_rows_without_a_value_are_never_chosen_and_are_counted(scored):
    selection = him.Selector("highest:ifd<1").select(scored, size=5)
    assert selection.skipped_unscored == 1 and selection.skipped == {"limit": 2}
    assert selection.decisions.counts() == {"selected": 5, "no value": 1, "beyond the limit": 2}
    assert "1 without a value" in str(selection) and "2 have a value at or above the strategy's limit" in str(
        selection
    )
    with pytest.raises(
        InstructMineError, match="size=6 is above the 5 rows that can be selected: of 8 rows, 1 has no v"
    ):
        him.Selector("highest:ifd<1").select(scored, size=6)
    with pytest.raises(InstructMineError, match="size=9 is above the pool's 8 rows"):
        him.Selector("random").select(scored, size=9)


def test_a_draw_has_a_seed(scored):
    draws = [him.Selector("random", seed=seed).select(scored, size=4).indices.tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    card = str(him.Selector("random", seed=1).select(scored, size=4).card)
    assert "drawn at random (seed 1)" in card and "it is what other choices" in card.lower()
    assert "him.Selector('random', seed=1)" in card and "place 1 in the draw" in card


def test_options_apply(scored):
    selector = him.Selector("longest", quotas={"web": (None, 0.5)}, max_response_tokens=8)
    assert selector.select(scored, size=4).indices.tolist() == [1, 5, 7, 4]
    assert him.Selector("longest").select(scored, fraction=0.25).indices.tolist() == [3, 1]


def test_the_card_says_first_that_there_is_no_rule_and_what_would_find_out(scored, tmp_path):
    him.Selector("highest:ifd<1").select(scored, size=3).save_to_disk(tmp_path / "curated")
    text = (tmp_path / "curated" / "README.md").read_text("utf-8")
    first = text.split("**How far to trust it**")[1].strip(">\n ").splitlines()
    assert first[0].startswith("No rule: the rows are those of the highest ifd below 1, by the strategy highest:ifd")
    assert "Whether this choice beats a random one is not known." in text
    assert "`instructmine compare SCORED_POOL" in text and "'chosen=highest:ifd<1'" in text
    assert "last one kept" in text and "first one left" in text and re.search(r"Row 3\*\*.*: ifd 0.9\.", text)
    assert "predicted_log_loss" not in text and "## The rule" not in text and "(chosen_by.png)" in text


def test_it_is_opened_again_the_same_and_made_again_from_its_card(scored, tmp_path):
    made = him.Selector("longest").select(scored, size=3)
    made.save_to_disk(tmp_path / "curated")
    opened = him.Selection.load(tmp_path / "curated")
    opened.save_to_disk(tmp_path / "again")
    for file in sorted((tmp_path / "curated").rglob("*.*")):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(tmp_path / "curated")).read_bytes()
    assert not (tmp_path / "curated" / "estimator.json").exists() and opened.estimator is None
    pool = scored.remove_columns("output_length")
    code = (tmp_path / "curated" / "README.md").read_text("utf-8")
    assert "him.Selector('longest').select(scored, size=3)" in code and "LossEstimator" not in code
    again = follow_scored(tmp_path / "curated", scored, pool)
    assert again.dataset.to_list() == load_dataset(str(tmp_path / "curated"), split="train").to_list()


def follow_scored(folder, scored, pool):
    """Follows the card, where scoring is what the fixture has."""
    score, him.score = him.score, lambda given, indicators: scored
    try:
        return follow(folder, pool, {}, folder)
    finally:
        him.score = score


def test_a_report_opens_it(scored, tmp_path):
    him.Selector("longest").select(scored, size=3).save_to_disk(tmp_path / "curated")
    page = him.report(tmp_path / "curated").read_text("utf-8")
    assert "No rule: the rows are those of the highest output_length" in page


def test_it_takes_the_place_of_a_selection_by_a_rule_and_goes_to_the_hub(scored, tmp_path, monkeypatch, hub, capsys):
    monkeypatch.chdir(tmp_path)
    rule = him.LossEstimator.from_coefficients({"output_length": 1.0})
    him.Selector(rule).select(scored, size=3).save_to_disk("curated")
    him.Selector("longest").select(scored, size=3).save_to_disk("curated", overwrite=True)
    assert not (tmp_path / "curated" / "estimator.json").exists()
    assert main(["push", "curated", "me/longest"]) == 0
    assert "No rule: the rows are those of the highest output_length" in " ".join(capsys.readouterr().out.split())
    assert load_dataset("me/longest", split="train")["output_length"][:] == [9, 8, 7]


class Evidence:
    """A comparison in which these strategies took part."""

    def __init__(self, *known):
        self.known = known

    def strategies_of(self, chosen_by):
        return [name for name in self.known if name == chosen_by]

    def section(self, names):
        from hf_instructmine.outputs.markdown import CardSection

        return CardSection("Does it beat a random choice?", "a table", {}, [f"{names[0]} is worse than random"])


def test_evidence_of_the_strategy_takes_the_place_of_the_command(scored):
    selection = him.Selector("longest").select(scored, size=3)
    selection.attach_evidence(Evidence("highest:output_length"))
    card = str(selection.card)
    assert "worse than random" in card and "is not known. This would find out" not in card
    with pytest.raises(InstructMineError, match="no strategy of the comparison is the strategy 'longest'"):
        selection.attach_evidence(Evidence("lowest:ifd"))
    with pytest.raises(InstructMineError, match="these rows are a random choice"):
        him.Selector("random").select(scored, size=3).attach_evidence(Evidence("random"))


def test_a_selector_of_a_strategy_is_recorded_in_a_comparison_by_what_it_does():
    assert him.Selector("longest", max_response_tokens=5).chooses_by == "highest:output_length"


@pytest.mark.parametrize(
    ("strategy", "select", "told"),
    [
        ("longst", {}, "or write a strategy: random, balanced:COLUMN"),
        ("instructmining-v2", {}, "open it with LossEstimator.from_pretrained"),
        ("highest:ifd<1-2", {}, "has the limit '1-2', which is no number"),
        ("highest-reward", {}, "needs the column 'reward': score the pool with Reward first"),
        ("highest:prompt", {}, "column 'prompt' holds string, not numbers"),
        ("longest", {"max_log_loss": 1.0}, "max_log_loss is about a rule, and 'longest' is none"),
        ("longest", {"max_leverage": 1.0}, "max_leverage is about a rule"),
    ],
)
def test_what_cannot_be_is_one_line(scored, strategy, select, told):
    with pytest.raises(InstructMineError, match=re.escape(told)) as error:
        him.Selector(strategy).select(scored, **{"size": 3, **({} if not select else {"size": None}), **select})
    assert "\n" not in str(error.value)


def test_a_strategy_reads_again_what_it_was():
    assert Preference.parse("longest") == Preference("longest", "highest:output_length", 0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--strategy", "longest", "--rule", "instructmining-v2"], "--rule and --strategy are two ways to choose"),
        (["--strategy", "longest", "--max-log-loss", "1"], "--max-log-loss is about a rule"),
        (["--strategy", "longest", "--max-leverage", "1"], "--max-leverage is about a rule"),
        (["--strategy", "longest", "--allow-mismatch"], "--allow-mismatch is about a rule"),
        (["--strategy", "longst"], "'longst' is no strategy: did you mean 'longest'? known are random, longest,"),
    ],
)
def test_the_command_line_refuses_in_one_line(scored, options, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scored.to_parquet("pool.parquet")
    assert main(["select", "pool.parquet", "--size", "2", "--output-dir", "curated", *options]) == 1
    assert told in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "curated").exists()


def test_neither_rule_nor_strategy_is_wrong_usage_and_names_both(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["select", "pool.parquet", "--size", "2", "--output-dir", str(tmp_path / "curated")])
    assert end.value.code == 2
    assert "give --rule RULE, or --strategy WHAT" in capsys.readouterr().err.splitlines()[-1]


def test_the_command_line_selects_and_says_what_would_find_out(scored, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scored.to_parquet("pool.parquet")
    words = ["select", "pool.parquet", "--strategy", "longest", "--size", "2", "--license", "mit"]
    assert main([*words, "--output-dir", "curated"]) == 0
    out = capsys.readouterr().out
    assert "No rule: the rows are those of the highest output_length" in out and "instructmine compare" in out
    assert load_dataset("curated", split="train")["output_length"][:] == [9, 8]
    assert "license: mit" in (tmp_path / "curated" / "README.md").read_text("utf-8")


def one_after_another(order, values, costs) -> list[int]:
    """The turns as one would take them: always from the group that has had least, of equal ones from the first met."""
    groups: dict = {}
    for row in order.tolist():
        groups.setdefault(values[row], []).append(row)
    waiting, found = [(0.0, number, iter(rows)) for number, rows in enumerate(groups.values())], []
    while waiting:
        had, number, rows = heapq.heappop(waiting)
        if (row := next(rows, None)) is not None:
            found.append(row)
            heapq.heappush(waiting, (had + costs[row], number, rows))
    return found


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=40)
    | st.lists(st.sampled_from([1.5, 0.0, -0.0, NAN, None]), min_size=1, max_size=40)
    | st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.integers(0, 1000),
    st.booleans(),
)
def test_groups_take_turns_by_what_they_have_had(values, seed, whole):
    rng = np.random.default_rng(seed)
    pool = Dataset.from_dict({"v": values})
    costs = rng.integers(0, 4, len(values)).astype(float) if whole else rng.random(len(values))
    order = rng.permutation(len(values))[: len(values) - 1 or 1]
    assert balance(order, groups_of(pool, "v"), costs).tolist() == one_after_another(order, pool["v"], costs)
