from functools import partial

import numpy as np
import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError
from hf_instructmine.data.provenance import set_provenance
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
