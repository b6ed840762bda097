"""Rows that share most of their words with a selected one are passed over, without embeddings."""

import sys

import numpy as np
import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError, LossEstimator, Selection, Selector


pytest.importorskip("datasketch", reason="the extra `dedup` is not installed: pip install hf-instructmine[dedup]")

from hf_instructmine.selection.near_copies import Sketches, TakenCopies, shingles


RULE = LossEstimator.from_coefficients({"mtld": 1.0})
WORDS = [f"w{i}" for i in range(400)]


def text(seed: int, changed: int = 0, words: int = 60) -> str:
    """The same words for a seed, but for the last few."""
    drawn = np.random.default_rng(seed).choice(WORDS, words).tolist()
    return " ".join([*drawn[: words - changed], *(f"x{i}" for i in range(changed))])


def a_pool() -> Dataset:
    texts = [text(0), text(0, 3), text(1), text(0, 30), text(1, 1), text(0).upper() + "!", text(2)]
    return Dataset.from_dict({"prompt": ["q"] * 7, "completion": texts, "mtld": np.arange(7.0)})


def select(**options) -> Selection:
    return Selector(RULE, **options).select(a_pool(), max_log_loss=9)


def test_a_row_near_to_a_selected_one_is_passed_over_in_the_order_of_the_ranking():
    selection = select(near_duplicates=0.8)
    assert selection.indices.tolist() == [0, 2, 3, 6]
    assert selection.skipped == {"near_duplicates": 3}
    assert selection.decisions.of("near copy").tolist() == [1, 4, 5]
    assert "3 are near copies of a selected row (near_duplicates=0.8)" in selection.summary()
    assert select(near_duplicates=0.3).indices.tolist() == [0, 2, 6]
    assert select().num_selected == 7


def test_the_card_says_how_near_copies_were_told_and_the_request_can_be_made_again(tmp_path):
    selection = select(near_duplicates=0.8)
    card = str(selection.card)
    assert "a Jaccard similarity of at least 0.8 as MinHash estimates it (128 permutations, seed 1)" in card
    assert "near_duplicates=0.8" in card
    selection.save_to_disk(tmp_path / "curated")
    assert Selection.load(tmp_path / "curated").request["near_duplicates"] == 0.8


def test_only_rows_that_are_met_are_hashed(monkeypatch):
    from datasketch import MinHash

    hashed, generator = [], MinHash.generator
    monkeypatch.setattr(MinHash, "generator", lambda words, **given: hashed.append(words) or generator(words, **given))
    Selector(RULE, near_duplicates=0.8).select(a_pool(), size=2)
    assert len(hashed) == 3


def test_an_exact_copy_counts_as_a_duplicate():
    pool = Dataset.from_dict({"prompt": ["q"] * 3, "completion": [text(0), text(0), text(0, 2)], "mtld": [0.0, 1, 2]})
    selection = Selector(RULE, near_duplicates=0.8).select(pool, max_log_loss=9)
    assert (selection.skipped_duplicates, selection.skipped["near_duplicates"]) == (1, 1)
    kept = Selector(RULE, near_duplicates=0.8).select(pool, max_log_loss=9, drop_duplicates=False)
    assert kept.indices.tolist() == [0] and kept.skipped["near_duplicates"] == 2


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_what_is_found_is_what_the_exact_similarity_finds(threshold):
    texts = [text(seed, changed) for seed in range(12) for changed in range(0, 24, 2)]
    pool = Dataset.from_dict({"prompt": ["q"] * len(texts), "completion": texts})
    sketches, sets = Sketches(pool, None, threshold), [shingles(f"q\n\n{one}") for one in texts]
    taken, wrong = TakenCopies(sketches), 0
    for row in range(len(texts)):
        exact = max((len(sets[row] & sets[other]) / len(sets[row] | sets[other]) for other in range(row)), default=0)
        if abs(exact - threshold) > 0.1:  # three standard errors of the estimate
            wrong += taken.has_like(row) != (exact >= threshold)
        taken.add(row)
    assert wrong == 0


@pytest.mark.parametrize("text, sets", [("A b, c d", {"a b c", "b c d"}), ("Yes.", {"yes"}), (" ?! ", {"?!"})])
def test_short_texts_are_compared_as_a_whole(text, sets):
    assert shingles(text) == sets


@pytest.mark.parametrize("value, why", [
    (0, "near_duplicates=0.0 has to be a share of words in common, above 0 and at most 1"),
    (1.2, "near_duplicates=1.2 has to be"), (float("nan"), "near_duplicates=nan has to be"),
    ("much", "near_duplicates='much' has to be a number"),
])  # fmt: skip
def test_what_is_no_share_is_refused(value, why):
    with pytest.raises(InstructMineError) as refused:
        Selector(RULE, near_duplicates=value)
    assert str(refused.value).startswith(why) and "\n" not in str(refused.value)


def test_a_pool_without_texts_and_a_library_that_is_absent_are_told(monkeypatch):
    numbers = Dataset.from_dict({"mtld": [0.0, 1.0]})
    with pytest.raises(InstructMineError, match="near_duplicates compares texts, and the pool has none"):
        Selector(RULE, near_duplicates=0.8).select(numbers, size=1)
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(InstructMineError, match=r"run `pip install hf-instructmine\[dedup\]`"):
        Selector(RULE, near_duplicates=0.8)
