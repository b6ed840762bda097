"""The selector keeps the rows of lowest predicted log loss, and says what became of all others."""

import json
import stat
import sys

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_instructmine import InstructMineError, LossEstimator, Selection, Selector
from hf_instructmine.data.provenance import get_provenance, set_provenance


NAN = float("nan")
# A rule whose prediction is the column `mtld` itself, so that a test can see the ranking.
RULE = LossEstimator.from_coefficients({"mtld": 1.0}, name="identity")


def pool(mtld, **columns) -> Dataset:
    rows = {
        "instruction": [f"question {i}" for i in range(len(mtld))],
        "output": [f"answer {i}" for i in range(len(mtld))],
        "mtld": [float(value) for value in mtld],
    }
    return Dataset.from_dict({**rows, **columns})


def select(dataset, **budget):
    return Selector(RULE).select(dataset, **budget)


# --- What is taken ------------------------------------------------------------------------------------------------


def test_takes_the_lowest_predictions_in_order_and_keeps_every_column():
    scored = pool([3, 1, 2, 0], source=["a", "b", "a", "b"], note=[{"k": i} for i in range(4)])
    selection = select(scored, size=2)
    assert selection.indices.tolist() == [3, 1]
    assert selection.dataset["predicted_log_loss"] == [0.0, 1.0]
    assert selection.dataset.remove_columns("predicted_log_loss").to_list() == [scored[3], scored[1]]
    assert selection.dataset.column_names == [*scored.column_names, "predicted_log_loss"]


def test_equal_predictions_are_taken_in_the_order_of_the_pool():
    assert select(pool([1, 0] * 500), size=700).indices.tolist() == [*range(1, 1000, 2), *range(0, 400, 2)]


def test_rows_without_a_finite_prediction_are_never_selected_and_counted():
    selection = select(pool([NAN, 2, float("-inf"), 1, float("inf")]), size=2)
    assert selection.indices.tolist() == [3, 1]
    assert selection.skipped_unscored == 3


def test_an_exact_duplicate_of_a_selected_row_is_passed_over_and_counted():
    scored = pool([0, 1, 2, 3], instruction=["q", "q", "Q", "q"], output=["a", "a", "a", "b"])
    selection = select(scored, size=3)
    assert selection.indices.tolist() == [0, 2, 3]
    assert selection.skipped_duplicates == 1
    everything = select(scored, size=4, drop_duplicates=False)
    assert everything.indices.tolist() == [0, 1, 2, 3]
    assert not everything.duplicates_checked


def test_duplicates_are_found_across_layouts():
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    scored = pool([0, 1, 2], instruction=["q", None, "r"], output=["a", None, "a"], messages=[None, messages, None])
    assert select(scored, size=2).indices.tolist() == [0, 2]


def test_another_system_prompt_or_turn_makes_another_row():
    def chat(*contents):
        return [{"role": role, "content": content} for role, content in contents]

    turns = [("user", "q"), ("assistant", "a")]
    scored = Dataset.from_dict(
        {
            "messages": [chat(*turns), chat(("system", "be brief"), *turns), chat(*turns, *turns), chat(*turns)],
            "mtld": [0.0, 1.0, 2.0, 3.0],
        }
    )
    assert select(scored, max_log_loss=9).indices.tolist() == [0, 1, 2]


def test_a_row_without_a_response_is_passed_over_and_counted():
    selection = select(pool([0, 1, 2], output=["", "fine", None]), size=1)
    assert selection.indices.tolist() == [1]
    assert selection.skipped_empty == 1, "the third row was not reached"


def test_columns_say_where_the_texts_are():
    scored = Dataset.from_dict({"mtld": [0.0, 1.0, 2.0], "ask": ["q", "q", "r"], "tell": ["a", "a", "a"]})
    columns = {"prompt": "ask", "response": "tell"}
    assert select(scored, size=2, columns=columns).indices.tolist() == [0, 2]


