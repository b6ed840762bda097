"""What a selector keeps to besides the ranking: likeness, sources, lengths, evaluation sets."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_instructmine import InstructMineError, LossEstimator, Selector
from hf_instructmine.selection.shares import bin_shares, quota_shares


RULE = LossEstimator.from_coefficients({"mtld": 1.0, "intercept": 0.0}, name="identity")
NAN = float("nan")


def numbers(rows: int, seed: int = 0, **columns) -> Dataset:
    rng = np.random.default_rng(seed)
    usual = {
        "mtld": rng.normal(size=rows),
        "output_length": rng.integers(1, 100, rows),
        "source": rng.choice(["web", "human", "code"], rows, p=[0.7, 0.2, 0.1]).tolist(),
    }
    return Dataset.from_dict(usual | columns)


def vectors(rows: int, seed: int = 0) -> np.ndarray:
    """Embeddings in clusters, so that many are alike."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(2, rows // 8), 6))
    return (centres[rng.integers(len(centres), size=rows)] + 0.3 * rng.normal(size=(rows, 6))).astype(np.float32)


def cosines(embeddings: np.ndarray) -> np.ndarray:
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit @ unit.T


def refusal(selector: Selector, scored: Dataset, **budget) -> str:
    with pytest.raises(InstructMineError) as refused:
        selector.select(scored, **budget)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# --- Likeness -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [{"size": 20}, {"tokens": 900}, {"max_log_loss": 0.5}])
def test_no_two_selected_rows_are_more_alike_than_allowed(budget):
    scored, embeddings = numbers(3000), vectors(3000)  # more than one block of rows
    selection = Selector(RULE, embeddings=embeddings, max_similarity=0.5).select(scored, **budget)
    among = cosines(embeddings[selection.indices])
    assert among[~np.eye(len(among), dtype=bool)].max() <= 0.5 + 1e-5
    assert selection.skipped == {"embeddings": 0, "max_similarity": selection.skipped["max_similarity"]}


def test_a_selector_within_some_rows_knows_their_embeddings_and_keeps_its_own():
    scored, embeddings = numbers(60), vectors(60)
    selector, rows = Selector(RULE, embeddings=embeddings, max_similarity=0.5), np.arange(7, 60, 2)
    within = selector.within(rows).select(scored.select(rows), size=5)
    alone = Selector(RULE, embeddings=embeddings[rows], max_similarity=0.5).select(scored.select(rows), size=5)
    assert within.indices.tolist() == alone.indices.tolist()
    assert len(selector.select(scored, size=5).indices) == 5
    assert Selector(RULE).within(rows).select(scored.select(rows), size=2).num_selected == 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.floats(-0.5, 0.99))
def test_it_is_the_greedy_walk(seed, size, bound):
    scored, embeddings = numbers(40, seed), vectors(40, seed)
    alike, taken, passed = cosines(embeddings), [], 0
    for row in np.argsort(scored["mtld"], kind="stable"):
        if len(taken) == size:
            break
        if any(alike[row, other] > bound for other in taken):
            passed += 1
            continue
        taken.append(int(row))
    selector = Selector(RULE, embeddings=embeddings, max_similarity=bound)
    if len(taken) < size:
        told = refusal(selector, scored, size=size)
        rows, verb = "row" if len(taken) == 1 else "rows", "is" if passed == 1 else "are"
        assert f"size={size} is above the {len(taken)} {rows} that can be selected" in told
        assert f"{passed} {verb} too similar to a selected row (max_similarity={bound})" in told
        assert "raise max_similarity or ask for less" in told
        return
    selection = selector.select(scored, size=size)
    assert selection.indices.tolist() == taken
    assert selection.skipped["max_similarity"] == passed


def test_a_row_without_an_embedding_cannot_be_compared_and_is_left_out():
    embeddings = np.array([[1, 0], [NAN, NAN], [0, 0], [2, 0.1], [0, 3]], dtype=np.float32)
    scored = numbers(5, mtld=[0.0, 1.0, 2.0, 3.0, 4.0])
    selection = Selector(RULE, embeddings=embeddings, max_similarity=0.9).select(scored, size=2)
    assert selection.indices.tolist() == [0, 4]
    assert selection.skipped == {"embeddings": 2, "max_similarity": 1}
    assert "2 have no embedding, 1 is too similar to a selected row (max_similarity=0.9)" in selection.summary()
    assert Selector(RULE, embeddings=embeddings).select(scored, size=2).indices.tolist() == [0, 1], "none needed"


