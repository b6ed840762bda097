"""Neighbours among vectors, against scikit-learn; what an index of faiss finds, against all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scikit_neighbors import by_scikit_learn

from hf_instructmine import InstructMineError
from hf_instructmine.models import neighbors as nearest
from hf_instructmine.models.neighbors import approximate_distances, neighbor_distances


def random_vectors(rows: int, dimensions: int = 16, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("rows", [8, 1024, 2500])
@pytest.mark.parametrize("i", [1, 6])
def test_distances_are_those_of_scikit_learn(rows, i):
    pool, queries = random_vectors(rows), random_vectors(30, seed=1)
    np.testing.assert_allclose(neighbor_distances(pool, i), by_scikit_learn(pool, i), atol=2e-7)
    np.testing.assert_allclose(neighbor_distances(pool, i, queries), by_scikit_learn(pool, i, queries), atol=2e-7)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(1, 8), st.integers(1, 16), st.integers(0, 5))
def test_the_size_of_a_block_changes_nothing(rows, i, block, seed):
    i = min(i, rows - 1)
    # Sorted along a line, later blocks are ever nearer for some rows and never for others.
    pool = random_vectors(rows, dimensions=3, seed=seed)
    pool = pool[pool[:, 0].argsort()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_BLOCK", block)
        among, asked = neighbor_distances(pool, i), neighbor_distances(pool, i, random_vectors(9, 3, seed=9))
    np.testing.assert_allclose(among, by_scikit_learn(pool, i), atol=3e-7)
    np.testing.assert_allclose(asked, by_scikit_learn(pool, i, random_vectors(9, 3, seed=9)), atol=3e-7)


def test_embeddings_of_rows_without_a_response_are_refused():
    pool = random_vectors(5)
    pool[2] = np.nan
    with pytest.raises(InstructMineError, match="leave those rows out"):
        neighbor_distances(pool, 1)


def test_a_pool_in_half_precision_is_searched_as_if_written_out():
    half = random_vectors(2500).astype(np.float16)
    assert (neighbor_distances(half, 6) == neighbor_distances(half.astype(np.float32), 6)).all()
    assert (neighbor_distances(half[::2], 6) == neighbor_distances(half[::2].copy(), 6)).all()


def test_equal_vectors_are_at_exactly_zero_and_nothing_is_negative():
    pool = np.concatenate([random_vectors(40)] * 3)
    assert (neighbor_distances(pool, 2) == 0).all()
    assert (neighbor_distances(pool, 3) > 0).all()
    crowded = np.concatenate([np.repeat(random_vectors(1), 60, axis=0), random_vectors(5, seed=1)])
    assert (neighbor_distances(crowded, 6)[:60] == 0).all()


def test_opposite_vectors_are_at_two():
    pool = np.array([[1, 0], [-1, 0]], np.float32)
    assert neighbor_distances(pool, 1).tolist() == [2.0, 2.0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=12), st.data())
def test_counts_stand_for_copies(counts, data):
    i = data.draw(st.integers(1, sum(counts) - 1))
    distinct = random_vectors(len(counts), dimensions=4)
    written_out = neighbor_distances(np.repeat(distinct, counts, axis=0), i)
    counted = neighbor_distances(distinct, i, counts=np.array(counts))
    np.testing.assert_allclose(np.repeat(counted, counts), written_out, atol=1e-7)


@pytest.mark.parametrize("i", [0, 5])
def test_a_neighbour_that_is_not_there_is_refused(i):
    with pytest.raises(InstructMineError, match=f"i={i} asks for a neighbour that is not there"):
        neighbor_distances(random_vectors(5), i)


def test_hnsw_finds_nearly_all(monkeypatch):
    pytest.importorskip("faiss", reason="pip install hf-instructmine[faiss]")
    pool = random_vectors(3000, dimensions=32)
    found = neighbor_distances(pool, 6, approximate=True)
    assert np.mean(np.isclose(found, neighbor_distances(pool, 6), atol=1e-6)) > 0.98


@pytest.mark.parametrize("lists_from", [1_000_000, 100])
def test_what_an_index_finds_is_measured(monkeypatch, lists_from, caplog):
    pytest.importorskip("faiss", reason="pip install hf-instructmine[faiss]")
    monkeypatch.setattr(nearest, "_LISTS_FROM", lists_from)
    monkeypatch.setattr(nearest, "_PROBED", 5)
    pool, counts = random_vectors(3000, dimensions=32).astype(np.float16), np.ones(3000, int)
    found, recall = approximate_distances(pool, 6, counts)
    exact = neighbor_distances(pool, 6)
    assert (found >= exact - 1e-6).all()
    # A row's distance is right where all six were found, and hardly ever otherwise.
    right = np.isclose(found, exact, atol=1e-6).mean()
    assert right - 0.03 <= recall <= 1 and recall**6 < right + 0.2
    assert recall > 0.98 if lists_from > 3000 else 0.1 < recall < 0.9
    assert f"recall@6 is {recall:.3f} on 1,000 rows" in caplog.text