def test_a_table_of_numbers_has_no_texts_to_compare():
    selection = select(Dataset.from_dict({"mtld": [1.0, 0.0], "source": ["a", "b"]}), size=1)
    assert selection.indices.tolist() == [1]
    assert not selection.duplicates_checked


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.just(NAN), st.integers(-5, 5)), min_size=1, max_size=30),
    st.lists(st.integers(0, 4), min_size=30, max_size=30),
)
def test_what_was_left_is_no_better_than_what_was_taken(predictions, answers):
    scored = pool(
        predictions, instruction=["q"] * len(predictions), output=[str(a) for a in answers[: len(predictions)]]
    )
    finite = [(p, i) for i, p in enumerate(predictions) if p == p]
    # By hand: the best row of each distinct answer.
    best = {}
    for prediction, i in sorted(finite):
        best.setdefault(answers[i], (prediction, i))
    expected = [i for _, i in sorted(best.values())]
    if not expected:
        with pytest.raises(InstructMineError, match=r"none of .* rows has a prediction"):
            select(scored, max_log_loss=10)
        return
    selection = select(scored, max_log_loss=10)
    assert selection.indices.tolist() == expected
    assert selection.skipped_unscored == len(predictions) - len(finite)
    assert selection.skipped_duplicates == len(finite) - len(expected)
    for size in range(1, len(expected) + 1):
        assert select(scored, size=size).indices.tolist() == expected[:size]


# --- How much -----------------------------------------------------------------------------------------------------


def test_fraction_is_of_the_pool_with_its_unusable_rows():
    assert select(pool([NAN, NAN, 3, 2, 1, 0, NAN, NAN]), fraction=0.25).indices.tolist() == [5, 4]


def test_max_log_loss_includes_the_bound():
    assert select(pool([-0.5, -0.3, -0.1]), max_log_loss=-0.3).indices.tolist() == [0, 1]


def test_a_row_that_does_not_fit_is_passed_over_for_those_that_do():
    scored = pool([0, 1, 2, 3], output_length=[40, 50, 20, 5])
    assert select(scored, tokens=94).indices.tolist() == [0, 1]
    assert select(scored, tokens=100).indices.tolist() == [0, 1, 3]
    assert select(scored, tokens=110).indices.tolist() == [0, 1, 2]
    assert select(scored, tokens=115).indices.tolist() == [0, 1, 2, 3]


def test_a_row_of_unknown_length_cannot_be_paid_with_tokens():
    selection = select(pool([0, 1, 2], output_length=[None, 3, 4]), tokens=7)
    assert selection.indices.tolist() == [1, 2]
    assert selection.skipped_unscored == 1


@pytest.mark.parametrize(
    "budget, message",
    [
        ({}, "give exactly one of size, fraction, max_log_loss, tokens"),
        ({"size": 1, "fraction": 0.5}, "given: size and fraction"),
        ({"size": 0}, "size=0 selects nothing"),
        ({"size": -3}, "size=-3 selects nothing"),
        ({"size": 6}, "size=6 is above the pool's 5 rows"),
        ({"size": 2.5}, "size=2.5 has to be a whole number"),
        ({"size": "two"}, "size='two' has to be a whole number"),
        (
            {"size": 5},
            "above the 2 rows that can be selected: of 5 rows, 1 has no prediction, 1 is an exact duplicate",
        ),
        ({"fraction": 1.5}, "fraction=1.5 has to be above 0 and at most 1"),
        ({"fraction": 0}, "fraction=0.0 has to be above 0"),
        ({"fraction": 0.01}, "fraction=0.01 of 5 rows is no row"),
        ({"fraction": 1}, "above the 2 rows that can be selected"),
        ({"fraction": NAN}, "fraction=nan has to be"),
        ({"max_log_loss": -1}, "max_log_loss=-1.0 selects nothing: the lowest prediction is 0"),
        ({"max_log_loss": NAN}, "max_log_loss=nan has to be a finite number"),
        ({"tokens": 0}, "tokens=0 selects nothing"),
        ({"tokens": 9}, "tokens=9 is less than any response that can be selected, the shortest has 10 tokens"),
        ({"tokens": 31}, "tokens=31 is above the 30 response tokens that can be selected"),
    ],
)
def test_what_cannot_be_given_is_refused_in_one_line(budget, message):
    scored = pool(
        [0, 1, NAN, 2, 3],
        instruction=["q", "q", "q", "q", "q"],
        output=["a", "a", "b", "c", ""],
        output_length=[10, 10, 10, 20, 0],
    )
    with pytest.raises(InstructMineError) as refusal:
        select(scored, **budget)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "scored, message",
    [
        (pool([]), "the dataset is empty"),
        (DatasetDict(train=pool([0]), test=pool([0])), "pass one of them, such as dataset['train']"),
        (pool([0], predicted_log_loss=[1.0]), "remove_columns('predicted_log_loss')"),
        (Dataset.from_dict({"mtld": [0.0], "text": ["a"]}), "drop_duplicates=False"),
        (pool([0], output=[7]), "column 'output' holds int64, not text"),
        (pool([NAN, NAN]), "none of 2 rows has a prediction"),
    ],
)
def test_a_pool_that_cannot_be_selected_from_is_refused_in_one_line(scored, message):
    with pytest.raises(InstructMineError) as refusal:
        select(scored, size=1)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_tokens_need_the_lengths():
    with pytest.raises(InstructMineError, match="needs the column 'output_length': score the pool with OutputLength"):
        select(pool([0]), tokens=5)


