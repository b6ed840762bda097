"""Set-level selection: each row by its distance to the rows chosen so far."""

import numpy as np
import pytest
from datasets import Dataset

from hf_instructmine import LossEstimator, Selector
from hf_instructmine.models.neighbors import cosine_distances, neighbor_distances
from hf_instructmine.selection.budget import Budget
from hf_instructmine.selection.ranking import SetRanking, neighbor_columns, price
from hf_instructmine.selection.walk import Terms


# Logged, squared, two neighbours, and a column that has nothing to do with them.
RULE = LossEstimator.from_coefficients(
    {"intercept": 1.0, "log(knn_3)": -0.2, "knn_3^2": 0.1, "knn_1": -0.3, "mtld": 0.02}, name="lonely"
)


def unit(rows: int, seed: int = 0, width: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def columns_of(embeddings: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    knn = {f"knn_{i}": neighbor_distances(embeddings, i) for i in (1, 3)}
    return {**knn, "mtld": rng.normal(size=len(embeddings))}


def inside(embeddings: np.ndarray, row: int, others: list[int], i: int) -> float:
    """Distance to the i-th nearest of the others, or the farthest while there are fewer."""
    distances = sorted(1 - float(embeddings[row].astype(float) @ embeddings[other]) for other in others)
    return distances[min(i, len(distances)) - 1]


def naive(columns: dict, embeddings: np.ndarray, size: int, lengths=None, level=None) -> list[int]:
    """One row after another, every distance anew."""
    taken = []
    for _ in range(size):
        values = dict(columns)
        if taken:
            values |= {
                f"knn_{i}": np.array([inside(embeddings, row, taken, i) for row in range(len(embeddings))])
                for i in (1, 3)
            }
        predicted = RULE.predict(values)
        ranked = predicted if level is None else (predicted - level) / lengths
        ranked[taken] = np.inf
        taken.append(int(np.nanargmin(ranked)))
    return taken


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 2, 3, 4, 15])
def test_it_is_the_greedy_choice(seed, size):
    embeddings = unit(40, seed)
    columns = columns_of(embeddings, seed)
    predicted, costs = RULE.predict(columns), np.ones(40)
    ranking = SetRanking(RULE, columns, embeddings, np.arange(40), predicted, costs, None)
    walk = Terms(Budget("size", size), costs).walk(ranking)
    assert walk.taken == naive(columns, embeddings, size)
    assert walk.taken[0] == predicted.argmin(), "the first row is that of the ordinary ranking"

    # What it says of the set is measured inside the set.
    if size > 1:
        others = [[other for other in walk.taken if other != row] for row in walk.taken]
        for i in (1, 3):
            expected = [inside(embeddings, row, rest, i) for row, rest in zip(walk.taken, others)]
            np.testing.assert_allclose(walk.distances[f"knn_{i}"], expected, atol=1e-5)
        values = {"mtld": columns["mtld"][walk.taken], **walk.distances}
        assert walk.mean == pytest.approx(RULE.predict(values).mean())
    else:
        assert walk.mean == pytest.approx(predicted.min())


def test_at_a_level_rows_compete_per_token():
    embeddings = unit(30)
    columns, lengths = columns_of(embeddings), np.random.default_rng(1).integers(5, 9, 30).astype(float)
    predicted, level = RULE.predict(columns), 1.0
    ranking = SetRanking(RULE, columns, embeddings, np.arange(30), predicted, lengths, level)
    taken = naive(columns, embeddings, 12, lengths, level)
    walk = Terms(Budget("tokens", int(lengths[taken].sum())), lengths).walk(ranking)
    assert walk.taken[:12] == taken
    assert walk.taken[0] == price(predicted, lengths, level).argmin()


def test_selector_chooses_by_distances_in_the_set():
    embeddings = unit(60)
    columns = columns_of(embeddings)
    scored = Dataset.from_dict(columns)
    selection = Selector(RULE, embeddings=3 * embeddings, set_level=True).select(scored, size=12)
    assert set(selection.indices) == set(naive(columns, embeddings, 12))
    assert (np.diff(selection.log_loss) >= 0).all(), "in the order of the column predicted_log_loss"
    assert selection.options == {"embeddings": (60, 5), "set_level": True}
    assert selection.skipped == {"embeddings": 0}


