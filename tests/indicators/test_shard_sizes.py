"""How large shards are, and which are begun first."""

from datasets import Dataset

from hf_instructmine import MTLD, Perplexity
from hf_instructmine.indicators import shard_sizes
from hf_instructmine.indicators.shard_sizes import most_work_first, shard_rows


def test_a_shard_is_larger_on_a_gpu_and_there_are_at_most_two_thousand(monkeypatch):
    indicator = Perplexity("some/model")
    monkeypatch.setattr(shard_sizes, "default_device", lambda: "cuda")
    assert [shard_rows(indicator, rows) for rows in (10, 10_000_000)] == [3072, 5000]
    assert [shard_rows(MTLD(), rows) for rows in (10, 10_000_000)] == [256, 5000]


def test_a_small_pool_is_cut_finely_for_a_model_on_a_cpu():
    indicator = Perplexity("some/model", device="cpu")
    assert [shard_rows(indicator, rows) for rows in (10, 1600, 10_000, 10_000_000)] == [64, 100, 256, 5000]


def test_the_shards_of_the_longest_texts_are_begun_first():
    lengths = [30, 10, 20, 40, 5]
    pool = Dataset.from_dict({"prompt": ["q"] * 10, "completion": [n * "a" for n in lengths for _ in range(2)]})
    model, missing = Perplexity("some/model", device="cpu"), {start: [0] for start in range(0, 10, 2)}

    assert list(most_work_first(missing, pool, 2, [model])) == [6, 0, 4, 2, 8]
    assert most_work_first(missing, pool, 2, [MTLD()]) == missing
    assert list(most_work_first({0: [0], 6: [0]}, pool, 2, [model])) == [0, 6]  # each has one