def test_a_broken_row_is_named_by_its_number_in_the_pool():
    messages = [[{"role": "wizard", "content": str(i)}] for i in range(3)]
    scored = Dataset.from_dict({"messages": messages, "mtld": [2.0, 0.0, 1.0]})
    with pytest.raises(InstructMineError, match="row 1, "):
        select(scored, size=1)


# --- What is told -------------------------------------------------------------------------------------------------


def test_counts_by_source():
    scored = pool(
        [0, 1, 2, NAN, 3, 4],
        instruction=["q", "q", "r", "s", "t", "u"],
        output=["a", "a", "b", "c", "", "d"],
        source=["x", "y", "x", "y", "y", None],
    )
    selection = select(scored, size=3)
    x, y, none = selection.sources
    assert (x.name, x.pool, x.selected, x.unscored, x.duplicates, x.empty) == ("x", 2, 2, 0, 0, 0)
    assert (y.name, y.pool, y.selected, y.unscored, y.duplicates, y.empty) == ("y", 3, 0, 1, 1, 1)
    assert (none.name, none.pool, none.selected) == ("(none)", 1, 1)
    assert (selection.num_pool, selection.num_selected) == (6, 3)
    assert "3 of 6 rows" in selection.summary()


def test_sources_may_be_class_labels():
    scored = pool([0, 1], source=[1, 0]).cast_column("source", ClassLabel(names=["web", "human"]))
    assert {count.name: count.selected for count in select(scored, size=1).sources} == {"human": 1, "web": 0}


def test_a_source_cannot_write_to_the_terminal():
    assert "\x1b" not in select(pool([0], source=["\x1b[2Jgone"]), size=1).summary()


def test_indicators_made_by_another_model_are_refused_unless_allowed():
    rule = LossEstimator.from_coefficients({"mtld": 1.0}, provenance={"mtld": {"threshold": 0.72}})
    scored = set_provenance(pool([1, 0]), {"mtld": {"indicator": "MTLD", "threshold": 0.5}})
    with pytest.raises(InstructMineError, match=r"threshold=0\.72.*threshold=0\.5"):
        Selector(rule).select(scored, size=1)
    selection = Selector(rule).select(scored, size=1, allow_mismatch=True)
    assert "Mismatch" in selection.card.text
    assert "allow_mismatch=True" in selection.card.text


# --- Saving -------------------------------------------------------------------------------------------------------


@pytest.fixture
def selection():
    scored = pool(np.arange(20) % 7, source=["web"] * 10 + ["human"] * 10)
    return select(set_provenance(scored, {"mtld": {"indicator": "MTLD", "threshold": 0.72}}), size=8)


def test_a_saved_selection_opens_with_the_usual_tools(selection, tmp_path):
    selection.save_to_disk(tmp_path / "curated")
    files = {file.relative_to(tmp_path / "curated").as_posix() for file in (tmp_path / "curated").rglob("*.*")}
    assert files == {
        "README.md",
        "data/train-00000-of-00001.parquet",
        "estimator.json",
        "indicators.json",
        "predicted_log_loss.png",
        "decisions.npz",
        "predictions.parquet",
        "selection.json",
    }
    again = load_dataset(str(tmp_path / "curated"), split="train", cache_dir=tmp_path / "cache")
    assert again.to_list() == selection.dataset.to_list()
    assert get_provenance(again) == {"mtld": {"indicator": "MTLD", "threshold": 0.72}}
    assert json.loads((tmp_path / "curated/indicators.json").read_text()) == get_provenance(again)
    rule = LossEstimator.from_pretrained(tmp_path / "curated")
    assert rule.predict(again).tolist() == again["predicted_log_loss"][:]


def test_a_folder_that_holds_files_is_refused_unless_overwritten(selection, tmp_path):
    selection.save_to_disk(tmp_path)
    smaller = select(pool([1, 0]), size=1)
    with pytest.raises(InstructMineError, match=r"already holds files \(README.md, data, decisions.npz, …\)"):
        smaller.save_to_disk(tmp_path)
    cache = {"split": "train", "cache_dir": tmp_path.parent / "cache"}
    assert len(load_dataset(str(tmp_path), **cache)) == 8
    smaller.save_to_disk(tmp_path, overwrite=True)
    assert len(load_dataset(str(tmp_path), **cache)) == 1, "and not what load_dataset has cached"