def test_an_exact_duplicate_counts_as_one_and_not_as_too_similar():
    texts = {"prompt": ["q", "q", "r"], "completion": ["a", "a", "b"]}
    scored = Dataset.from_dict({**texts, "mtld": [0.0, 1.0, 2.0]})
    embeddings = np.array([[1, 0], [1, 0], [0, 1]])
    selection = Selector(RULE, embeddings=embeddings, max_similarity=0.9).select(scored, size=2)
    assert selection.skipped_duplicates == 1
    assert selection.skipped["max_similarity"] == 0


# --- Sources ------------------------------------------------------------------------------------------------------


def shares_of(selection, weights=None) -> dict[str, float]:
    sources = np.array(selection.dataset["source"])
    weights = np.ones(len(sources)) if weights is None else np.array(selection.dataset[weights])
    return {name: weights[sources == name].sum() for name in ("web", "human", "code")}


def test_quotas_of_rows_are_met_and_filled_by_the_best_of_each_source():
    scored = numbers(1000)
    quotas = {"web": (None, 0.3), "code": (0.25, 0.4)}
    selection = Selector(RULE, quotas=quotas).select(scored, size=120)
    shares = shares_of(selection)
    assert shares["web"] <= 36 and 30 <= shares["code"] <= 48 and selection.num_selected == 120
    ranked = np.argsort(scored["mtld"])
    for name, count in shares.items():
        best = [row for row in ranked if scored["source"][int(row)] == name][: int(count)]
        assert set(best) <= set(selection.indices)
    assert selection.skipped["quotas"] > 0
    assert (np.diff(selection.log_loss) >= 0).all()


def test_quotas_of_tokens_are_shares_of_the_tokens():
    scored = numbers(2000)
    quotas = {"web": (0.1, 0.3), "code": (0.25, None)}
    selection = Selector(RULE, quotas=quotas).select(scored, tokens=5000)
    spent = shares_of(selection, "output_length")
    assert spent["web"] <= 1500
    # To within a row: whole rows fill no share exactly.
    assert spent["web"] > 500 - 5 and spent["code"] > 1250 - 5
    assert 4990 < sum(spent.values()) <= 5000


def test_a_least_share_that_whole_tokens_can_fill_is_filled():
    lengths = [10] * 40
    sources = ["a"] * 20 + ["b"] * 20
    scored = numbers(40, output_length=lengths, source=sources, mtld=[*range(20), *range(100, 120)])
    selection = Selector(RULE, quotas={"b": (0.25, None)}).select(scored, tokens=100)
    assert selection.dataset["source"][:].count("b") == 3, "30 tokens: the first whole number of rows above 25"


def test_shares_that_leave_no_whole_number_of_rows_are_met_to_within_a_row():
    codes, names = np.zeros(9, int), ["a", "b", "c"]
    third = quota_shares(dict.fromkeys(names, (1 / 3, 1 / 3)), codes, names, 10)
    assert third.least.tolist() == [3, 3, 3] and third.most.tolist() == [4, 4, 4]
    tenth = quota_shares({"a": (0.1, 0.1)}, codes, names, 30)
    assert tenth.least.tolist() == [3, 0, 0] and tenth.most.tolist() == [3, 30, 30]
    some = quota_shares({"a": (0.15, 0.45)}, codes, names, 10)
    assert some.least[0] == 2 and some.most[0] == 4


def test_sources_may_be_class_labels():
    scored = numbers(4, mtld=[0.0, 1.0, 2.0, 3.0], source=[0, 0, 1, 1])
    scored = scored.cast_column("source", ClassLabel(names=["web", "human"]))
    selection = Selector(RULE, quotas={"human": (0.5, None)}).select(scored, size=2)
    assert selection.indices.tolist() == [0, 2]


@pytest.mark.parametrize(
    "quotas, budget, message",
    [
        ({"web": (0.5, 0.2)}, {}, "the quota of 'web' asks for at least 0.5 and at most 0.2"),
        ({"web": (0.7, None), "code": (0.4, None)}, {}, "the quotas' least shares sum to 1.1, above 1"),
        ({"web": (0.5, 1.2)}, {}, "the quota of 'web' has the share 1.2"),
        ({"web": 0.5}, {}, "the quota of 'web' is 0.5: give (least, most)"),
        ({"wbe": (0.5, None)}, {"size": 3}, "no row has the source 'wbe' of the quotas: the sources are"),
        ({"web": (0.5, None)}, {"max_log_loss": 1}, "with quotas give size, fraction or tokens"),
        (
            {"web": (None, 0.2), "human": (0, 0.3), "code": (None, 0.1)}, {"size": 10},
            "the quotas' greatest shares sum to 0.6, below 1",
        ),
        (
            {"code": (0.5, None)}, {"size": 100},
            "quotas ask for at least 50 rows of 'code', and 22 can be selected: of its 22 rows",
        ),
        ({"web": (None, 0.1)}, {"size": 200}, "are of a source that has its most (quotas)"),
    ],
)  # fmt: skip
def test_quotas_that_cannot_be_met_are_refused_in_one_line(quotas, budget, message):
    scored = numbers(300)
    assert scored["source"][:].count("code") == 22
    with pytest.raises(InstructMineError) as refused:
        Selector(RULE, quotas=quotas).select(scored, **budget)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_quotas_need_sources():
    scored = Dataset.from_dict({"mtld": [0.0]})
    assert "quotas need a column 'source'" in refusal(Selector(RULE, quotas={"a": (0, 1)}), scored, size=1)


