import re

import numpy as np
import pytest
from datasets import Dataset
from sklearn.neighbors import NearestNeighbors

from hf_instructmine import InstructMineError, LossEstimator
from hf_instructmine.data.columns import indicator_names
from hf_instructmine.data.provenance import get_provenance, set_provenance
from hf_instructmine.sweep.design_report import design_report
from hf_instructmine.sweep.mixtures import d_optimal, design_mixtures, spread_replicates


METHODS = ("dirichlet", "tilted", "d-optimal")


@pytest.fixture(scope="module")
def pool() -> Dataset:
    """600 rows of three sources that differ in length; mtld is mostly length, reward varies inside the sources."""
    rng = np.random.default_rng(0)
    source = rng.choice(["alpaca", "dolly", "lima"], size=600, p=[0.5, 0.3, 0.2])
    length = np.exp(rng.normal(3 + 0.8 * (source == "lima"), 0.6)).astype(int) + 1
    return Dataset.from_dict(
        {
            "prompt": ["…"] * 600,
            "source": source,
            "output_length": length,
            "reward": rng.normal(size=600),
            "mtld": 20 * np.log(length) + rng.normal(scale=5, size=600),
        }
    )


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(600, 16)) + 2 * rng.normal(size=(6, 16))[rng.integers(6, size=600)]
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def means(mixtures: Dataset, columns=("output_length", "reward", "mtld")) -> np.ndarray:
    return np.column_stack([mixtures[name] for name in columns])


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_subsets_are_distinct_rows_of_the_pool(self, pool, method):
        mixtures = design_mixtures(pool, 8, subset_size=50, method=method, num_candidates=40)
        for row in mixtures:
            assert len(set(row["indices"])) == len(row["indices"]) == row["subset_size"] == 50
            assert row["indices"] == sorted(row["indices"])
            assert set(row["indices"]) <= set(range(len(pool)))
            assert row["method"] == method

    def test_means_shares_and_tokens_are_those_of_the_rows(self, pool, method):
        for row in design_mixtures(pool, 5, subset_size=50, method=method, num_candidates=40):
            subset = pool.select(row["indices"])
            for name in ("output_length", "reward", "mtld"):
                assert row[name] == pytest.approx(np.mean(subset[name]))
            assert row["subset_tokens"] == sum(subset["output_length"])
            for source, share in row["proportions"].items():
                assert share == pytest.approx(np.mean(np.array(subset["source"]) == source))

    def test_the_seed_decides_everything(self, pool, embeddings, method):
        pool = pool.add_column("knn_3", np.linspace(0, 1, 600))

        def design(seed):
            return design_mixtures(
                pool, 6, subset_size=50, method=method, embeddings=embeddings, num_candidates=40, seed=seed
            )

        assert design(3).to_dict() == design(3).to_dict()
        assert design(3)["indices"][:] != design(4)["indices"][:]

    def test_a_token_budget_is_kept_and_used_up(self, pool, method):
        lengths = np.array(pool["output_length"])
        for row in design_mixtures(pool, 6, subset_tokens=1500, method=method, num_candidates=40):
            left_out = np.delete(lengths, row["indices"])
            assert row["subset_tokens"] == lengths[row["indices"]].sum()
            assert 1500 - left_out.min() < row["subset_tokens"] <= 1500

    def test_replicates_are_the_same_subset_with_another_training_seed(self, pool, method):
        mixtures = design_mixtures(pool, 7, subset_size=50, method=method, replicates=3, num_candidates=40)
        assert len(mixtures) == 10
        first = {row["mixture_id"]: row for row in mixtures.select(range(7))}
        assert len(first) == 7 and next(iter(first)) == "mixture-000"
        for row in mixtures.select(range(7, 10)):
            original = first[row["mixture_id"]]
            assert row["indices"] == original["indices"] and row["reward"] == original["reward"]
            assert row["seed"] != original["seed"]
        assert len(set(mixtures["seed"])) == 10

    def test_rows_with_nan_are_never_drawn_and_counted(self, pool, method):
        reward = np.array(pool["reward"])
        reward[:200] = np.nan
        broken = pool.remove_columns("reward").add_column("reward", reward)
        with pytest.warns(UserWarning, match="200 of 600 rows"):
            mixtures = design_mixtures(broken, 6, subset_size=50, method=method, num_candidates=40)
        assert min(min(indices) for indices in mixtures["indices"]) >= 200


