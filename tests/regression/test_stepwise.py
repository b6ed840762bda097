"""The best set of each size against the slow way: one regression at a time."""

import itertools

import numpy as np
import pytest

from hf_instructmine.regression import stepwise
from hf_instructmine.regression.stepwise import best_of_each_size


N, CANDIDATES, FORCED, LONGEST = 50, 9, 2, 7
FREE = [None] * CANDIDATES


@pytest.fixture
def data(monkeypatch) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two columns in every set, nine correlated candidates, two targets, three training sets and what they leave out.
    Five candidates are compared in every way."""
    monkeypatch.setattr(stepwise, "SCREENED", 5)
    rng = np.random.default_rng(0)
    candidates = rng.normal(size=(N, CANDIDATES)) @ (np.eye(CANDIDATES) + 0.4 * rng.normal(size=(CANDIDATES,) * 2))
    x = np.column_stack([np.ones(N), rng.normal(size=N), candidates])
    y = x[:, [3]] - x[:, [6]] + rng.normal(size=(N, 2))
    training = np.where(rng.random((3, N)) < 0.8, rng.integers(1, 3, (3, N)), 0).astype(float)
    return x, y, training, np.where(training == 0, 1.5, 0.0)


def fitted(x, y, weights, held_out, chosen) -> tuple[float, float]:
    """Residual sum of squares, and squared error of what is held out."""
    columns = [*range(FORCED), *(FORCED + c for c in sorted(chosen))]
    root = np.sqrt(weights)
    beta = np.linalg.lstsq(root[:, None] * x[:, columns], root * y, rcond=None)[0]
    error = (y - x[:, columns] @ beta) ** 2
    return weights @ error, held_out @ error


def members(bits: int) -> set[int]:
    return {c for c in range(CANDIDATES) if bits >> c & 1}


def slow_path(x, y, weights, requires) -> list[set[int]]:
    """Forward selection, and every set of its first five candidates."""

    def rss(chosen) -> float:
        return fitted(x, y, weights, weights, chosen)[0]

    def complete(chosen) -> bool:
        return all(requires[c] is None or requires[c] in chosen for c in chosen)

    order: list[int] = []
    for _ in range(LONGEST):
        steps = [c for c in range(CANDIDATES) if c not in order and complete([*order, c])]
        order.append(min(steps, key=lambda c: rss([*order, c])))
    small = [[c for c in itertools.combinations(order[:5], k) if complete(c)] for k in range(6)]
    return [*(set(min(sets, key=rss)) for sets in small), *(set(order[:k]) for k in range(6, LONGEST + 1))]


@pytest.mark.parametrize("requires", [FREE, [*FREE[:-2], 1, 4]], ids=["free", "squares"])
def test_each_size_has_the_set_its_residuals_and_its_errors_of_single_regressions(data, requires):
    x, y, training, held_out = data
    path = best_of_each_size(x, y, FORCED, requires, LONGEST, training, held_out)
    for s, m in itertools.product(range(3), range(2)):
        for k, best in enumerate(slow_path(x, y[:, m], training[s], requires)):
            assert members(path.sets[k, s, m]) == best
            expected = fitted(x, y[:, m], training[s], held_out[s], best)
            assert (path.rss[k, s, m], path.errors[k, s, m]) == pytest.approx(expected)


def test_a_problem_does_not_hang_on_those_beside_it(data, monkeypatch):
    x, y, training, held_out = data
    together = best_of_each_size(x, y, FORCED, FREE, LONGEST, training, held_out)
    monkeypatch.setattr(stepwise, "_BLOCK", 2)
    apart = best_of_each_size(x, y, FORCED, FREE, LONGEST, training, held_out)
    np.testing.assert_array_equal(together.sets, apart.sets)
    np.testing.assert_allclose(together.errors, apart.errors)


def test_every_set_is_compared_where_they_are_few():
    # Two that are best only in company: forward selection begins with the third column, and keeps it.
    a, b, noise, other = np.random.default_rng(1).normal(size=(4, N))
    x = np.column_stack([np.ones(N), other, a, a + 0.3 * b, b + 0.5 * noise])
    path = best_of_each_size(x, b[:, None], FORCED, [None] * 3, 3, np.ones((1, N)))
    assert members(path.sets[1, 0, 0]) == {2}
    assert members(path.sets[2, 0, 0]) == {0, 1}
    assert path.rss[2, 0, 0] == pytest.approx(0, abs=1e-9) and path.errors is None


def test_sizes_that_no_set_has_are_infinitely_bad(data):
    x, y, training, held_out = data
    x = np.column_stack([x[:, :4], x[:, 2], x[:, 2] + x[:, 3]])  # two of the four candidates say all
    path = best_of_each_size(x, y, FORCED, [None] * 4, 4, training, held_out)
    assert np.isfinite(path.rss[:3]).all() and np.isfinite(path.errors[:3]).all()
    assert np.isinf(path.rss[3:]).all() and np.isinf(path.errors[3:]).all()
    assert all(bin(bits).count("1") <= 2 for bits in path.sets.ravel())