# --- Lengths ------------------------------------------------------------------------------------------------------


def test_responses_longer_than_the_cap_are_left_out():
    scored = numbers(4, mtld=[0.0, 1.0, 2.0, 3.0], output_length=[50, 51, None, 3])
    selection = Selector(RULE, max_response_tokens=50).select(scored, size=2)
    assert selection.indices.tolist() == [0, 3]
    assert selection.skipped == {"output_length": 1, "max_response_tokens": 1}
    told = refusal(Selector(RULE, max_response_tokens=10), scored, size=2)
    assert "size=2 is above the 1 row that can be selected: of 4 rows" in told
    assert "2 have a longer response (max_response_tokens=10)" in told
    assert told.endswith("raise max_response_tokens or ask for less")


def test_each_bin_of_lengths_has_the_share_of_rows_it_has_in_the_pool():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 1000, 900)
    scored = numbers(900, mtld=-lengths.astype(float), output_length=lengths)  # a rule for long responses alone
    selection = Selector(RULE, length_bins=3).select(scored, size=90)
    chosen, edges = lengths[selection.indices], np.quantile(lengths, [1 / 3, 2 / 3])
    assert np.abs(np.bincount(np.searchsorted(edges, chosen), minlength=3) - 30).max() <= 1
    assert min(Selector(RULE).select(scored, size=90).dataset["output_length"]) > edges[1]
    assert selection.skipped["length_bins"] > 0


def test_each_bin_of_lengths_has_the_share_of_tokens_it_has_in_the_pool():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 1000, 900)
    scored = numbers(900, mtld=rng.normal(size=900), output_length=lengths)
    selection = Selector(RULE, length_bins=3).select(scored, tokens=50_000)
    shares = bin_shares(lengths.astype(float), np.arange(900), 3, lengths.astype(float), 50_000)
    spent = np.bincount(shares.codes[selection.indices], weights=lengths[selection.indices], minlength=3)
    assert np.abs(spent - shares.most).max() < 1000, "to within a row"
    assert spent.sum() <= 50_000
    left = np.setdiff1d(np.arange(900), selection.indices)
    room = (spent < shares.most)[shares.codes[left]]
    assert 50_000 - spent.sum() < lengths[left[room]].min()


def test_bins_keep_rows_of_one_length_together_and_add_up_to_the_budget():
    lengths = np.array([5.0, 5, 5, 5, 5, 9, 9, 9, 20, 30])
    shares = bin_shares(lengths, np.arange(10), 4, np.ones(10), 7)
    assert len(set(shares.codes[:5])) == 1 and len(set(shares.codes[5:8])) == 1
    assert shares.most.sum() == 7
    assert shares.names[0] == "5 to 5 tokens"
    assert bin_shares(np.full(4, 8.0), np.arange(4), 3, np.ones(4), 2).most.tolist() == [2]


def test_a_bin_that_cannot_be_filled_is_named():
    texts = {"prompt": ["q"] * 8, "completion": ["a"] * 4 + list("bcde")}
    scored = Dataset.from_dict({**texts, "mtld": np.arange(8.0), "output_length": [5] * 4 + [50] * 4})
    told = refusal(Selector(RULE, length_bins=2), scored, size=6)
    assert "of responses of 5 to 5 tokens, 1 of 3 can be selected" in told
    assert "lower length_bins or ask for less" in told


# --- Evaluation sets ----------------------------------------------------------------------------------------------


def asked(*prompts: str) -> Dataset:
    return Dataset.from_dict({"prompt": list(prompts), "completion": ["because"] * len(prompts)})


def test_rows_with_an_evaluation_prompt_are_left_out_and_told_by_set():
    leaked = "Name the seven largest lakes of the continent of Africa by area."
    scored = asked("Hello there", f"Please: {leaked}", "What now?").add_column("mtld", [1.0, 0.0, 2.0])
    sets = {"lakes": asked(leaked), "sums": asked("What is 1+1?")}
    selection = Selector(RULE, eval_sets=sets).select(scored, size=2)
    assert selection.indices.tolist() == [0, 2]
    assert selection.contaminated == {"lakes": 1, "sums": 0}
    assert selection.skipped == {"eval_sets": 1}
    assert "Evaluation prompts found: lakes in 1 row, sums in 0 rows" in selection.summary()
    assert "1 holds a prompt of an evaluation set" in refusal(Selector(RULE, eval_sets=sets), scored, size=3)