def test_tilts_spread_means_within_one_source_where_random_rows_cannot(pool):
    alpaca = pool.filter(lambda row: row["source"] == "alpaca")
    spread = {
        method: means(design_mixtures(alpaca, 24, subset_size=50, method=method, replicates=0)).std(axis=0)
        for method in ("dirichlet", "tilted")
    }
    chance = np.std(means(alpaca), axis=0) / np.sqrt(50)
    assert (spread["dirichlet"] < 1.5 * chance).all()
    assert (spread["tilted"] > 3 * chance).all()


def test_a_pool_may_be_one_unnamed_source(pool):
    mixtures = design_mixtures(pool.remove_columns("source"), 3, subset_size=50, source_column=None, replicates=0)
    assert mixtures["proportions"][0] == {"pool": 1.0}


def test_only_the_sources_asked_for_are_drawn(pool):
    mixtures = design_mixtures(pool, 4, subset_size=50, sources=["dolly", "lima"], num_candidates=20)
    drawn = {pool["source"][index] for indices in mixtures["indices"] for index in indices}
    assert drawn == {"dolly", "lima"} == set(mixtures["proportions"][0])


class TestSetLevelDistance:
    @pytest.fixture(scope="class")
    def scored(self, pool):
        scored = pool.add_column("knn_6", np.random.default_rng(2).uniform(size=600))
        return set_provenance(scored, {"knn_6": {"model": "tiny", "i": 6}, "reward": {"model": "judge"}})

    @pytest.mark.parametrize("size", [50, 550])  # above 512 candidates are measured on some rows, chosen ones on all
    def test_is_measured_inside_the_subset(self, scored, embeddings, size):
        for row in design_mixtures(scored, 4, subset_size=size, embeddings=embeddings, num_candidates=20):
            inside = embeddings[row["indices"]].astype(np.float64)
            distances, _ = NearestNeighbors(n_neighbors=7, metric="cosine").fit(inside).kneighbors(inside)
            assert row["knn_6"] == pytest.approx(distances[:, 6].mean(), abs=1e-6)
            assert row["pool_knn_6"] == pytest.approx(np.mean(scored.select(row["indices"])["knn_6"]))

    def test_keeps_only_the_pools_without_embeddings_and_says_so(self, scored):
        with pytest.warns(UserWarning, match="knn_6.*embeddings"):
            mixtures = design_mixtures(scored, 4, subset_size=50, num_candidates=20)
        assert "pool_knn_6" in mixtures.column_names and "knn_6" not in mixtures.column_names

    def test_carries_the_pools_provenance(self, scored, embeddings):
        mixtures = design_mixtures(scored, 4, subset_size=50, embeddings=embeddings, num_candidates=20)
        assert get_provenance(mixtures) == get_provenance(scored)
        assert indicator_names(scored) == ["output_length", "reward", "mtld", "knn_6"]
        assert set(indicator_names(mixtures)) == {*indicator_names(scored), "pool_knn_6"}

    def test_needs_more_rows_than_neighbours(self, scored, embeddings):
        with pytest.raises(InstructMineError, match="6 rows has no 6-th neighbour"):
            design_mixtures(scored, 4, subset_size=6, embeddings=embeddings)

    def test_needs_an_embedding_of_every_row(self, scored, embeddings):
        with pytest.raises(InstructMineError, match="one row for each of 600"):
            design_mixtures(scored, 4, subset_size=50, embeddings=embeddings[:10])
        with pytest.raises(InstructMineError, match="row 5 is zero or NaN"):
            design_mixtures(
                scored, 4, subset_size=50, embeddings=np.where(np.arange(600)[:, None] == 5, 0, embeddings)
            )


