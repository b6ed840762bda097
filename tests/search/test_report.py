"""What is said of a size search, held against curves whose best size is known."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError, LossEstimator, size_report
from hf_instructmine.search.curve import fit_size_curve
from hf_instructmine.search.report import against_random


def load_simulations():
    path = Path(__file__).parents[2] / "benchmarks" / "size_search_simulations.py"
    spec = importlib.util.spec_from_file_location("size_search_simulations", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


simulations = load_simulations()
CURVES = simulations.CURVES


def reports(name: str, searches: int, share: float = 0.25):
    noise = simulations.noise_of(CURVES[name], share)
    for seed in range(searches):
        yield size_report(simulations.simulated_trials(CURVES[name], noise, seed))


@pytest.fixture(scope="module")
def trials() -> Dataset:
    return simulations.simulated_trials(CURVES["two basins"], 0.005, 0)


# --- The ranges ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["two basins", "two basins, the larger better"])
def test_the_ranges_hold_the_best_of_two_basins_in_at_least_90_of_100_searches(name):
    best = simulations.optimum(CURVES[name])
    found = list(reports(name, 100))
    assert sum(any(low <= best <= high for low, high in report.ranges) for report in found) >= 90
    # And they say something: on the average less than a quarter of the sizes, on a log scale.
    assert np.mean([report.curve.share for report in found]) < 0.25
    assert all(report.place == "inside" for report in found)


def test_basins_that_are_nearly_equal_give_two_ranges():
    two = [r for r in reports("two basins, nearly equal", 20) if len(r.ranges) == 2]
    assert len(two) >= 5
    for report in two:
        (_, first_high), (second_low, _) = report.ranges
        assert first_high < 4500 < second_low + 1000
        assert " and " in report.words()


def test_an_optimum_at_the_edge_is_said_to_be_there():
    for report in reports("falling", 20):
        assert report.place == "largest" and report.ranges[-1][1] == 10_000
        assert "At the largest size tried: the optimum may lie beyond" in str(report)
    rising = simulations.simulated_trials(lambda sizes: -CURVES["falling"](sizes), 0.004, 0)
    assert size_report(rising).place == "smallest"


def test_of_a_flat_curve_no_size_is_told_apart():
    found = list(reports("flat", 20))
    assert sum(report.place == "anywhere" for report in found) >= 18
    assert np.mean([report.curve.share for report in found]) > 0.95
    assert "No size can be told apart from the best" in str(found[0])


def test_the_true_curve_is_inside_the_band_and_the_noise_is_found():
    x = np.repeat(np.geomspace(100, 10_000, 9), 3)
    outside = []
    for seed in range(10):
        losses = (np.log(x) - 7) ** 2 / 20 + 0.01 * np.random.default_rng(seed).normal(size=len(x))
        curve = fit_size_curve(x.round(), losses)
        truth = (np.log(curve.sizes) - 7) ** 2 / 20
        outside.append(np.mean((truth < curve.low) | (truth > curve.high)))
        assert 0.006 < curve.noise < 0.015
        assert curve.minimal.sum() == pytest.approx(1) and curve.as_good.max() == 1
    assert np.mean(outside) < 0.1


def test_more_confidence_takes_more_sizes(trials):
    shares = [size_report(trials, confidence=level).curve.share for level in (0.5, 0.9, 0.99)]
    assert shares == sorted(shares) and shares[0] < shares[2]


# --- The rest -----------------------------------------------------------------------------------------------------


def test_the_noise_is_that_of_the_seeds(trials):
    report = size_report(trials)
    groups = [
        [r["loss_simulated"] for r in trials if (r["kind"], r["strategy"], r["size"]) == ("grid", "selected", size)]
        for size in (512, 1076, 2263, 4757, 10_000)
    ]
    assert report.pure_error == pytest.approx(np.sqrt(np.mean([np.var(g, ddof=1) for g in groups])))
    assert report.pure_error_df == 10


def test_selected_is_compared_with_random_at_each_size(trials):
    report = size_report(trials)
    assert [c.size for c in report.comparisons] == [512, 1076, 2263, 4757, 10_000]
    assert all(c.told_apart and c.verdict == "selected lower" and c.seeds == (3, 3) for c in report.comparisons)
    first = report.comparisons[0]
    assert first.difference == pytest.approx(first.selected - first.random)
    same = trials.map(lambda row: {"strategy": ["random", "selected"][row["trial"] % 2] if row["trial"] < 30 else ""})
    assert sum(c.told_apart for c in size_report(same).comparisons) == 0
    assert report.equal_steps == [] and report.full_pool is None


def test_the_selected_set_counts_as_one_more_random_set():
    sizes, seeds, of_rows = (100, 400), 0.001, 0.1  # SD between seeds; of one row
    losses = {"selected": [2.0, 2.0 + seeds * np.sqrt(2)], "random": [-1, 0, 1]}
    rows = [{"kind": "full", "strategy": "full", "size": 1000, "loss": 2.0}]
    for size in sizes:
        spread = np.sqrt(seeds**2 + of_rows**2 * (1 / size - 1 / 1000))
        for strategy, values in losses.items():
            found = values if strategy == "selected" else [2.1 + spread * value for value in values]
            rows += [{"kind": "grid", "strategy": strategy, "size": size, "loss": loss} for loss in found]
    for c in against_random(rows, "grid", "loss", 0.95):
        spread = seeds**2 + of_rows**2 * (1 / c.size - 1 / 1000)
        assert c.standard_error == pytest.approx(np.sqrt(spread * (1 + 1 / 3)))
    # More seeds of the one set make it no surer.
    more = [*rows, *(row for row in rows if row["strategy"] == "selected")]
    assert against_random(more, "grid", "loss", 0.95)[0].standard_error > 0.8 * c.standard_error


@pytest.mark.parametrize(("sets", "seeds"), [(0.0, 0.005), (0.005, 0.005), (0.01, 0.0005)])
def test_without_an_effect_at_most_one_search_of_twenty_tells_any_size_apart(sets, seeds):
    before, after = simulations.false_verdicts(sets, seeds, pool=10_000, searches=400)
    assert after <= 0.06
    assert before > 0.2 or not sets  # where repeated finetunes of one set were taken for several


def test_it_prints_the_whole_history_and_draws_a_figure(trials, tmp_path):
    report = size_report(trials)
    text = str(report)
    assert text.startswith("Size search: 50 runs, 0 failed; ")
    assert sum(line.split()[1:2] in (["grid"], ["search"]) for line in text.splitlines()) == 50
    assert f"Best single trial: {report.incumbent['size']:,} rows" in text
    assert report.incumbent["loss_simulated"] == min(r["loss_simulated"] for r in trials if r["kind"] == "search")
    assert "shown to give a lower loss than random ones at 5 of 5 sizes, as one set against the random ones." in text
    report.save_figure(tmp_path / "figures" / "size.png")
    assert (tmp_path / "figures" / "size.png").read_bytes().startswith(b"\x89PNG")


def test_the_name_of_an_evaluation_set_is_text_in_the_figure(trials, tmp_path):
    hostile = "loss_$\\frac{1$"  # which fails where it is read as mathematics
    size_report(trials.rename_column("loss_simulated", hostile)).save_figure(tmp_path / "size.png")
    assert (tmp_path / "size.png").stat().st_size > 10_000


def test_what_was_searched_besides_is_told_and_kept_out_of_the_curve(trials):
    rows = [{**row, "rate": 1e-3 if row["kind"] == "grid" else 1e-2} for row in trials]
    names = trials.column_names
    place = names.index("size") + 1
    table = Dataset.from_list(rows).select_columns([*names[:place], "rate", *names[place:]])
    report = size_report(table)
    assert "rate=0.01" in str(report)
    only_grid = trials.filter(lambda row: row["kind"] == "grid")
    assert np.array_equal(report.curve.mean, size_report(only_grid).curve.mean)


def test_failed_runs_are_counted_and_left_out(trials):
    def fail(row):
        bad = row["trial"] in (0, 40)
        return {"status": "failed" if bad else "done", "reason": "it broke" if bad else ""}

    report = size_report(trials.remove_columns("reason").map(fail))
    assert "50 runs, 2 failed" in str(report) and "failed: it broke" in str(report)
    assert report.comparisons[0].seeds == (2, 3)


def test_what_is_no_search_is_refused(trials):
    with pytest.raises(InstructMineError, match="no trials of search_size: 'kind' is missing"):
        size_report(trials.remove_columns("kind"))
    with pytest.raises(InstructMineError, match="the target 'loss_other' is not among the trials' loss_simulated"):
        size_report(trials, "loss_other")
    with pytest.raises(InstructMineError, match="runs of 4 different sizes do not show a curve: 5 sizes are needed"):
        size_report(trials.filter(lambda row: row["kind"] == "grid" and row["size"] < 10_000))
    with pytest.raises(InstructMineError, match="confidence must be between 0 and 1, not 95"):
        size_report(trials, confidence=95)
    with pytest.raises(InstructMineError, match="a loss is not finite"):
        fit_size_curve([1, 2, 3, 4, 5], [1.0, 1.0, 1.0, 1.0, np.nan])


def test_what_the_rule_is_worth_is_its_first_paragraph(trials):
    rule = LossEstimator.from_coefficients({"mtld": 1.0})
    text = str(size_report(trials, rule=rule))
    assert text.startswith(
        "The rule hand-set is hand-set: nothing is known of how well it predicts. Compare its choice"
    )
    assert text.partition("\n\n")[2] == str(size_report(trials))
