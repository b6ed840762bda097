"""The figure of a card is a PNG twice as wide as the 700 pixels it is shown at, whatever the predictions are."""

import struct
import warnings

import numpy as np
import pytest

from hf_instructmine.selection.figures import draw_predicted_log_loss, plot_predicted_log_loss


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "pool, selected",
    [
        (RNG.normal(size=1000), np.array([-1.0, -0.5])),
        (np.array([0.3, np.nan, 0.5, -np.inf]), np.array([0.3])),
        (np.zeros(10), np.zeros(3)),
        (np.array([2.0]), np.array([2.0])),
        (np.append(RNG.normal(size=1000), 1e9), np.append(RNG.normal(size=9), 1e9)),
        (np.array([1e15, 1e15 + 1]), np.array([1e15])),
    ],
    ids=["usual", "unscored", "constant", "single", "outlier", "huge"],
)
def test_draws(pool, selected, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_predicted_log_loss(pool, selected, tmp_path / "figure.png")
    png = (tmp_path / "figure.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">I", png[16:20]) == (1400,)


def test_what_the_rule_is_worth_stands_above_its_predictions():
    pool, worth = RNG.normal(size=100), "The rule's held-out R² is −0.48 (95 % −1.00 to 0.20)"
    assert draw_predicted_log_loss(pool, pool[:9], worth).get_suptitle() == worth
    assert draw_predicted_log_loss(pool, pool[:9], "").axes[1].get_xlabel().startswith("← better")