class TestDOptimal:
    def log_det(self, candidates, chosen):
        z = (candidates - candidates.mean(axis=0)) / candidates.std(axis=0)
        x = np.column_stack([np.ones(len(chosen)), z[chosen]])
        return np.linalg.slogdet(x.T @ x)[1]

    def test_beats_the_best_of_many_random_designs(self):
        rng = np.random.default_rng(0)
        candidates = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5))
        chosen, _ = d_optimal(candidates, 12, restarts=3)
        drawn = [self.log_det(candidates, rng.choice(300, 12, replace=False)) for _ in range(2000)]
        assert len(set(chosen.tolist())) == 12
        assert self.log_det(candidates, chosen) > max(drawn) + 1

    def test_no_swap_lowers_the_determinant_and_its_updates_are_exact(self):
        candidates = np.random.default_rng(1).normal(size=(200, 4))
        chosen, trace = d_optimal(candidates, 10, restarts=1)
        assert len(trace) > 5 and (np.diff(trace) > 0).all()
        assert trace[-1] == pytest.approx(self.log_det(candidates, chosen), abs=0.01)

    def test_finds_the_known_optimum_of_a_square(self):
        grid = np.array([(a, b) for a in (-1, -0.5, 0, 0.5, 1) for b in (-1, -0.5, 0, 0.5, 1)])
        chosen, _ = d_optimal(grid, 4)
        assert {tuple(point) for point in grid[chosen]} == {(-1, -1), (-1, 1), (1, -1), (1, 1)}

    def test_designs_the_other_directions_where_columns_are_collinear(self):
        x = np.random.default_rng(2).normal(size=(200, 3))
        alone, _ = d_optimal(x, 8)
        twice, _ = d_optimal(np.column_stack([x, x[:, 0]]), 8)
        assert self.log_det(x, twice) == pytest.approx(self.log_det(x, alone), abs=0.3)