def test_of_two_that_are_lonely_together_one_is_chosen():
    rule = LossEstimator.from_coefficients({"knn_1": -1.0})
    degrees = np.array([0, 5, 60, 61, 62, 120, 121, 180, 181])
    embeddings = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1).astype(np.float32)
    scored = Dataset.from_dict({"knn_1": neighbor_distances(embeddings, 1)})
    plain = Selector(rule).select(scored, size=4)
    chosen = Selector(rule, embeddings=embeddings, set_level=True).select(scored, size=4)
    assert {0, 1} <= set(plain.indices)
    assert sorted(degrees[chosen.indices] // 60) == [0, 1, 2, 3]


@pytest.mark.parametrize("budget", [{"size": 30}, {"fraction": 0.1}, {"tokens": 600}])
def test_the_other_options_hold_too(budget):
    rng = np.random.default_rng(0)
    embeddings = unit(400, width=4)
    sources, lengths = rng.choice(["a", "b"], 400, p=[0.9, 0.1]).tolist(), rng.integers(5, 60, 400)
    scored = Dataset.from_dict({**columns_of(embeddings), "source": sources, "output_length": lengths})
    options = {"max_similarity": 0.9, "quotas": {"b": (0.3, 0.5)}, "length_bins": 2, "max_response_tokens": 50}
    selector = Selector(RULE, embeddings=embeddings, set_level=True, **options)
    selection, again = selector.select(scored, **budget), selector.select(scored, **budget)
    assert selection.indices.tolist() == again.indices.tolist()
    among = embeddings[selection.indices] @ embeddings[selection.indices].T - np.eye(selection.num_selected)
    assert among.max() <= 0.9 + 1e-5
    assert max(selection.dataset["output_length"]) <= 50
    weights = lengths[selection.indices] if "tokens" in budget else np.ones(selection.num_selected)
    total = {"size": 30, "fraction": 40, "tokens": 600}[next(iter(budget))]
    of_b = weights[np.array(selection.dataset["source"]) == "b"].sum()
    assert 0.3 * total - 6 < of_b <= 0.5 * total
    assert total - 6 < weights.sum() <= total


def test_in_small_pools_it_is_never_worse_than_the_ordinary_ranking():
    rule = LossEstimator.from_coefficients({"knn_1": -1.0, "mtld": 0.2})
    better = 0
    for seed in range(60):
        embeddings = unit(12, seed, width=3)
        columns = {"knn_1": neighbor_distances(embeddings, 1), "mtld": np.random.default_rng(seed).normal(size=12)}

        def inside(rows, embeddings=embeddings, columns=columns):
            return rule.predict(
                {"knn_1": neighbor_distances(embeddings[rows], 1), "mtld": columns["mtld"][rows]}
            ).mean()

        ordinary = inside(np.argsort(rule.predict(columns))[:5])
        ranking = SetRanking(rule, columns, embeddings, np.arange(12), rule.predict(columns), np.ones(12), None)
        greedy = inside(np.array(Terms(Budget("size", 5), np.ones(12)).walk(ranking).taken))
        selection = Selector(rule, embeddings=embeddings, set_level=True).select(Dataset.from_dict(columns), size=5)
        assert inside(selection.indices) == pytest.approx(min(ordinary, greedy), abs=1e-6)
        assert selection.set_log_loss == pytest.approx(min(ordinary, greedy), abs=1e-6)
        better += ordinary < greedy - 1e-6
    assert better > 0


def test_a_row_whose_distance_has_no_logarithm_is_passed_over():
    rule = LossEstimator.from_coefficients({"log(knn_1)": 1.0})
    embeddings = unit(6)
    embeddings[[1, 2]] = embeddings[0]
    scored = Dataset.from_dict({"knn_1": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]})
    chosen = Selector(rule, embeddings=embeddings, set_level=True).select(scored, size=4)
    assert len({0, 1, 2} & set(chosen.indices)) == 1
    with pytest.raises(Exception, match="2 have no prediction at their distance inside the set"):
        Selector(rule, embeddings=embeddings, set_level=True).select(scored, size=5)


