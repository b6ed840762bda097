"""What repeated mixtures tell of the noise, where all are equally noisy and where they are not."""

import numpy as np
import pytest
from simulated_runs import simulated_runs

from hf_instructmine import LossEstimator
from hf_instructmine.regression.diagnostics import Diagnostics
from hf_instructmine.regression.replicates import (
    added_terms_p,
    lack_of_fit,
    noise_ceiling,
    own_noise_p,
    replicate_spreads,
    unequal_noise_p,
)


def drawn(
    seed: int, spread: float, bent: float = 0.0, replicates: int = 4
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Regressors, target and mixtures of 24 mixtures and some replicates; the mixtures' noise is log-normal."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(24, 3))
    of = np.concatenate([np.arange(24), np.argsort(-(z**2).sum(1))[:4]])
    sd = np.exp(spread * rng.normal(size=24))
    noise = (sd / np.sqrt((sd**2).mean()))[of] * rng.normal(size=len(of))
    y = (z @ [1, 0.5, -0.5] + bent * z[:, 0] ** 2)[of] + 0.25 * noise
    return np.column_stack([np.ones(len(of)), z[of]]), y, of


def called_unfit(spread: float, bent: float = 0.0) -> tuple[float, float]:
    """How often a rule is called unfit: by the F test, and by both tests, as the summary does."""
    found = []
    for seed in range(200):
        x, y, of = drawn(seed, spread, bent)
        found.append(lack_of_fit(x, y, np.ones(len(y)), of))
    p = np.array([[f["p"], f["own_noise_p"]] for f in found])
    return float((p[:, 0] < 0.05).mean()), float((p < 0.05).all(axis=1).mean())


@pytest.mark.parametrize("spread", [0.0, 1.0, 1.5])
def test_a_straight_line_is_not_called_unfit_where_mixtures_are_unequally_noisy(spread):
    f_alone, both = called_unfit(spread)
    assert both <= 0.05
    assert f_alone > 0.2 or spread == 0.0, "the F test takes all mixtures as equally noisy"


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_a_bent_line_is_called_unfit(spread):
    assert called_unfit(spread, bent=0.8)[1] > 0.5


def test_each_repeated_mixture_is_listed_with_its_spread():
    mixtures = np.array([0, 1, 0, 2, 1, 3])
    spreads = replicate_spreads(np.array([1.0, 5.0, 1.2, 3.0, 5.1, 9.0]), mixtures)
    assert [pair["runs"] for pair in spreads] == [[0, 2], [1, 4]]
    assert [pair["sd"] for pair in spreads] == pytest.approx([0.2 / np.sqrt(2), 0.1 / np.sqrt(2)])
    assert [pair["share"] for pair in spreads] == pytest.approx([0.8, 0.2])


def test_a_pair_is_called_noisier_in_5_of_100_draws_where_it_is_not():
    rng = np.random.default_rng(0)
    of = np.concatenate([np.arange(12), np.arange(6), [0, 1]])
    p = [unequal_noise_p(replicate_spreads(rng.normal(size=20), of)) for _ in range(1000)]
    assert 0.02 < (np.array(p) < 0.05).mean() < 0.07
    loud = rng.normal(size=20)
    loud[17] += 30
    assert unequal_noise_p(replicate_spreads(loud, of)) < 0.001


def test_equal_replicates_leave_the_noise_unknown():
    x, y, of = drawn(0, 0.0)
    y = y[:24][of]
    assert noise_ceiling(y, of) == {"ceiling": None, "interval": None, "sd": None}
    assert lack_of_fit(x, y, np.ones(28), of) is None and own_noise_p(x, y, np.ones(28), of) is None
    assert unequal_noise_p(replicate_spreads(y, of)) is None
    assert [pair["sd"] for pair in replicate_spreads(y, of)] == [0.0] * 4


def test_a_line_without_error_has_no_test():
    x, _, _ = drawn(0, 0.0)
    assert added_terms_p(x, x[:, 1:] ** 2, x @ [1.0, 2.0, 3.0, 4.0], np.ones(28)) is None


def test_the_summary_says_whose_noise_it_is():
    options = {"indicators": ["reward", "mtld"], "select": "none", "permutations": 0, "bootstraps": 10}
    runs = simulated_runs(n=28, replicates=4, noise=0.002)
    calm = " ".join(LossEstimator.fit(runs, **options).summary().split())
    assert calm.count("runs 3 and 27 sd ") == 1 and "if all mixtures are equally noisy" in calm
    assert "noisier than the others" not in calm
    runs.loc[27, "loss_self_instruct"] *= 1.2
    loud = " ".join(LossEstimator.fit(runs, **options).summary().split())
    assert "runs 3 and 27 sd 0.1" in loud and "The first of them is noisier than the others" in loud
    assert "What is attainable is not known: 100% of the replicates' noise is that of runs 3 and 27." in loud


def test_the_summary_says_that_equal_replicates_tell_nothing():
    runs = simulated_runs(n=24, replicates=4)
    runs["loss_self_instruct"] = runs.groupby("mixture_id")["loss_self_instruct"].transform("first")
    rule = LossEstimator.fit(runs, indicators=["reward", "mtld"], select="none", permutations=0, bootstraps=10)
    d, words = rule.diagnostics, " ".join(rule.summary().split())
    assert d.noise_ceiling is d.lack_of_fit is d.noise_sd is None
    assert "not known: the runs of each repeated mixture are equal" in words
    assert "does not fit" not in words and "perfect rule" not in words
    assert Diagnostics.from_dict(d.to_dict()) == d
    # An earlier version saved a ceiling of 1 and an F without end.
    d.noise_ceiling, d.noise_ceiling_interval, d.noise_sd = 1.0, [1.0, 1.0], 0.0
    d.lack_of_fit = {"f": 8e28, "p": 0.0, "df_lack": 17, "df_pure": 4}
    words = " ".join(rule.summary().split())
    assert "does not fit" not in words and "perfect rule" not in words and "1.000 …" not in words
