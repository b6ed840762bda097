import warnings
from functools import partial

import numpy as np
import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError, design_mixtures, design_report
from hf_instructmine.data.provenance import get_provenance, set_provenance
from hf_instructmine.models.neighbors import neighbor_distances
from hf_instructmine.sweep import scored_pool
from hf_instructmine.sweep.scored_pool import ScoredPool, SubsetSize


@pytest.fixture
def vectors() -> np.ndarray:
    """80 rows of length 1; the last 20 are copies of the first 20."""
    vectors = np.random.default_rng(0).normal(size=(60, 384)).astype(np.float32)
    vectors = np.concatenate([vectors, vectors[:20]])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def load(vectors: np.ndarray, *neighbors: int) -> ScoredPool:
    columns = {f"knn_{i}": np.linspace(0, 1, len(vectors)) for i in neighbors}
    return ScoredPool.load(Dataset.from_dict(columns), None, None, None, vectors, SubsetSize(40, None))


@pytest.mark.parametrize("queries", [512, 30])
def test_copies_in_a_subset_are_at_exactly_no_distance(monkeypatch, vectors, queries):
    # A rule with log(knn) would otherwise meet 0 in the pool and 2e-7 in a subset.
    monkeypatch.setattr(scored_pool, "SET_QUERIES", queries)
    copies = np.array([*range(20), *range(60, 80)])
    assert load(vectors, 1).mean_indicators(copies, np.random.default_rng(0)) == [0]


def test_a_subset_is_measured_as_a_pool_is(vectors):
    subset = np.arange(10, 70)
    own = [neighbor_distances(vectors[subset], i).mean() for i in (1, 6)]
    assert load(vectors, 1, 6).mean_indicators(subset) == pytest.approx(own)


def test_a_sample_of_a_subset_is_measured_against_all_of_it(monkeypatch, vectors):
    monkeypatch.setattr(scored_pool, "SET_QUERIES", 30)
    subset = np.arange(10, 70)
    own = neighbor_distances(vectors[subset], 6)
    asked = np.random.default_rng(3).choice(60, 30, replace=False)
    estimate = load(vectors, 6).mean_indicators(subset, np.random.default_rng(3))
    assert estimate == pytest.approx([own[asked].mean()])
    assert estimate != pytest.approx([own.mean()])


def columns_of(made: dict, indicators=None) -> list[str]:
    nll = np.random.default_rng(0).uniform(1, 3, 40)
    rows = {"perplexity": np.exp(nll), "nll": nll, "mtld": np.linspace(10, 90, 40)}
    pool = set_provenance(Dataset.from_dict(rows), made)
    return ScoredPool.load(pool, None, None, indicators, None, SubsetSize(10, None)).columns


def test_perplexity_is_left_out_beside_its_own_logarithm():
    one, other = {"indicator": "Perplexity", "model": "m"}, {"indicator": "Perplexity", "model": "n"}
    with pytest.warns(
        UserWarning, match=r"perplexity is left out of the design, as it is exp\(nll\) of the same model"
    ):
        assert columns_of({"perplexity": one, "nll": one}) == ["nll", "mtld"]
    # Asked for, or of two models, both stay.
    assert columns_of({"perplexity": one, "nll": one}, ["perplexity", "nll"]) == ["perplexity", "nll"]
    assert columns_of({"perplexity": one, "nll": other}) == ["perplexity", "nll", "mtld"]


def test_sources_are_numbered_by_their_names_and_take_no_room_by_their_length():
    names = ["b", "a", "a", "c" * 100_000, "b"]
    rows = {"mtld": [1.0, 2.0, 3.0, float("nan"), 5.0], "source": names}
    load = partial(ScoredPool.load, indicators=["mtld"], embeddings=None, size=SubsetSize(1, None))
    pool = load(Dataset.from_dict(rows), "source", None)
    assert (pool.sources, pool.source.tolist(), pool.rows.tolist()) == (["a", "b"], [1, 0, 0, 1], [0, 1, 2, 4])
    pool = load(Dataset.from_dict(rows).select([4, 2, 1, 0]), "source", ["b"])
    assert (pool.sources, pool.rows.tolist()) == (["b"], [0, 3])
    for sources, told in ((["d"], "no usable row has source 'd'"), (["c" * 100_000], "no usable row has source 'ccc")):
        with pytest.raises(InstructMineError, match=told):
            load(Dataset.from_dict(rows), "source", sources)
    with pytest.raises(InstructMineError, match=r"^row 2 has no source: fill the column 'source'"):
        load(Dataset.from_dict({**rows, "source": ["a", "a", None, "b", None]}), "source", None)


def walked(tokens: np.ndarray, keys: np.ndarray, budget: int) -> list[int]:
    """Rows in descending order of their keys until one does not fit; then again and again the longest that does."""
    order = sorted(range(len(keys)), key=lambda row: -keys[row])
    taken: list[int] = []
    while len(taken) < len(order) and tokens[order[len(taken)]] <= budget:
        taken.append(order[len(taken)])
        budget -= tokens[taken[-1]]
    left = order[len(taken) :]
    while fits := [row for row in left if 0 < tokens[row] <= budget]:
        best = max(fits, key=lambda row: tokens[row])
        left.remove(best)
        taken.append(best)
        budget -= tokens[best]
    return sorted(taken)