def test_the_leverage_is_of_the_distances_inside_the_set():
    rng = np.random.default_rng(0)
    runs = {
        "mixture_id": [*"abcdefghijklmnopqrstuvwx"],
        "knn_1": rng.uniform(0.2, 0.4, 24),
        "mtld": rng.normal(size=24),
    }
    runs["loss_x"] = np.exp(1 - runs["knn_1"] + 0.1 * runs["mtld"] + rng.normal(0, 0.001, 24))
    rule = LossEstimator.fit(runs, target="loss_x", select="none", permutations=0, bootstraps=0)
    embeddings = unit(300)
    scored = Dataset.from_dict({"knn_1": neighbor_distances(embeddings, 1), "mtld": rng.normal(size=300)})
    selector = Selector(rule, embeddings=embeddings, set_level=True)
    selection = selector.select(scored, size=25, max_leverage=100)
    inner = neighbor_distances(embeddings[selection.indices], 1)
    expected = rule.leverage({"knn_1": inner, "mtld": np.array(selection.dataset["mtld"])})
    assert selection.leverage == pytest.approx(expected, rel=1e-3)
    assert selection.leverage != pytest.approx(rule.leverage(scored, selection.indices), rel=1e-3)


def test_which_columns_are_measured_inside_a_set():
    rule = LossEstimator.from_coefficients({"pool_knn_6": 1.0, "log(knn_2)": 1.0, "mtld": 1.0})
    assert neighbor_columns(rule) == {"knn_2": 2}


def test_equal_vectors_are_at_no_distance():
    vectors = unit(50, width=300)
    vectors[7] = vectors[3]
    distances = cosine_distances(vectors, vectors[3])
    assert distances[3] == distances[7] == 0
    np.testing.assert_allclose(distances, 1 - vectors.astype(float) @ vectors[3], atol=1e-6)


def squared_pool(seed: int, rows: int = 400) -> tuple[Dataset, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    values = {name: rng.normal(size=rows) for name in ("mtld", "reward")}
    lengths = rng.integers(5, 200, rows)
    return Dataset.from_dict({**values, "output_length": lengths}), values


@pytest.mark.parametrize("asked", [{"size": 20}, {"tokens": 2000}])
def test_a_square_does_not_take_both_tails(asked):
    scored, values = squared_pool(0)
    rule = LossEstimator.from_coefficients({"mtld": 0.0, "mtld^2": -1.0})
    selection = Selector(rule).select(scored, drop_duplicates=False, **asked)
    chosen = values["mtld"][selection.indices]
    assert (chosen > 0).all() or (chosen < 0).all()
    assert selection.set_log_loss == pytest.approx(-(chosen.mean() ** 2))
    assert selection.set_log_loss == pytest.approx(rule.predict_subset(scored, selection.indices).log_loss)
    assert f"Predicted log loss of the set: {selection.set_log_loss:.4f}\n" in selection.summary()
    if "size" in asked:
        ordered = np.sort(values["mtld"])
        assert abs(chosen.mean()) == pytest.approx(max(-ordered[:20].mean(), ordered[-20:].mean()))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "coefficients",
    [
        {"mtld": 0.3, "mtld^2": -0.4, "reward": -0.2},
        {"mtld^2": 0.5, "reward": -0.3},
        {"mtld^2": -0.3, "reward^2": 0.4},
    ],
)
def test_a_rule_with_squares_never_does_worse_than_row_by_row_or_at_random(seed, coefficients):
    scored, _ = squared_pool(seed)
    rule = LossEstimator.from_coefficients(coefficients)
    chosen = Selector(rule).select(scored, size=25, drop_duplicates=False).set_log_loss
    rng = np.random.default_rng(seed)
    others = [np.argsort(rule.predict(scored))[:25], *(rng.choice(400, 25, replace=False) for _ in range(50))]
    assert chosen <= min(rule.predict_subset(scored, rows).log_loss for rows in others) + 1e-12


def test_a_rule_without_squares_ranks_row_by_row_as_before():
    scored, _ = squared_pool(1)
    rule = LossEstimator.from_coefficients({"log(output_length)": 0.2, "reward": -0.3})
    selection = Selector(rule).select(scored, size=25, drop_duplicates=False)
    assert set(selection.indices) == set(np.argsort(rule.predict(scored))[:25])
    assert selection.set_log_loss == pytest.approx(rule.predict_subset(scored, selection.indices).log_loss)


def test_the_tangent_touches_the_rule():
    rule = LossEstimator.from_coefficients({"intercept": 0.5, "mtld": 0.2, "mtld^2": -0.3, "log(reward)": 0.7})
    at = {"mtld": np.array([1.5]), "reward": np.array([2.0])}
    tangent = rule.tangent(at)
    assert tangent.predict_means(at) == pytest.approx(rule.predict_means(at))
    for name in at:
        ahead, behind = ({**at, name: at[name] + step} for step in (1e-6, -1e-6))
        slope = (rule.predict_means(ahead) - rule.predict_means(behind)) / 2e-6
        assert tangent.coefficients[name] == pytest.approx(slope)