class TestReport:
    @pytest.fixture(scope="class")
    def designs(self, pool):
        return {method: design_mixtures(pool, 16, subset_size=50, method=method) for method in METHODS}

    def test_d_optimal_sees_more_than_random_designs(self, pool, designs):
        report = {method: design_report(designs[method], pool) for method in METHODS}
        assert report["d-optimal"].log_det > report["tilted"].log_det > report["dirichlet"].log_det
        assert report["d-optimal"].max_vif < report["dirichlet"].max_vif
        assert report["dirichlet"].indicators["reward"].spread_over_noise == pytest.approx(1, abs=0.5)
        assert report["d-optimal"].indicators["reward"].spread_over_noise > 4

    def test_figures_are_those_of_a_plain_regression(self, pool, designs):
        report = design_report(designs["tilted"], pool, pure_error=0.002)
        x = (means(designs["tilted"]) - np.mean(means(pool), axis=0)) / np.std(means(pool), axis=0)
        a = np.column_stack([np.ones(len(x)), x])
        errors = 0.002 * np.sqrt(np.diag(np.linalg.inv(a.T @ a)))[1:]
        vifs = np.diag(np.linalg.inv(np.corrcoef(x, rowvar=False)))
        assert report.log_det == pytest.approx(np.linalg.slogdet(a.T @ a)[1])
        assert [row.standard_error for row in report.indicators.values()] == pytest.approx(errors)
        assert [row.vif for row in report.indicators.values()] == pytest.approx(vifs)
        assert report.num_mixtures == 16 and report.num_replicates == 4

    def test_names_the_directions_that_sources_cannot_tell_apart(self, pool, designs):
        report = design_report(designs["dirichlet"], pool)
        assert any(direction.startswith("+1.00 reward") for direction in report.unseen)
        assert "cannot see: +1.00 reward" in str(report)
        assert design_report(designs["d-optimal"], pool).unseen == []

    def test_warns_where_selections_lie_outside_the_design(self, pool, designs):
        report = design_report(designs["dirichlet"], pool)
        assert report.extrapolation > 0.9
        assert any("extrapolation" in warning and "reward" in warning for warning in report.warnings)
        low, high = report.indicators["reward"].selected_range
        best = np.sort(pool["reward"])
        assert best[:50].mean() <= low < 0 < high <= best[-50:].mean()

    def test_says_that_mtld_of_short_text_is_length(self, pool, designs):
        assert any("length in disguise" in warning for warning in design_report(designs["tilted"], pool).warnings)

    def test_a_rule_tells_the_spread_over_the_noise(self, pool, designs):
        rule = LossEstimator.from_coefficients({"reward": -0.01})
        report = design_report(designs["d-optimal"], pool, rule=rule, pure_error=0.002)
        _, first = np.unique(designs["d-optimal"]["mixture_id"], return_index=True)
        spread = np.std(np.array(designs["d-optimal"]["reward"])[first], ddof=1)
        assert report.spread_to_noise == pytest.approx(0.01 * spread / 0.002)
        weak = design_report(designs["dirichlet"], pool, rule=rule, pure_error=0.002)
        assert any("times the pure error" in warning for warning in weak.warnings)
        assert any("the rule's own selection" in warning for warning in weak.warnings)

    def test_collinear_indicators_are_infinite_not_a_crash(self, pool):
        twice = pool.add_column("naturalness", np.array(pool["reward"]) * 2)
        report = design_report(design_mixtures(twice, 12, subset_size=50, num_candidates=60), twice)
        assert report.log_det == -np.inf
        assert report.indicators["reward"].vif == report.indicators["naturalness"].vif == np.inf
        assert any("reward" in direction and "naturalness" in direction for direction in report.unseen)

    def test_set_level_indicators_need_their_embeddings(self, pool, embeddings):
        scored = pool.add_column("knn_6", np.linspace(0, 1, 600))
        mixtures = design_mixtures(scored, 8, subset_size=50, embeddings=embeddings, num_candidates=40)
        assert "knn_6" in design_report(mixtures, scored, embeddings=embeddings).indicators
        with pytest.raises(InstructMineError, match="embeddings"):
            design_report(mixtures, scored)

    def test_few_runs_are_warned_of(self, pool):
        report = design_report(design_mixtures(pool, 3, subset_size=50, replicates=0), pool)
        assert any("need 6 mixtures" in warning for warning in report.warnings)
        assert any("no replicates" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("change", "request_", "message"),
    [
        ({}, {"subset_size": None}, "exactly one of subset_size"),
        ({}, {"subset_tokens": 100}, "exactly one of subset_size"),
        ({}, {"subset_size": 0}, "positive"),
        ({}, {"subset_size": None, "subset_tokens": -5}, "positive"),
        ({}, {"subset_size": 600}, "subset_size=600 leaves nothing to choose among the 600 usable rows of the pool"),
        ({}, {"subset_size": 590, "sources": ["lima"]}, "usable rows of source 'lima'"),
        ({}, {"subset_size": None, "subset_tokens": 10**9}, "subset_tokens=1000000000 must lie between"),
        ({}, {"num_runs": 0}, "num_runs=0"),
        ({}, {"replicates": 9}, "replicates=9 must lie between 0 and num_runs=8"),
        ({}, {"method": "best"}, "'best' is unknown"),
        ({}, {"num_candidates": 4}, "fewer than num_runs=8"),
        ({}, {"source_column": "origin"}, "no source column 'origin'.*source_column=None"),
        ({}, {"sources": ["gsm8k"]}, "no usable row has source 'gsm8k'"),
        ({}, {"sources": []}, "empty list"),
        ({}, {"indicators": ["rewards"]}, "no column 'rewards'"),
        ({}, {"indicators": ["prompt"]}, "column 'prompt' holds string, not numbers"),
        ({"reward": [1.0] * 600}, {}, "'reward' is the same in every row"),
        ({"reward": [float("nan")] * 600}, {}, "all 600 rows"),
        ({"source": [None] * 600}, {}, "row 0 has no source"),
        ({"output_length": None}, {"subset_size": None, "subset_tokens": 100}, "'output_length'"),
        ({"output_length": None, "reward": None, "mtld": None}, {}, "no indicator column"),
    ],
)
def test_bad_requests_are_one_clear_line(pool, change, request_, message):
    for name, column in change.items():
        pool = pool.remove_columns(name)
        pool = pool if column is None else pool.add_column(name, column)
    with pytest.raises(InstructMineError, match=message) as raised:
        design_mixtures(pool, **({"num_runs": 8, "subset_size": 50} | request_))
    assert "\n" not in str(raised.value)


def test_an_empty_pool_is_refused(pool):
    with pytest.raises(InstructMineError, match="the pool is empty"):
        design_mixtures(pool.select([]), 2, subset_size=1)


def test_the_report_prints_one_line_per_indicator(pool):
    text = str(design_report(design_mixtures(pool, 8, subset_size=50, num_candidates=40), pool))
    assert all(re.search(rf"^{name} ", text, re.MULTILINE) for name in ("output_length", "reward", "mtld"))


def test_replicates_are_spread_over_the_whole_range_so_that_their_noise_is_that_of_all():
    ratios = []
    for seed in range(100):
        means = np.random.default_rng(seed).normal(size=(24, 3))
        distance = (means**2).sum(axis=1)
        ratios.append(distance[spread_replicates(means, 4)].mean() / distance.mean())
    assert np.median(ratios) == pytest.approx(1.0, abs=0.15)
    assert len(set(spread_replicates(means, 24))) == 24
    assert len(spread_replicates(means, 0)) == 0