def pool_of(tokens: np.ndarray) -> ScoredPool:
    return ScoredPool.load(
        Dataset.from_dict({"output_length": tokens, "reward": np.arange(len(tokens)) / 7}),
        None, None, ["reward"], None, SubsetSize(None, int(tokens.max())),
    )  # fmt: skip


@pytest.mark.parametrize("ties", [False, True])
def test_a_subset_of_tokens_is_that_of_a_walk_over_the_whole_pool(ties):
    for case in range(150):
        rng = np.random.default_rng(case)
        tokens = rng.integers(case % 2, rng.integers(2, 200), size=400)
        keys = rng.integers(5, size=400).astype(float) if ties else rng.gumbel(size=400) - case % 3 * np.log1p(tokens)
        keys[rng.random(400) < 0.1] = -np.inf
        budget = int(rng.integers(1, tokens.sum()))
        assert SubsetSize(None, budget).take(pool_of(tokens), keys).tolist() == walked(tokens, keys, budget)


def test_a_subset_of_tokens_puts_no_more_rows_into_order_than_it_needs(monkeypatch):
    tokens = np.random.default_rng(0).integers(1, 200, size=50_000)
    pool, sorted_rows = pool_of(tokens), []
    pool.by_tokens  # noqa: B018 - once a pool
    plain = np.argsort
    monkeypatch.setattr(np, "argsort", lambda a, **options: sorted_rows.append(len(a)) or plain(a, **options))
    subset = SubsetSize(None, 10_000).draw(pool, np.zeros(50_000), np.random.default_rng(1))
    assert 9_900 < tokens[subset].sum() <= 10_000
    assert sum(sorted_rows) < 3 * len(subset) + 100


class TestLargerThanIsDrawnFrom:
    @pytest.fixture
    def large(self, monkeypatch) -> Dataset:
        """3,000 rows, 500 of which stand in for all."""
        monkeypatch.setattr(scored_pool, "POOL_ROWS", 500)
        rng = np.random.default_rng(0)
        rows = {"source": rng.choice(["a", "b"], 3000), "reward": rng.normal(size=3000)}
        return Dataset.from_dict({**rows, "mtld": rng.normal(size=3000), "output_length": rng.integers(1, 9, 3000)})

    def test_subsets_come_from_random_rows_and_the_mixtures_and_the_report_say_which(self, large):
        with pytest.warns(UserWarning, match=r"drawn from 500 of 3,000 rows, taken at random \(seed 7\)"):
            mixtures = design_mixtures(large, 12, subset_size=40, num_candidates=60, seed=7)
        drawn = {row for indices in mixtures["indices"] for row in indices}
        part = ScoredPool.load(large, "source", None, None, None, SubsetSize(40, None), seed=7)
        assert drawn <= set(part.rows.tolist()) and len(part.rows) == 500
        assert 1300 < np.mean(part.rows) < 1700
        assert get_provenance(mixtures)["method"] == {"rows": 500, "of": 3000, "seed": 7}
        report = design_report(mixtures, large, seed=7)
        assert report.drawn_from == {"rows": 500, "of": 3000, "seed": 7} and report.pool_rows == 3000
        assert "judged on 500 of the 3,000 rows, taken at random (seed 7)" in str(report)

    def test_a_large_subset_has_more_rows_to_choose_among(self, large):
        for size in (SubsetSize(200, None), SubsetSize(None, 900)):
            assert len(ScoredPool.load(large, "source", None, None, None, size).rows) == pytest.approx(2000, rel=0.05)
        assert len(ScoredPool.load(large, "source", None, None, None, SubsetSize(2900, None)).rows) == 3000

    def test_another_seed_takes_other_rows(self, large):
        parts = [
            ScoredPool.load(large, "source", None, None, None, SubsetSize(40, None), seed).rows.tolist()
            for seed in (0, 0, 1)
        ]
        assert parts[0] == parts[1] != parts[2]

    def test_a_source_without_a_row_among_them_is_named(self, large):
        sources = ["a"] * 2999 + ["rare"]
        rare = large.remove_columns("source").add_column("source", sources)
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            found = {
                tuple(ScoredPool.load(rare, "source", None, None, None, SubsetSize(40, None), seed).sources)
                for seed in range(20)
            }
        assert found == {("a",), ("a", "rare")}
        assert "source 'rare' is so rare that none of its rows can be drawn" in str(noted[0].message)

    def test_a_smaller_pool_says_nothing_of_it(self, large):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mixtures = design_mixtures(large.select(range(500)), 12, subset_size=40, num_candidates=60)
        assert "method" not in get_provenance(mixtures)
        assert design_report(mixtures, large.select(range(500))).drawn_from == {}