def test_nothing_is_left_where_saving_fails(selection, tmp_path):
    selection.estimator = LossEstimator.from_coefficients({"mtld": 1.0}, origin="a lone surrogate: \ud800")
    with pytest.raises(UnicodeEncodeError):
        selection.save_to_disk(tmp_path / "curated")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that root cannot write to either")
def test_a_read_only_place_is_refused_in_one_line(selection):
    with pytest.raises(InstructMineError, match="cannot write to '/proc/curated'"):
        selection.save_to_disk("/proc/curated")


def test_a_saved_folder_has_the_usual_permissions(selection, tmp_path):
    (tmp_path / "usual").mkdir()
    selection.save_to_disk(tmp_path / "curated")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "curated")]
    assert modes[0] == modes[1]


def test_a_selection_can_stay_where_the_rule_was_tested():
    rng = np.random.default_rng(0)
    runs = {
        "mixture_id": [f"m{i}" for i in range(24)],
        "mtld": rng.normal(50, 2, 24),
        "reward": rng.normal(0, 0.2, 24),
    }
    runs["loss_x"] = np.exp(1 - 0.02 * runs["mtld"] + 0.1 * runs["reward"] + rng.normal(0, 0.001, 24))
    rule = LossEstimator.fit(runs, target="loss_x", select="none", permutations=0, bootstraps=0)
    pool = Dataset.from_dict({"mtld": rng.normal(50, 8, 500), "reward": rng.normal(0, 1, 500)})

    with pytest.warns(UserWarning, match="extrapolates"):
        free = Selector(rule).select(pool, size=50)
    inside = Selector(rule).select(pool, size=50, max_leverage=rule.max_leverage)

    assert free.leverage > rule.max_leverage >= inside.leverage
    assert inside.num_selected == 50 and inside.skipped_far > 0
    assert "within the runs' largest" in inside.summary()
    assert inside.log_loss.mean() < rule.predict(pool).mean()
    with pytest.raises(InstructMineError, match="max_leverage"):
        Selector(rule).select(pool, size=50, max_leverage=1e-9)


def test_a_pool_is_read_once_however_many_bounds_are_tried(monkeypatch):
    from hf_instructmine.data import columns

    rng = np.random.default_rng(0)
    runs = {"mixture_id": list(range(24)), "mtld": rng.normal(50, 2, 24)}
    runs["loss_x"] = np.exp(1 - 0.02 * runs["mtld"] + rng.normal(0, 0.001, 24))
    rule = LossEstimator.fit(runs, target="loss_x", select="none", permutations=0, bootstraps=0)
    scored = pool(rng.normal(50, 8, 500), output_length=rng.integers(1, 50, 500), source=["a", "b"] * 250)
    read, walks, plain = [], [], columns._arrow_column
    monkeypatch.setattr(columns, "_arrow_column", lambda table, name: read.append(name) or plain(table, name))
    take = Selector._take
    monkeypatch.setattr(Selector, "_take", lambda self, *given: walks.append(1) or take(self, *given))
    Selector(rule, length_bins=2).select(scored, tokens=2000, max_leverage=rule.max_leverage)
    assert sorted(read) == ["mtld", "output_length"]
    assert len(walks) > 3


def test_a_rule_that_keeps_no_indicator_predicts_the_same_everywhere(tmp_path):
    rng = np.random.default_rng(1)
    runs = {"mixture_id": list(range(30)), "mtld": rng.normal(size=30), "loss_x": np.exp(rng.normal(size=30))}
    rule = LossEstimator.fit(runs, target="loss_x", select="bic", permutations=0, bootstraps=0)
    assert not rule.terms
    with pytest.warns(UserWarning, match="keeps no indicator"):
        selection = Selector(rule).select(pool([3, 1, 2]), size=2, max_leverage=1)
    assert selection.indices.tolist() == [0, 1]
    assert selection.leverage == pytest.approx(1 / 30)
    selection.save_to_disk(tmp_path / "curated")  # nothing to draw: no figure, and none in the card
    assert "![" not in (tmp_path / "curated/README.md").read_text() and not [*tmp_path.rglob("*.png")]
    assert Selection.load(tmp_path / "curated").indices.tolist() == [0, 1]


def test_the_name_of_a_rule_is_no_rule():
    with pytest.raises(InstructMineError, match="the rule is a name, 'me/my-rule': open it with LossEstimator"):
        Selector("me/my-rule")