# --- Together -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [{"size": 60}, {"tokens": 2500}])
def test_options_hold_together_and_the_same_again_is_the_same(budget):
    scored, embeddings = numbers(2000), vectors(2000)
    options = {"max_similarity": 0.8, "quotas": {"code": (0.2, 0.5)}, "max_response_tokens": 80, "length_bins": 3}
    first, again = (Selector(RULE, embeddings=embeddings, **options).select(scored, **budget) for _ in range(2))
    assert first.indices.tolist() == again.indices.tolist()
    among = cosines(embeddings[first.indices])
    assert among[~np.eye(len(among), dtype=bool)].max() <= 0.8 + 1e-5
    assert max(first.dataset["output_length"]) <= 80
    weights = None if "size" in budget else "output_length"
    total = sum(budget.values())
    assert shares_of(first, weights)["code"] >= 0.2 * total - 5
    assert shares_of(first, weights)["code"] <= 0.5 * total
    spent = sum(shares_of(first, weights).values())
    assert total - 5 < spent <= total


def test_options_are_noted_down_without_arrays():
    scored, embeddings = numbers(30), vectors(30)
    selection = Selector(RULE, embeddings=embeddings, max_similarity=np.float64(0.99)).select(scored, size=3)
    assert selection.options == {"embeddings": (30, 6), "max_similarity": 0.99}
    assert selection.request == {"size": 3, "embeddings": (30, 6), "max_similarity": 0.99}
    assert type(selection.request["max_similarity"]) is float
    plain = Selector(RULE).select(scored, size=3)
    assert plain.options == {} and plain.skipped == {} and plain.contaminated == {}


def test_options_hold_within_the_reach_of_the_runs():
    rng = np.random.default_rng(0)
    runs = {
        "mixture_id": [f"m{i}" for i in range(24)],
        "mtld": rng.normal(50, 2, 24),
        "reward": rng.normal(0, 0.2, 24),
    }
    runs["loss_x"] = np.exp(1 - 0.02 * runs["mtld"] + 0.1 * runs["reward"] + rng.normal(0, 0.001, 24))
    rule = LossEstimator.fit(runs, target="loss_x", select="none", permutations=0, bootstraps=0)
    scored = numbers(500, mtld=rng.normal(50, 8, 500), reward=rng.normal(0, 1, 500))
    embeddings = vectors(500)
    selector = Selector(rule, embeddings=embeddings, max_similarity=0.9, quotas={"code": (0.3, None)})
    for budget in ({"size": 20}, {"tokens": 900}):
        selection = selector.select(scored, max_leverage=rule.max_leverage, **budget)
        assert selection.leverage <= rule.max_leverage and selection.skipped_far > 0
        among = cosines(embeddings[selection.indices])
        assert among[~np.eye(len(among), dtype=bool)].max() <= 0.9 + 1e-5
        weights = None if "size" in budget else "output_length"
        assert shares_of(selection, weights)["code"] >= 0.3 * sum(budget.values()) - 5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_similarity": 0.9}, "max_similarity needs embeddings"),
        ({"set_level": True}, "set_level needs embeddings"),
        ({"embeddings": np.zeros(3), "max_similarity": 0.9}, "embeddings have shape (3,)"),
        ({"embeddings": np.zeros((3, 2)), "max_similarity": 1.5}, "max_similarity=1.5 has to be a cosine"),
        ({"embeddings": np.zeros((3, 2)), "max_similarity": "high"}, "max_similarity='high' has to be a number"),
        ({"embeddings": np.zeros((3, 2)), "max_similarity": 0.5}, "embeddings have 3 rows and the pool has 20"),
        ({"embeddings": np.zeros((3, 2)), "set_level": True}, "'identity' has none, only mtld"),
        ({"max_response_tokens": 0}, "max_response_tokens=0 has to be at least 1"),
        ({"max_response_tokens": 2.5}, "max_response_tokens=2.5 has to be a whole number"),
        ({"length_bins": 1}, "length_bins=1 has to be at least 2"),
        ({"length_bins": 2}, "length_bins needs the column 'output_length'"),
        ({"max_response_tokens": 2}, "max_response_tokens needs the column 'output_length'"),
    ],
)
def test_options_that_cannot_be_met_are_refused_in_one_line(options, message):
    with pytest.raises(InstructMineError) as refused:
        Selector(RULE, **options).select(numbers(20).remove_columns("output_length"), size=2)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
